"""Single calls from many threads or tasks, gathered into few requests.

`Coalescer` decides without I/O or clock of its own what travels together and when it is due; two
shells around it, for threads and for an event loop, keep the time and do the sending. A refused
request is halved until the call to blame stands alone. Nothing runs while nobody waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aiaas_client._bulk import (
    BulkPlan,
    Chunk,
    Piece,
    Tensors,
    check,
    is_refusal,
    only_row,
    shape_key,
    size_of,
    split,
)
from aiaas_client._errors import AiaasError, ClientClosedError, InputError
from aiaas_client._handle import Scalar, make_ask
from aiaas_client._result import InferResult

if TYPE_CHECKING:
    from aiaas_client._async_model import AsyncModel
    from aiaas_client._model import Model
    from aiaas_client.protocol.messages import ModelMetadata

DEFAULT_BYTES = 4 * 2**20
DEFAULT_WAIT = 0.002


@dataclass(slots=True)
class _Gathering:
    """Calls of equal shapes that wait for company until `due` (a monotonic time)."""

    due: float
    pieces: list[Piece]
    size: int


class Coalescer:
    """Groups calls by shape into requests; does no I/O and reads no clock.

    Args:
        max_wait: Seconds the first call of a request waits for others.
        max_rows: Calls in a request.
        max_bytes: Tensor bytes in a request; a larger call travels alone.
    """

    def __init__(self, max_wait: float, max_rows: int, max_bytes: int = DEFAULT_BYTES) -> None:
        self._max_wait = max_wait
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._gathering: dict[tuple[object, ...], _Gathering] = {}
        self._full: deque[Chunk] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._gathering and not self._full

    def add(self, ticket: object, inputs: Tensors, now: float) -> None:
        """Take one call: a batch of one row, owned by `ticket`."""
        key, size = shape_key(inputs), size_of(inputs)
        group = self._gathering.get(key)
        if group is not None and group.size + size > self._max_bytes:
            self._fill(key)
            group = None
        if group is None:
            group = self._gathering[key] = _Gathering(now + self._max_wait, [], 0)
        group.pieces.append(Piece(ticket, inputs, 1))
        group.size += size
        if len(group.pieces) >= self._max_rows:
            self._fill(key)

    def take(self, now: float) -> Chunk | None:
        """The next request that is full or due, if there is one."""
        if not self._full:
            due = next((key for key, group in self._gathering.items() if group.due <= now), None)
            if due is None:
                return None
            self._fill(due)
        return self._full.popleft()

    def next_due(self) -> float | None:
        """When to look again: a time in the past if something is full; None when idle."""
        if self._full:
            return float("-inf")
        return min((group.due for group in self._gathering.values()), default=None)

    def flush(self) -> None:
        """Make everything that waits due now."""
        for key in list(self._gathering):
            self._fill(key)

    def _fill(self, key: tuple[object, ...]) -> None:
        self._full.append(Chunk(self._gathering.pop(key).pieces))


Answer = tuple[Any, InferResult | AiaasError]  # a ticket and what became of it


def settle(chunk: Chunk) -> Generator[Tensors, InferResult, list[Answer]]:
    """Give every ticket of a request its answer, halving a refused request; does no I/O.

    Yields the tensors to send, is sent the result or thrown the error.
    """
    try:
        result = yield chunk.inputs()
        shares = split(chunk, result)
    except AiaasError as error:
        if is_refusal(error) and len(chunk.pieces) > 1:
            left, right = chunk.halves()
            return (yield from settle(left)) + (yield from settle(right))
        return [(piece.owner, error) for piece in chunk.pieces]
    return [(piece.owner, result.with_outputs(only_row(outs))) for piece, outs in shares]


def alone(chunk: Chunk) -> Generator[Tensors, InferResult, list[Answer]]:
    """As `settle` for a model without batch dimension: one ticket, the answer as it is."""
    ticket = chunk.pieces[0].owner
    try:
        return [(ticket, (yield chunk.inputs()))]
    except AiaasError as error:
        return [(ticket, error)]


def _without(chunk: Chunk, gone: Callable[[Any], bool]) -> Chunk | None:
    kept = [piece for piece in chunk.pieces if not gone(piece.owner)]
    return Chunk(kept) if kept else None


def _check(max_wait: float, max_rows: int | None, concurrency: int) -> None:
    if max_wait < 0:
        raise InputError(f"max_wait: expected at least 0 seconds, got {max_wait}")
    check(max_rows, DEFAULT_BYTES, concurrency)


def _named(value: object, arrays: dict[str, object], plan: BulkPlan) -> Tensors:
    if value is not None and arrays:
        raise InputError(f"model {plan.model!r}: give the inputs by name or as one value, not both")
    return plan.item(arrays if value is None else value)


def _closed(model: str) -> ClientClosedError:
    return ClientClosedError(f"the batcher of model {model!r} is closed", model=model)


class Batcher:
    """Lets single calls from many threads share requests; get it with `client.batcher(model)`.

    Each call is one item without the batch dimension. Threads start with the first call and wait
    without a timer while nothing is asked. `close` answers what was accepted.

    Args:
        model: The handle to call.
        max_wait: Seconds a call waits for others to join it.
        max_rows: Calls in a request; the model's `max_batch_size` by default.
        concurrency: Requests in flight at once; while all are, waiting calls gather.
        outputs, parameters, binary: As for `Model.infer`, for every call.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_wait: float = DEFAULT_WAIT,
        max_rows: int | None = None,
        concurrency: int = 4,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
    ) -> None:
        _check(max_wait, max_rows, concurrency)
        self._model = model
        self._ask = make_ask(outputs, 0, parameters, 0, None, "", binary)
        self._max_wait = max_wait
        self._max_rows = max_rows
        self._changed = threading.Condition()
        self._free = concurrency
        self._plan: BulkPlan | None = None
        self._waiting: Coalescer | None = None
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="aiaas-batcher")
        self._keeper: threading.Thread | None = None
        self._closed = False

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
        plan = self._known_plan()
        tensors = _named(inputs, arrays, plan)
        future: Future[InferResult] = Future()
        with self._changed:
            if self._closed or self._waiting is None:
                raise _closed(self._model.name)
            self._waiting.add(future, tensors, monotonic())
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

    def _known_plan(self) -> BulkPlan:
        if self._plan is None:
            plan = self._model._bulk_plan(self._max_rows, DEFAULT_BYTES)
            with self._changed:
                if self._plan is None:
                    self._plan = plan
                    self._waiting = Coalescer(self._max_wait, plan.max_rows)
        return self._plan

    def _keep(self) -> None:
        while (chunk := self._wait_for_chunk()) is not None:
            self._pool.submit(self._send, chunk)

    def _wait_for_chunk(self) -> Chunk | None:
        """Block until a request is due and may be sent; None once closed and empty."""
        waiting = self._waiting
        if waiting is None:
            return None
        with self._changed:
            while True:
                if self._free and (chunk := waiting.take(monotonic())) is not None:
                    self._free -= 1
                    return chunk
                if self._closed and waiting.is_empty:
                    return None
                due = waiting.next_due() if self._free else None
                self._changed.wait(None if due is None else max(0.0, due - monotonic()))

    def _send(self, chunk: Chunk) -> None:
        kept = _without(chunk, lambda future: not future.set_running_or_notify_cancel())
        try:
            if kept is not None:
                self._answer(kept)
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()

    def _answer(self, chunk: Chunk) -> None:
        try:
            answers = self._drive(chunk)
        except BaseException as error:  # a bug here must not leave a caller waiting for ever
            for piece in chunk.pieces:
                piece.owner.set_exception(error)
            return
        for future, outcome in answers:
            if isinstance(outcome, InferResult):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)

    def _drive(self, chunk: Chunk) -> list[Answer]:
        metadata, batched = _facts(self._plan)
        steps = settle(chunk) if batched else alone(chunk)
        try:
            tensors = next(steps)
            while True:
                try:
                    result = self._model._post(tensors, self._ask, metadata)
                except AiaasError as error:
                    tensors = steps.throw(error)
                else:
                    tensors = steps.send(result)
        except StopIteration as stop:
            answers: list[Answer] = stop.value
        return answers


class AsyncBatcher:
    """Lets single calls from many tasks share requests; get it with `client.batcher(model)`.

    Each call is one item without the batch dimension. No timer is armed while nothing waits; a
    request whose callers have all gone is cancelled. `close` answers what was accepted.

    Args:
        model: The handle to call.
        max_wait: Seconds a call waits for others to join it.
        max_rows: Calls in a request; the model's `max_batch_size` by default.
        concurrency: Requests in flight at once; while all are, waiting calls gather.
        outputs, parameters, binary: As for `Model.infer`, for every call.
    """

    def __init__(
        self,
        model: AsyncModel,
        *,
        max_wait: float = DEFAULT_WAIT,
        max_rows: int | None = None,
        concurrency: int = 4,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
    ) -> None:
        _check(max_wait, max_rows, concurrency)
        self._model = model
        self._ask = make_ask(outputs, 0, parameters, 0, None, "", binary)
        self._max_wait = max_wait
        self._max_rows = max_rows
        self._free = concurrency
        self._plan: BulkPlan | None = None
        self._waiting: Coalescer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._flying: set[asyncio.Task[None]] = set()
        self._closed = False

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
        tensors = _named(inputs, arrays, plan)
        if self._closed:
            raise _closed(self._model.name)
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
        plan = self._plan or await self._model._bulk_plan(self._max_rows, DEFAULT_BYTES)
        if self._waiting is None:
            self._plan = plan
            self._waiting = Coalescer(self._max_wait, plan.max_rows)
        return plan, self._waiting

    def _pump(self) -> None:
        """Send what may be sent, and arm the timer for what is due next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = self._waiting
        if waiting is None:
            return
        loop = asyncio.get_running_loop()
        while self._free and (chunk := waiting.take(loop.time())) is not None:
            kept = _without(chunk, lambda future: future.done())
            if kept is not None:
                self._launch(kept)
        due = waiting.next_due() if self._free else None
        if due is not None:
            self._timer = loop.call_at(due, self._pump)

    def _launch(self, chunk: Chunk) -> None:
        self._free -= 1
        task = asyncio.get_running_loop().create_task(self._send(chunk))
        self._flying.add(task)
        task.add_done_callback(self._landed)
        futures = [piece.owner for piece in chunk.pieces]

        def left(_: object) -> None:
            if all(future.cancelled() for future in futures):
                task.cancel()

        for future in futures:
            future.add_done_callback(left)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        self._free += 1
        self._pump()

    async def _send(self, chunk: Chunk) -> None:
        try:
            answers = await self._drive(chunk)
        except BaseException as error:  # a bug here must not leave a caller waiting for ever
            for piece in chunk.pieces:
                _set(piece.owner, error)
            if not isinstance(error, Exception):
                raise
            return
        for future, outcome in answers:
            _set(future, outcome)

    async def _drive(self, chunk: Chunk) -> list[Answer]:
        metadata, batched = _facts(self._plan)
        steps = settle(chunk) if batched else alone(chunk)
        try:
            tensors = next(steps)
            while True:
                try:
                    result = await self._model._post(tensors, self._ask, metadata)
                except AiaasError as error:
                    tensors = steps.throw(error)
                else:
                    tensors = steps.send(result)
        except StopIteration as stop:
            answers: list[Answer] = stop.value
        return answers


def _facts(plan: BulkPlan | None) -> tuple[ModelMetadata | None, bool]:
    return (None, True) if plan is None else (plan.metadata, plan.batched)


def _set(future: asyncio.Future[InferResult], outcome: InferResult | BaseException) -> None:
    if future.done():
        return
    if isinstance(outcome, InferResult):
        future.set_result(outcome)
    elif isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.cancel()
