"""One served model, called by name from threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterable, Generator, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from aiaas_client._errors import InputError
from aiaas_client._models.arrays import InfersArray
from aiaas_client._models.handle import KnownMetadata, told_metadata
from aiaas_client._models.predicts import ThreadPredicts
from aiaas_client._models.writes import Writes
from aiaas_client._send.core import drive
from aiaas_client._send.flavours import Threads
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import Whole, WithRawResponse

if TYPE_CHECKING:
    from aiaas_client._api.generation import Generation  # noqa: F401  # in bases below
    from aiaas_client._api.inference import InferResult
    from aiaas_client._bulk.batcher import Batcher  # noqa: F401  # named in the base classes below
    from aiaas_client._bulk.plan import BulkOptions, BulkPlan, Tensors
    from aiaas_client._errors import AiaasError  # noqa: F401  # named in the base classes below
    from aiaas_client._models.arrays import ArrayCall
    from aiaas_client._models.infers import InferOptions
    from aiaas_client._models.streams import GenerationStream  # noqa: F401  # in bases below
    from aiaas_client._send.sender import Sender, Stream  # noqa: F401  # named in the base classes below
    from aiaas_client.protocol.generation import (  # noqa: F401  # in bases below
        Completion,
        Transcription,
    )
    from aiaas_client.protocol.messages import (  # noqa: F401  # named in the base classes below
        ModelMetadata,
        ModelStatistics,
    )


@with_own_names
class Model(
    ThreadPredicts,
    InfersArray[
        "InferResult",
        Iterable[object] | Mapping[str, object],
        "Generator[InferResult, None, None]",
        "Generator[InferResult | AiaasError, None, None]",
        "Batcher",
    ],
    Writes[
        dict[str, Any],
        "list[ModelStatistics]",
        bool,
        "Stream[dict[str, Any]]",
        Threads,
        "Generation[None]",
        "GenerationStream[Completion]",
        "Transcription",
        str,
    ],
):
    """One served model, for threads; get it with `client.model(name, version)`.

    The metadata is fetched with the first call that needs it and kept; it is fetched again when a
    call looks wrong by it, so that a model updated on the server keeps working here.
    """

    _drive = staticmethod(drive)
    _batcher = "Batcher"
    _flavour = Threads

    def __init__(self, sender: Sender, name: str, version: str | int | None = None) -> None:
        super().__init__(name, version, sender.facts)
        self._sender = sender
        self._lock = threading.Lock()

    def metadata(self) -> ModelMetadata:
        """The model's inputs and outputs, from the cache if they were fetched before.

        Raises:
            NotSupportedError: this server has no model metadata.
        """
        return told_metadata(self._known(self._sender).metadata, self.name)

    def refresh(self) -> ModelMetadata:
        """Fetch the metadata again, cheaply when the server says that it is unchanged."""
        return drive(self._refresh(), self._sender.send)

    def _known(self, sender: Sender) -> KnownMetadata:
        if self._known_metadata is not None:
            return self._known_metadata
        with self._lock:  # so that many threads ask once
            known: KnownMetadata | None = self._known_metadata  # another one may have been first
            if known is None:
                known = drive(self._fetch_metadata(), sender.send)
            return known

    def _run_first(
        self,
        inputs: object,
        arrays: Mapping[str, object],
        options: InferOptions,
        sender: Sender,
        *,
        item: bool,
    ) -> InferResult:
        steps = self._infer(inputs, arrays, options, self._known(sender), item=item, fresh=True)
        return drive(steps, sender.send)

    def _bulk_plan(self, bulk: BulkOptions) -> BulkPlan:
        self._known(self._sender)
        with self._lock:  # the configuration, too, is asked for once
            return drive(self._plan(bulk), self._sender.send)

    def _run_array(self, call: ArrayCall) -> InferResult:
        from aiaas_client._bulk.runners import run_threads

        if isinstance(call.value, AsyncIterable):
            text = f"model {self.name!r}: asynchronous blocks are for the model of an AsyncClient"
            raise InputError(text, model=self.name)
        with self._lock:
            plan = drive(self._plan(call.bulk, fresh=True), call.limited(self._sender).send)
        work, result = call.work(plan)

        def send(tensors: Tensors) -> InferResult:
            return self._post(call.options, plan.metadata, tensors, call.limited(self._sender))

        deque(run_threads(work, send), maxlen=0)  # it hands nothing out
        return result()

    def _run_many(
        self, items: Any, bulk: BulkOptions, options: InferOptions
    ) -> Generator[Any, None, None]:
        from aiaas_client._bulk.items import items_of, length_of
        from aiaas_client._bulk.runners import Work, run_threads

        def work() -> Generator[Any, None, None]:
            plan = self._bulk_plan(bulk)
            source = items_of(items, plan, rows=bulk.rows)
            one = Work.of_items(plan, bulk, source, length_of(items))
            yield from run_threads(one, partial(self._post, options, plan.metadata))

        return work()

    @property
    def with_raw_response(self) -> RawModel:
        """The same calls, giving the whole answer: status, headers, bytes and `.parse()`."""
        return RawModel(self, self._sender)


class RawModel(WithRawResponse):
    """The calls of a model that are one request, each giving its whole answer."""

    metadata = Whole(Model.metadata)
    refresh = Whole(Model.refresh)
    infer = Whole(Model.infer)
    infer_one = Whole(Model.infer_one)
    predict = Whole(Model.predict)
    explain: Whole[..., Any] = Whole(Model.explain)
    generate: Whole[..., Any] = Whole(Model.generate)
    transcribe: Whole[..., Any] = Whole(Model.transcribe)
    config = Whole(Model.config)
    statistics = Whole(Model.statistics)
    ready = Whole(Model.ready)
