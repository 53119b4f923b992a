"""From a card and its files to a generator that has run: what is missing is said by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from aiaas_client.protocol.tensors import Array, dtype_of
from aiaas_server.core.describe.card import Assets, Card
from aiaas_server.core.errors import LoadFailed, OutOfMemory, ServerError
from aiaas_server.core.generation import Format, GenerationLimits, Served
from aiaas_server.core.session import Session
from aiaas_server.generate.chat import Chats
from aiaas_server.generate.chat_template import ChatTemplate
from aiaas_server.generate.engine import Engine, WritePrompt
from aiaas_server.generate.job import Follows
from aiaas_server.generate.network import Network
from aiaas_server.generate.networks import open_network
from aiaas_server.generate.pace import Pace
from aiaas_server.generate.settings import GenerationSettings, read_generation
from aiaas_server.generate.tools import marks_of
from aiaas_server.generate.vocabulary import Vocabulary
from aiaas_server.generate.writer import FillsMasks

if TYPE_CHECKING:
    from aiaas_server.generate.constraint import Grammars

_TRIED: Final = (8, 16, 64, 256)
"""Tokens of the pieces that are run at the load, so that their times are known."""
_USUAL_TEMPLATE: Final = GenerationSettings.model_fields["template"].default
_LONG: Final = 0.5  # seconds of a piece behind which no longer one is tried
_TRIES: Final = 3  # of a step: the first one also sets up what later ones find


def open_generator(
    card: Card,
    assets: Assets,
    session: Session,
    served: Served,
    open_graph: Callable[[str], Session],
    limits: GenerationLimits,
    pace: Pace | None = None,
) -> Engine:
    """See `core.generation.OpenGenerator`.

    Args:
        pace: What is known of the network's times; it learns more.
    """
    settings = read_generation(card.generation or {})
    text = _tokenizer(assets, settings)
    network = open_network(session, open_graph, settings, limits)
    try:
        _check_tokens(settings, network.vocabulary)
        vocabulary = formats = write_prompt = None
        if text is not None:
            vocabulary = Vocabulary.open(text, shown=marks_of(settings.tools))
            formats = _LazyFormats(text, network.vocabulary, settings)
            write_prompt = _chats(assets, settings, vocabulary, network.context, formats.matcher)
        pace = Pace() if pace is None else pace
        constants = _made_up(session, settings)
        if constants is not None:
            _try(network, pace, constants)
        return Engine(served, settings, network, limits, vocabulary, write_prompt, formats, pace)
    except BaseException:
        network.release()
        raise


class _LazyFormats:
    """`engine.Formats`: llguidance is imported, and the tokenizer read, with the first format."""

    def __init__(self, tokenizer: str, width: int, settings: GenerationSettings) -> None:
        self._tokenizer = tokenizer
        self._width = width
        self._end = settings.end
        self._making = threading.Lock()
        self._grammars: Grammars | None = None

    def matcher(self, format: Format) -> Follows:
        """What holds one answer to `format`."""
        with self._making:
            if self._grammars is None:
                from aiaas_server.generate.constraint import Grammars

                self._grammars = Grammars(self._tokenizer, self._width, self._end)
        return self._grammars.compile(format).matcher()

    def masks(self) -> FillsMasks:
        """What finds the tokens that matchers permit."""
        from aiaas_server.generate.constraint import Masks

        return Masks(self._width)


def _tokenizer(assets: Assets, settings: GenerationSettings) -> str | None:
    """The text of the tokenizer; None for a model that is given ids only."""
    return assets.read_text(settings.tokenizer) if settings.tokenizer else None


def _check_tokens(settings: GenerationSettings, width: int) -> None:
    """Refuse a card that names tokens which the model does not have."""
    for name in ("begin", "end", "suppress", "suppress_first"):
        for token in getattr(settings, name):
            if token >= width:
                raise LoadFailed(
                    f"model.json: generation: {name}: expected tokens below {width}, got {token}"
                )


def _made_up(session: Session, settings: GenerationSettings) -> dict[str, Array] | None:
    """Zeros for what requests bring; None where the graph leaves their shapes open."""
    found: dict[str, Array] = {}
    for spec in session.inputs:
        if spec.name in settings.constants:
            if -1 in spec.shape[1:]:
                return None
            found[spec.name] = np.zeros(spec.shape[1:], dtype_of(spec.datatype))
    return found if len(found) == len(settings.constants) else None


def _try(network: Network, pace: Pace, constants: Mapping[str, Array]) -> None:
    """Run steps and pieces of a prompt, and see what they take.

    Raises:
        LoadFailed: The model cannot do a step.
    """
    try:
        for _ in range(_TRIES):
            pace.stepped(1, _seconds_of_step(network, constants))
    except OutOfMemory:
        raise LoadFailed("a step has no room in the memory for keys and values") from None
    for size in _TRIED:
        if size + 2 < network.context:
            with suppress(OutOfMemory):
                seconds = _seconds_of_piece(network, size, constants)
                pace.filled(size, seconds)
                if seconds > _LONG:
                    return


def _seconds_of_step(network: Network, constants: Mapping[str, Array]) -> float:
    with _slot(network, 3, constants) as slot:
        network.extend(slot, [0], 0)  # a step has something behind it
        started = time.perf_counter()
        logits = network.step([slot], [0])
        seconds = time.perf_counter() - started
        _check_logits(logits, network.vocabulary)
        return seconds


def _seconds_of_piece(network: Network, size: int, constants: Mapping[str, Array]) -> float:
    with _slot(network, size + 2, constants) as slot:
        started = time.perf_counter()
        network.extend(slot, [0] * size, 0)
        return time.perf_counter() - started


@contextmanager
def _slot(network: Network, tokens: int, constants: Mapping[str, Array]) -> Iterator[int]:
    """A slot for a prompt of so many tokens; what fails there fails the load, but for memory."""
    try:
        network.open(0, [0] * tokens, constants)
        try:
            yield 0
        finally:
            network.close(0, remember=0)
    except (LoadFailed, OutOfMemory):
        raise
    except ServerError as error:
        raise LoadFailed(f"a step cannot be run: {error.message}") from None


def _check_logits(logits: Array, width: int) -> None:
    if logits.shape != (1, width):
        raise LoadFailed(f"a step: expected logits of shape {(1, width)}, got {logits.shape}")


def _chats(
    assets: Assets,
    settings: GenerationSettings,
    vocabulary: Vocabulary,
    context: int,
    check: Callable[[Format], object],
) -> WritePrompt | None:
    """What writes conversations; None for a model that has no template for them."""
    if not settings.template:
        return None
    if settings.template == _USUAL_TEMPLATE and not assets.has(settings.template):
        return None
    source = assets.read_text(settings.template)
    variables = {
        "bos_token": _name_of(settings.begin[:1], vocabulary),
        "eos_token": _name_of(settings.end[:1], vocabulary),
    }
    template = ChatTemplate(source, settings.template, variables)
    encode = partial(vocabulary.encode, most=context)
    return Chats(template, settings.tools, encode, check).prompt


def _name_of(token: Sequence[int], vocabulary: Vocabulary) -> str:
    return "".join(vocabulary.bytes_of(one).decode("utf-8", "replace") for one in token)
