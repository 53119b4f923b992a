"""Single calls from many threads or tasks, gathered into few requests.

Two shells around `Coalescer`: they keep the time and do the sending. Nothing runs while nobody
waits.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from aiaas_client._api.inference import InferResult
from aiaas_client._bulk.coalescer import Answer, Coalescer, alone, settle, without
from aiaas_client._bulk.plan import DEFAULT_WAIT, BulkPlan, Tensors, at_least
from aiaas_client._errors import ClientClosedError, InputError, OptionTypeError
from aiaas_client._send.core import async_drive, drive
from aiaas_client._send.own_names import with_own_names

if TYPE_CHECKING:
    from aiaas_client._bulk.batches import Batch
    from aiaas_client.protocol.messages import ModelMetadata

Plan = TypeVar("Plan")  # a plan, or an awaitable of one
Result = TypeVar("Result")  # a result, or an awaitable of one


class _Gatherer(Generic[Plan, Result], ABC):
    """What both batchers know: who waits, and for which model."""

    def __init__(
        self,
        model: str,
        plan: Callable[[], Plan],
        post: Callable[[ModelMetadata | None, Tensors], Result],
        *,
        max_wait: float = DEFAULT_WAIT,
        concurrency: int = 4,
    ) -> None:
        if isinstance(max_wait, bool) or not isinstance(max_wait, int | float):
            raise OptionTypeError(f"max_wait: expected seconds, got {max_wait!r}")
        if not max_wait >= 0:
            raise InputError(f"max_wait: expected at least 0 seconds, got {max_wait}")
        at_least("concurrency", concurrency, 1)
        self._name = model
        self._fetch_plan = plan
        self._post = post
        self._max_wait = max_wait
        self._free = concurrency
        self._plan: BulkPlan | None = None
        self._waiting: Coalescer | None = None
        self._closed = False
        self._start(concurrency)

    @abstractmethod
    def _start(self, concurrency: int) -> None:
        """Make what threads or tasks need to send."""

    def _open(self, plan: BulkPlan) -> tuple[BulkPlan, Coalescer]:
        """Take the plan, once."""
        if self._plan is None or self._waiting is None:
            self._plan = plan
            self._waiting = Coalescer(self._max_wait, plan.max_rows)
        return self._plan, self._waiting

    def _tensors(self, plan: BulkPlan, value: object, arrays: dict[str, object]) -> Tensors:
        if value is not None and arrays:
            text = f"model {self._name!r}: give the inputs by name or as one value, not both"
            raise InputError(text, model=self._name)
        return plan.conversion.item(arrays if value is None else value)

    def _check_open(self) -> None:
        if self._closed:
            text = f"the batcher of model {self._name!r} is closed"
            raise ClientClosedError(text, model=self._name)

    def _send_tensors(self, tensors: Tensors) -> Result:
        return self._post(None if self._plan is None else self._plan.metadata, tensors)

    def _steps(self, batch: Batch) -> Generator[Tensors, InferResult, list[Answer]]:
        is_batched = self._plan is None or self._plan.batched
        return settle(batch) if is_batched else alone(batch)


@with_own_names
class Batcher(_Gatherer[BulkPlan, InferResult]):
    """Lets single calls from many threads share requests; get it with `client.batcher(model)`.

    Each call is one item without the batch dimension. Threads start with the first call and wait
    without a timer while nothing is asked. `close` answers what was accepted.

    Args:
        model: The model's name.
        plan: Gives what is known about the model; asked with the first call.
        post: Sends tensors that fit the metadata of the plan.
        max_wait: Seconds a call waits for others to join it.
        concurrency: Requests in flight at once; while all are, waiting calls gather.
    """

    def _start(self, concurrency: int) -> None:
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="aiaas-batcher")
        self._keeper: threading.Thread | None = None

    def infer_one(self, inputs: object = None, /, **arrays: object) -> InferResult:
        """Run the model on one item and wait for its result.

        Raises:
            InputError: the item does not fit the model; it never joins the others.
            AiaasError: the request it shared failed, or the server refused this very item.
        """
        future = self.submit(inputs, **arrays)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def submit(self, inputs: object = None, /, **arrays: object) -> Future[InferResult]:
        """Ask for one item without waiting; cancelling the future leaves the others alone.

        Raises:
            InputError: the item does not fit the model.
            ClientClosedError: after `close`.
        """
        plan, waiting = self._known_plan()
        tensors = self._tensors(plan, inputs, arrays)
        future: Future[InferResult] = Future()
        with self._changed:
            self._check_open()
            waiting.add(future, tensors, monotonic())
            if self._keeper is None:
                self._keeper = threading.Thread(
                    target=self._keep, name="aiaas-batcher", daemon=True
                )
                self._keeper.start()
            self._changed.notify_all()
        return future

    def close(self) -> None:
        """Send what waits, answer everything accepted, end the threads."""
        with self._changed:
            self._closed = True
            if self._waiting is not None:
                self._waiting.flush()
            self._changed.notify_all()
        if self._keeper is not None:
            self._keeper.join()
        self._pool.shutdown(wait=True)

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _known_plan(self) -> tuple[BulkPlan, Coalescer]:
        plan = self._plan or self._fetch_plan()
        with self._changed:
            return self._open(plan)

    def _keep(self) -> None:
        while (batch := self._wait_for_chunk()) is not None:
            self._pool.submit(self._send, batch)

    def _wait_for_chunk(self) -> Batch | None:
        """Block until a request is due and may be sent; None once closed and empty."""
        waiting = self._waiting
        if waiting is None:
            return None
        with self._changed:
            while True:
                if self._free and (batch := waiting.take(monotonic())) is not None:
                    self._free -= 1
                    return batch
                if self._closed and waiting.is_empty:
                    return None
                due = waiting.next_due() if self._free else None
                self._changed.wait(None if due is None else max(0.0, due - monotonic()))

    def _send(self, batch: Batch) -> None:
        kept = without(batch, lambda future: not future.set_running_or_notify_cancel())
        try:
            if kept is not None:
                self._answer(kept)
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()

    def _answer(self, batch: Batch) -> None:
        try:
            answers = drive(self._steps(batch), self._send_tensors)
        except BaseException as error:  # a bug here must not leave a caller waiting for ever
            for piece in batch.pieces:
                piece.owner.set_exception(error)
            return
        for future, outcome in answers:
            if isinstance(outcome, InferResult):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)


@with_own_names
class AsyncBatcher(_Gatherer[Awaitable[BulkPlan], Awaitable[InferResult]]):
    """Lets single calls from many tasks share requests; get it with `client.batcher(model)`.

    Each call is one item without the batch dimension. No timer is armed while nothing waits; a
    request whose callers have all gone is cancelled. `close` answers what was accepted.

    Args:
        model: The model's name.
        plan: Gives what is known about the model; asked with the first call.
        post: Sends tensors that fit the metadata of the plan.
        max_wait: Seconds a call waits for others to join it.
        concurrency: Requests in flight at once; while all are, waiting calls gather.
    """

    def _start(self, concurrency: int) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._flying: set[asyncio.Task[None]] = set()

    async def infer_one(self, inputs: object = None, /, **arrays: object) -> InferResult:
        """Run the model on one item; cancelling this call leaves the others alone.

        Raises:
            InputError: the item does not fit the model; it never joins the others.
            AiaasError: the request it shared failed, or the server refused this very item.
        """
        return await (await self.submit(inputs, **arrays))

    async def submit(
        self, inputs: object = None, /, **arrays: object
    ) -> asyncio.Future[InferResult]:
        """Ask for one item without waiting for its result.

        Raises:
            InputError: the item does not fit the model.
            ClientClosedError: after `close`.
        """
        plan, waiting = await self._known_plan()
        tensors = self._tensors(plan, inputs, arrays)
        self._check_open()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[InferResult] = loop.create_future()
        waiting.add(future, tensors, loop.time())
        self._pump()
        return future

    async def close(self) -> None:
        """Send what waits and answer everything accepted."""
        self._closed = True
        if self._waiting is not None:
            self._waiting.flush()
            self._pump()
        while self._flying:
            await asyncio.wait(self._flying)

    async def __aenter__(self) -> AsyncBatcher:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _known_plan(self) -> tuple[BulkPlan, Coalescer]:
        return self._open(self._plan or await self._fetch_plan())

    def _pump(self) -> None:
        """Send what may be sent, and arm the timer for what is due next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = self._waiting
        if waiting is None:
            return
        loop = asyncio.get_running_loop()
        while self._free and (batch := waiting.take(loop.time())) is not None:
            kept = without(batch, lambda future: future.done())
            if kept is not None:
                self._launch(kept)
        due = waiting.next_due() if self._free else None
        if due is not None:
            self._timer = loop.call_at(due, self._pump)

    def _launch(self, batch: Batch) -> None:
        self._free -= 1
        task = asyncio.get_running_loop().create_task(self._send(batch))
        self._flying.add(task)
        task.add_done_callback(self._landed)
        futures = [piece.owner for piece in batch.pieces]

        def left(_: object) -> None:
            if all(future.cancelled() for future in futures):
                task.cancel()

        for future in futures:
            future.add_done_callback(left)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        self._free += 1
        self._pump()

    async def _send(self, batch: Batch) -> None:
        try:
            answers = await async_drive(self._steps(batch), self._send_tensors)
        except BaseException as error:  # a bug here must not leave a caller waiting for ever
            for piece in batch.pieces:
                _set(piece.owner, error)
            if not isinstance(error, Exception):
                raise
            return
        for future, outcome in answers:
            _set(future, outcome)


def _set(future: asyncio.Future[InferResult], outcome: InferResult | BaseException) -> None:
    if future.done():
        return
    if isinstance(outcome, InferResult):
        future.set_result(outcome)
    elif isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.cancel()
