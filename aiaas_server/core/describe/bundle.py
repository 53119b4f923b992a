"""What lies beside a model file and makes it a bundle: the card, its assets, and their task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import CARD_NAME, Assets, Card, read_card
from aiaas_server.core.describe.stored import StoredModel, StoredVersion
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.generation import GenerationLimits, Generator, OpenGenerator, Served
from aiaas_server.core.session import GraphFacts, Session, StopToken
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.core.task import AnyTask, OpenTask

_log = logging.getLogger("aiaas_server")

# Gives the bytes of a file beside a version, by its plain name; FileNotFoundError for none.
ReadBeside = Callable[[StoredModel, StoredVersion, str], bytes]


class Bundles:
    """Opens cards and tasks; blocking, used on the loading thread.

    Args:
        read: Reads a file beside a version.
        open_task: Makes the task that a card names.
        open_generator: Makes what writes, for cards with a `generation` part; without it such
            versions are refused.
    """

    def __init__(
        self,
        read: ReadBeside,
        open_task: OpenTask,
        open_generator: OpenGenerator | None = None,
    ) -> None:
        self._read = read
        self._open_task = open_task
        self._open_generator = open_generator

    def card(self, stored: StoredModel, version: StoredVersion) -> Card | None:
        """The version's card; None for a model that is tensors only.

        Raises:
            LoadFailed: There is a card and it is unusable.
        """
        try:
            content = self._read(stored, version, CARD_NAME)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LoadFailed(f"{CARD_NAME} cannot be read: {error.strerror}") from None
        card = read_card(content)
        return card if card.name else card.model_copy(update={"name": stored.told})

    def task(
        self,
        card: Card,
        stored: StoredModel,
        version: StoredVersion,
        signature: Signature,
        metadata: Mapping[str, str],
    ) -> AnyTask:
        """The task that the card names, over a model of that signature.

        Raises:
            LoadFailed: The task is unknown, or the card does not fit the model.
        """
        assets = Assets(lambda name: self._read(stored, version, name), card.assets)
        try:
            return self._open_task(card, assets, signature, metadata)
        except LoadFailed:
            raise
        except Exception as error:  # a third party's task may raise anything
            _log.exception("model '%s': opening task '%s' failed", stored.name, card.task)
            raise LoadFailed(f"task '{card.task}': {type(error).__name__}: {error}") from None

    def generator(
        self,
        card: Card,
        stored: StoredModel,
        version: StoredVersion,
        session: Session,
        served: Served,
        open_graph: Callable[[str], Session],
        limits: GenerationLimits,
    ) -> Generator:
        """What writes with a version whose card has a `generation` part.

        Raises:
            LoadFailed: The graph or an asset is not what that needs, or a library is missing.
        """
        if self._open_generator is None:
            raise LoadFailed(f"{CARD_NAME}: generation: this process generates nothing")
        assets = Assets(lambda name: self._read(stored, version, name), card.assets)
        return self._open_generator(card, assets, session, served, open_graph, limits)


class NoSession:
    """The session of a bundle without a model file: a pipeline, which runs other models."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    providers: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}
    graph = GraphFacts()

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], stop: StopToken | None = None
    ) -> list[Array]:
        """Refuse.

        Raises:
            InvalidInput: Always: there are no tensors.
        """
        raise InvalidInput("this model has no tensors of its own: call it by POST .../:predict")

    def close(self) -> None:
        """Nothing is held."""
