"""One served model, called by name from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from aiaas_client._models.arrays import InfersArray
from aiaas_client._models.handle import KnownMetadata, told_metadata
from aiaas_client._models.predicts import AsyncPredicts
from aiaas_client._models.writes import Writes
from aiaas_client._send.core import async_drive
from aiaas_client._send.flavours import Tasks
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import AsyncWhole, WithRawResponse

if TYPE_CHECKING:
    from collections.abc import Coroutine  # noqa: F401  # named in the base classes below

    from aiaas_client._api.generation import Generation  # noqa: F401  # in bases below
    from aiaas_client._api.inference import InferResult
    from aiaas_client._bulk.batcher import AsyncBatcher  # noqa: F401  # named in the base classes below
    from aiaas_client._bulk.plan import BulkOptions, BulkPlan, Tensors
    from aiaas_client._errors import AiaasError  # noqa: F401  # named in the base classes below
    from aiaas_client._models.arrays import ArrayCall
    from aiaas_client._models.infers import InferOptions
    from aiaas_client._models.streams import AsyncGenerationStream  # noqa: F401  # in bases below
    from aiaas_client._send.sender import (  # named in the base classes below
        AsyncSender,
        AsyncStream,  # noqa: F401
    )
    from aiaas_client.protocol.generation import (  # noqa: F401  # in bases below
        Completion,
        Transcription,
    )
    from aiaas_client.protocol.messages import (  # noqa: F401  # named in the base classes below
        ModelMetadata,
        ModelStatistics,
    )


@with_own_names
class AsyncModel(
    AsyncPredicts,
    InfersArray[
        "Coroutine[Any, Any, InferResult]",
        AsyncIterable[object] | Iterable[object] | Mapping[str, object],
        "AsyncGenerator[InferResult, None]",
        "AsyncGenerator[InferResult | AiaasError, None]",
        "AsyncBatcher",
    ],
    Writes[
        "Coroutine[Any, Any, dict[str, Any]]",
        "Coroutine[Any, Any, list[ModelStatistics]]",
        "Coroutine[Any, Any, bool]",
        "AsyncStream[dict[str, Any]]",
        Tasks,
        "Coroutine[Any, Any, Generation[None]]",
        "AsyncGenerationStream[Completion]",
        "Coroutine[Any, Any, Transcription]",
        "Coroutine[Any, Any, str]",
    ],
):
    """One served model, on an event loop; get it with `client.model(name, version)`.

    The metadata is fetched with the first call that needs it and kept; it is fetched again when a
    call looks wrong by it, so that a model updated on the server keeps working here.
    """

    _drive = staticmethod(async_drive)
    _batcher = "AsyncBatcher"
    _flavour = Tasks

    def __init__(self, sender: AsyncSender, name: str, version: str | int | None = None) -> None:
        super().__init__(name, version, sender.facts)
        self._sender = sender
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def metadata(self) -> ModelMetadata:
        """The model's inputs and outputs, from the cache if they were fetched before.

        Raises:
            NotSupportedError: this server has no model metadata.
        """
        return told_metadata((await self._known(self._sender)).metadata, self.name)

    async def refresh(self) -> ModelMetadata:
        """Fetch the metadata again, cheaply when the server says that it is unchanged."""
        return await async_drive(self._refresh(), self._sender.send)

    async def _known(self, sender: AsyncSender) -> KnownMetadata:
        if self._known_metadata is not None:
            return self._known_metadata
        async with self._own_lock():  # so that many tasks ask once
            known: KnownMetadata | None = self._known_metadata  # another one may have been first
            if known is None:
                known = await async_drive(self._fetch_metadata(), sender.send)
            return known

    def _own_lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # a lock belongs to the loop it was first waited for on
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock

    async def _run_first(
        self,
        inputs: object,
        arrays: Mapping[str, object],
        options: InferOptions,
        sender: AsyncSender,
        *,
        item: bool,
    ) -> InferResult:
        known = await self._known(sender)
        steps = self._infer(inputs, arrays, options, known, item=item, fresh=True)
        return await async_drive(steps, sender.send)

    async def _bulk_plan(self, bulk: BulkOptions) -> BulkPlan:
        await self._known(self._sender)
        async with self._own_lock():  # the configuration, too, is asked for once
            return await async_drive(self._plan(bulk), self._sender.send)

    async def _run_array(self, call: ArrayCall) -> InferResult:
        from aiaas_client._bulk.runners import run_tasks

        async with self._own_lock():
            steps = self._plan(call.bulk, fresh=True)
            plan = await async_drive(steps, call.limited(self._sender).send)
        work, result = call.work(plan)

        async def send(tensors: Tensors) -> InferResult:
            sender = call.limited(self._sender)
            return await self._post(call.options, plan.metadata, tensors, sender)

        async for _ in run_tasks(work, send):  # it hands nothing out
            pass
        return result()

    def _run_many(
        self, items: Any, bulk: BulkOptions, options: InferOptions
    ) -> AsyncGenerator[Any, None]:
        from aiaas_client._bulk.items import async_items_of, length_of
        from aiaas_client._bulk.runners import Work, run_tasks

        async def work() -> AsyncGenerator[Any, None]:
            plan = await self._bulk_plan(bulk)
            source = async_items_of(items, plan, rows=bulk.rows)
            one = Work.of_items(plan, bulk, source, length_of(items))
            running = run_tasks(one, partial(self._post, options, plan.metadata))
            try:
                async for outcome in running:
                    yield outcome
            finally:
                await running.aclose()

        return work()

    @property
    def with_raw_response(self) -> RawAsyncModel:
        """The same calls, giving the whole answer: status, headers, bytes and `.parse()`."""
        return RawAsyncModel(self, self._sender)


class RawAsyncModel(WithRawResponse):
    """The calls of a model that are one request, each giving its whole answer."""

    metadata = AsyncWhole(AsyncModel.metadata)
    refresh = AsyncWhole(AsyncModel.refresh)
    infer = AsyncWhole(AsyncModel.infer)
    infer_one = AsyncWhole(AsyncModel.infer_one)
    predict = AsyncWhole(AsyncModel.predict)
    explain: AsyncWhole[..., Any] = AsyncWhole(AsyncModel.explain)
    generate: AsyncWhole[..., Any] = AsyncWhole(AsyncModel.generate)
    transcribe: AsyncWhole[..., Any] = AsyncWhole(AsyncModel.transcribe)
    config = AsyncWhole(AsyncModel.config)
    statistics = AsyncWhole(AsyncModel.statistics)
    ready = AsyncWhole(AsyncModel.ready)
