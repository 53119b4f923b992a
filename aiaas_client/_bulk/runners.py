"""The two loops around a core of bulk work: one sends from threads, one from tasks."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Sequence,
)
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from aiaas_client._bulk.array_core import ArrayCore
from aiaas_client._bulk.core import BulkCore
from aiaas_client._bulk.failures import Failures, handed_out
from aiaas_client._bulk.progress import open_progress
from aiaas_client._errors import AiaasError

if TYPE_CHECKING:
    from aiaas_client._api.inference import InferResult
    from aiaas_client._bulk.array_core import Sink
    from aiaas_client._bulk.pending import PendingInput
    from aiaas_client._bulk.plan import BulkOptions, BulkPlan, Tensors
    from aiaas_client._bulk.progress import Progress

    Source = Iterator[object] | AsyncIterator[object]


class Sent(Protocol):
    """What travels in one request."""

    def inputs(self) -> Tensors:
        """Its tensors."""
        ...


class Core(Protocol):
    """What decides: `BulkCore`, or `ArrayCore`."""

    @property
    def in_flight(self) -> int: ...
    @property
    def hopeless(self) -> AiaasError | None: ...
    @property
    def wants_input(self) -> bool: ...
    def add(self, value: object) -> None: ...
    def end(self) -> None: ...
    def take(self) -> Sent | None: ...
    def succeeded(self, batch: Any, result: InferResult, /) -> None: ...
    def failed(self, batch: Any, error: AiaasError, /) -> None: ...
    def finished(self) -> Iterator[PendingInput]: ...


@dataclass(frozen=True, slots=True)
class Work:
    """One bulk call.

    Attributes:
        source: The items, or blocks of rows.
        core: What decides.
        concurrency: Requests in flight at once.
        failures: Sorts what is handed out from what is raised at the end.
        progress: Shows how far it has come.
    """

    source: Source
    core: Core
    concurrency: int
    failures: Failures
    progress: Progress

    @classmethod
    def of_items(
        cls,
        plan: BulkPlan,
        options: BulkOptions,
        source: Source,
        total: int | None,
        read: Callable[[InferResult], Any] | None = None,
    ) -> Work:
        """Work that hands out a result for each item.

        Args:
            source: The items, or rows of items.
            total: How many there are, if known.
            read: What to hand out for each result; by default the result.
        """
        core = BulkCore(
            plan, concurrency=options.concurrency, ordered=options.ordered, rows=options.rows
        )
        failures = Failures(
            plan.model, keep=options.on_error == "raise", most=options.kept_failures, read=read
        )
        progress = open_progress(options.progress, total, plan.model)
        return cls(source, core, options.concurrency, failures, progress)

    @classmethod
    def of_rows(
        cls, plan: BulkPlan, options: BulkOptions, source: Source, total: int | None, sink: Sink
    ) -> tuple[Work, ArrayCore]:
        """Work whose answers go to `sink`, and what knows of it in the end.

        Args:
            source: Blocks of rows.
            total: Rows of all of them, if known.
        """
        progress = open_progress(options.progress, total, plan.model)
        core = ArrayCore(plan, sink, options.concurrency, progress)
        nothing = Failures(plan.model, keep=True)
        return cls(source, core, options.concurrency, nothing, progress), core


def run_threads(work: Work, send: Callable[[Tensors], InferResult]) -> Generator[Any, None, None]:
    """Do the work with a pool of threads that ends with the generator.

    Closing early drops what is queued and waits for the requests already on the wire.
    """
    core = work.core
    answered: SimpleQueue[tuple[Sent, Future[InferResult]]] = SimpleQueue()
    pool = ThreadPoolExecutor(work.concurrency, thread_name_prefix="aiaas-bulk")

    def submit(batch: Sent) -> None:
        future = pool.submit(lambda: send(batch.inputs()))
        future.add_done_callback(lambda done: answered.put((batch, done)))

    try:
        while True:
            while not answered.empty():
                _settle(core, *answered.get())
            for finished in core.finished():
                yield from handed_out(finished, work.failures, work.progress)
            if (batch := core.take()) is not None:
                submit(batch)
            elif core.wants_input:
                _read_one(core, work.source)
            elif core.in_flight:
                _settle(core, *answered.get())
            else:
                break
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        work.progress.close()
    work.failures.raise_any()


def _read_one(core: Core, items: Any) -> None:
    try:
        value = next(items)
    except StopIteration:
        core.end()
    else:
        core.add(value)


def _settle(core: Core, batch: Sent, done: Future[InferResult] | asyncio.Task[Any]) -> None:
    try:
        result = done.result()
    except AiaasError as error:
        core.failed(batch, error)
    else:
        core.succeeded(batch, result)
    if core.hopeless is not None:
        raise core.hopeless from core.hopeless.__cause__


async def run_tasks(
    work: Work, send: Callable[[Tensors], Awaitable[InferResult]]
) -> AsyncGenerator[Any, None]:
    """Do the work with tasks; closing early cancels them and waits until they have ended."""
    core, items = work.core, work.source
    flying: dict[asyncio.Task[Any], Sent] = {}
    reading: asyncio.Task[object] | None = None

    async def post(batch: Sent) -> InferResult:
        return await send(batch.inputs())

    try:
        while True:
            for task in [task for task in flying if task.done()]:
                _settle(core, flying.pop(task), task)
            for finished in core.finished():
                for outcome in handed_out(finished, work.failures, work.progress):
                    yield outcome
            if (batch := core.take()) is not None:
                flying[asyncio.create_task(post(batch))] = batch
                await asyncio.sleep(0)  # let it leave before more input is read
            elif isinstance(items, AsyncIterator) and (reading or core.wants_input):
                reading = reading or asyncio.ensure_future(_next(items))
                await asyncio.wait({reading, *flying}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    value, reading = reading.result(), None
                    core.end() if value is _END else core.add(value)
            elif not isinstance(items, AsyncIterator) and core.wants_input:
                _read_one(core, items)
            elif flying:
                await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            else:
                break
    finally:
        await _cancel([*flying, *([reading] if reading is not None else [])])
        work.progress.close()
    work.failures.raise_any()


_END = object()


async def _next(items: AsyncIterator[object]) -> object:
    return await anext(items, _END)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
