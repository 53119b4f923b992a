"""One served model, called by name from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from aiaas_client import _calls as calls
from aiaas_client._errors import AiaasError
from aiaas_client._handle import (
    DEFAULT_BYTES,
    KEPT_FAILURES,
    Ask,
    Classification,
    Given,
    Handle,
    Scalar,
    Signature,
    Steps,
    limits_of_call,
    make_ask,
    told_metadata,
)
from aiaas_client._tasks import AsyncPredicts

if TYPE_CHECKING:
    from aiaas_client._async_client import AsyncClient
    from aiaas_client._batcher import AsyncBatcher
    from aiaas_client._bulk import BulkPlan
    from aiaas_client._progress import Report
    from aiaas_client._result import InferResult
    from aiaas_client.protocol.messages import ModelMetadata, ModelStatistics
    from aiaas_client.protocol.tensors import Array

T = TypeVar("T")


class AsyncModel(AsyncPredicts, Handle):
    """One served model, on an event loop; get it with `client.model(name, version)`.

    The metadata is fetched with the first call that needs it and kept; it is fetched again when a
    call looks wrong by it, so that a model updated on the server keeps working here.
    """

    def __init__(self, client: AsyncClient, name: str, version: str | int | None = None) -> None:
        super().__init__(name, version, client._facts)
        self._client = client
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def infer(
        self,
        inputs: object = None,
        /,
        *,
        outputs: str | Sequence[str] | None = None,
        classification: Classification = 0,
        parameters: Mapping[str, Scalar] | None = None,
        priority: int = 0,
        queue_timeout: float | None = None,
        request_id: str = "",
        binary: bool | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        **arrays: object,
    ) -> InferResult:
        """Run the model once, on a whole batch where it takes batches.

        Args:
            inputs: A mapping of input name to value (needed for inputs named like an option
                below), the value of a model's only input, or a data frame with a column for
                each input.
            outputs: Names of the outputs wanted; all by default.
            classification: Ask for the best k classes as `value:index[:label]` texts instead of
                the tensor: k for all wanted outputs, or k by output name.
            parameters: Request parameters for the model.
            priority: 1 is the highest; 0 leaves it to the model.
            queue_timeout: Longest wait in the server's queue, seconds.
            request_id: An id to send along and to check in the answer.
            binary: Send tensors as bytes (True) or JSON (False); by default bytes where the
                server reads them.
            timeout: Seconds for each phase of a request, instead of the client's.
            deadline: Seconds for the whole call with its retries, instead of the client's.
            arrays: Inputs by name: arrays, numbers, lists, text, anything with `__array__`.
        Raises:
            InputError: the inputs do not fit the model; nothing was sent.
            AiaasError: anything else; `aiaas_client._errors` draws the whole tree.
        """
        ask = make_ask(
            outputs, classification, parameters, priority, queue_timeout, request_id, binary
        )
        limits = limits_of_call(timeout, deadline)
        return await self._run(Given(inputs, arrays), ask, limits, item=False)

    async def infer_one(
        self,
        inputs: object = None,
        /,
        *,
        outputs: str | Sequence[str] | None = None,
        classification: Classification = 0,
        parameters: Mapping[str, Scalar] | None = None,
        priority: int = 0,
        queue_timeout: float | None = None,
        request_id: str = "",
        binary: bool | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        **arrays: object,
    ) -> InferResult:
        """As `infer` for a single item: the batch dimension is added, and taken off the answer.

        A model whose inputs have no batch dimension gets the values as they are.
        """
        ask = make_ask(
            outputs, classification, parameters, priority, queue_timeout, request_id, binary
        )
        limits = limits_of_call(timeout, deadline)
        return await self._run(Given(inputs, arrays), ask, limits, item=True)

    @overload
    def infer_many(
        self,
        items: AsyncIterable[object] | Iterable[object] | Mapping[str, object],
        /,
        *,
        rows: bool = False,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
        max_rows: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: Literal["raise"] = "raise",
        kept_failures: int = KEPT_FAILURES,
        progress: bool | Report = False,
    ) -> AsyncGenerator[InferResult, None]: ...

    @overload
    def infer_many(
        self,
        items: AsyncIterable[object] | Iterable[object] | Mapping[str, object],
        /,
        *,
        rows: bool = False,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
        max_rows: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: Literal["return"],
        kept_failures: int = KEPT_FAILURES,
        progress: bool | Report = False,
    ) -> AsyncGenerator[InferResult | AiaasError, None]: ...

    def infer_many(
        self,
        items: AsyncIterable[object] | Iterable[object] | Mapping[str, object],
        /,
        *,
        rows: bool = False,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
        max_rows: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: Literal["raise", "return"] = "raise",
        kept_failures: int = KEPT_FAILURES,
        progress: bool | Report = False,
    ) -> AsyncGenerator[InferResult | AiaasError, None]:
        """Run the model on each of many items, a few requests for all of them.

        Items of equal shapes share requests. The input is read lazily: never further ahead of
        what was handed out than `concurrency + 1` full requests. Closing the generator early ends
        the work and cancels what is in flight.

        Args:
            items: Any iterable or asynchronous iterable: each item a mapping of input name to
                value without the batch dimension, or the value of the model's only input. Or a
                mapping of input name to arrays of equal length, or a data frame, whose rows are
                the items.
            rows: Each item is a block of rows with its batch dimension; its result has as many.
            outputs, parameters, binary: As for `infer`.
            max_rows: Rows in a request; the model's `max_batch_size` by default, 64 where the
                server does not tell, 1 where the model promises no batching.
            max_bytes: Tensor bytes in a request; a larger item travels alone.
            concurrency: Requests in flight at once.
            ordered: Results in the order of the items; False hands them out as they come. Either
                way `result.index` (and `error.index`) tells the item.
            on_error: "raise" leaves failed items out and raises at the end; "return" puts the
                item's error in its place.
            kept_failures: Errors that the `BulkError` at the end holds; the others are counted.
            progress: True shows a bar on a terminal; a callable gets `(done, total or None)`.
        Raises:
            BulkError: at the end, some items failed: `.failures` has their errors by index.
            AuthenticationError, PermissionDeniedError, NotFoundError: at once.
        """
        from aiaas_client import _bulk
        from aiaas_client._progress import open_progress

        ask = make_ask(outputs, 0, parameters, 0, None, "", binary)
        _bulk.check(max_rows, max_bytes, concurrency, kept_failures)

        async def work() -> AsyncGenerator[InferResult | AiaasError, None]:
            plan = await self._bulk_plan(max_rows, max_bytes, rows=rows)
            core = _bulk.BulkCore(plan, concurrency=concurrency, ordered=ordered, rows=rows)
            failures = _bulk.Failures(self.name, keep=on_error == "raise", most=kept_failures)
            shown = open_progress(progress, _bulk.length_of(items), self.name)
            source = _bulk.async_items_of(items, plan, rows=rows)

            async def send(arrays: dict[str, Array]) -> InferResult:
                return await self._post(arrays, ask, plan.metadata)

            running = _bulk.run_tasks(core, source, send, failures, shown)
            try:
                async for outcome in running:
                    yield outcome
            finally:
                await running.aclose()

        return work()

    def batcher(
        self,
        *,
        max_wait: float = 0.002,
        max_rows: int | None = None,
        concurrency: int = 4,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
    ) -> AsyncBatcher:
        """Let many single calls from tasks share requests; close it when done, or use `with`.

        Args:
            max_wait: Seconds a call waits for others to join it.
            max_rows: Items in a request; the model's `max_batch_size` by default.
            concurrency: Requests in flight at once; while all are, waiting calls gather.
            outputs, parameters, binary: As for `infer`, for every call.
        """
        from aiaas_client._batcher import AsyncBatcher

        return AsyncBatcher(
            self,
            max_wait=max_wait,
            max_rows=max_rows,
            concurrency=concurrency,
            outputs=outputs,
            parameters=parameters,
            binary=binary,
        )

    async def metadata(self) -> ModelMetadata:
        """The model's inputs and outputs, from the cache if they were fetched before.

        Raises:
            NotSupportedError: this server has no model metadata.
        """
        return told_metadata((await self._known(self._client)).metadata, self.name)

    async def refresh(self) -> ModelMetadata:
        """Fetch the metadata again, cheaply when the server says that it is unchanged."""
        self._limits = None
        signature = await self._drive(self._fetch_signature(), self._client)
        return told_metadata(signature.metadata, self.name)

    async def config(self) -> dict[str, Any]:
        """The model's configuration as the server tells it, fetched each time."""
        return await self._client._send(calls.config(self.name, self.version))

    async def statistics(self) -> list[ModelStatistics]:
        """Counts and times of each of its versions, or of the one this handle names."""
        return await self._client._send(calls.statistics(self.name, self.version))

    async def ready(self) -> bool:
        """Whether it takes inference now."""
        return await self._client._send(calls.ready(self.name, self.version))

    async def _known(self, client: AsyncClient) -> Signature:
        if self._signature is not None:
            return self._signature
        async with self._own_lock():  # so that many tasks ask once
            signature: Signature | None = self._signature  # another one may have been first
            if signature is None:
                signature = await self._drive(self._fetch_signature(), client)
            return signature

    def _own_lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # a lock belongs to the loop it was first waited for on
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock

    async def _run(
        self, inputs: Given, ask: Ask, limits: Mapping[str, Any], *, item: bool
    ) -> InferResult:
        client = self._client.with_options(**limits) if limits else self._client
        fresh = self._signature is None
        signature = await self._known(client)
        steps = self._infer(inputs, ask, signature, item=item, fresh=fresh)
        return await self._drive(steps, client)

    async def _post(
        self, arrays: dict[str, Array], ask: Ask, metadata: ModelMetadata | None
    ) -> InferResult:
        """Send prepared arrays, as bulk work and batchers do."""
        return await self._drive(self._post_steps(arrays, ask, metadata), self._client)

    async def _bulk_plan(
        self, max_rows: int | None, max_bytes: int, *, rows: bool = False
    ) -> BulkPlan:
        await self._known(self._client)
        async with self._own_lock():  # the configuration, too, is asked for once
            return await self._drive(self._plan(max_rows, max_bytes, rows), self._client)

    async def _drive(self, steps: Steps[T], client: AsyncClient) -> T:
        """Send what `steps` ask for, one after another, until they are done."""
        try:
            call = next(steps)
            while True:
                try:
                    value = await client._send(call)
                except AiaasError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(value)
        except StopIteration as stop:
            value = stop.value
        finally:
            steps.close()
        return cast("T", value)
