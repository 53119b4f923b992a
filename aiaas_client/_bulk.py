"""Many items through few requests: chunks, order, failures. `BulkCore` does no I/O.

The core is told items and answers and says which chunk to send next; two small loops around it, one
for threads and one for tasks, do the sending. Items of the same shapes share a chunk. What has been
read from the input and not yet been handed out never exceeds `concurrency + 1` full chunks.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from aiaas_client import _inputs
from aiaas_client._errors import (
    AiaasError,
    APIStatusError,
    AuthenticationError,
    BulkError,
    ClientClosedError,
    ConfigurationError,
    InputError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
)
from aiaas_client._handle import KEPT_FAILURES
from aiaas_client._progress import Silent
from aiaas_client._result import InferResult

if TYPE_CHECKING:
    from aiaas_client._progress import Progress
    from aiaas_client.protocol.messages import ModelMetadata
    from aiaas_client.protocol.tensors import Array

Tensors = dict[str, "Array"]
Outcome = InferResult | AiaasError
_REFUSALS = frozenset({400, 413, 422})
_HOPELESS = (
    AuthenticationError,
    PermissionDeniedError,
    NotFoundError,
    ClientClosedError,
    ConfigurationError,
)


@dataclass(slots=True)
class Piece:
    """Rows of one owner (an item, a block of rows, a waiting caller) inside a chunk.

    Attributes:
        owner: Whose rows they are.
        inputs: Arrays whose first dimension counts the rows.
        rows: How many.
        start: Which row of the owner comes first here.
    """

    owner: Any
    inputs: Tensors
    rows: int
    start: int = 0


@dataclass(slots=True)
class Chunk:
    """Pieces of equal shapes that travel in one request."""

    pieces: list[Piece]

    @property
    def rows(self) -> int:
        """Rows of all pieces together."""
        return sum(piece.rows for piece in self.pieces)

    def inputs(self) -> Tensors:
        """The pieces' arrays one after another; no copy for a single piece."""
        first = self.pieces[0].inputs
        if len(self.pieces) == 1:
            return first
        return {name: np.concatenate([p.inputs[name] for p in self.pieces]) for name in first}

    def halves(self) -> tuple[Chunk, Chunk]:
        """Two chunks of half the rows each, in order; a piece may be cut in two."""
        left: list[Piece] = []
        right: list[Piece] = []
        room = self.rows // 2
        for piece in self.pieces:
            if room >= piece.rows:
                left.append(piece)
            elif room <= 0:
                right.append(piece)
            else:
                left.append(cut(piece, 0, room))
                right.append(cut(piece, room, piece.rows))
            room -= piece.rows
        return Chunk(left), Chunk(right)


def cut(piece: Piece, start: int, stop: int) -> Piece:
    """Rows `start` to `stop` of a piece, as views."""
    inputs = {name: array[start:stop] for name, array in piece.inputs.items()}
    return Piece(piece.owner, inputs, stop - start, piece.start + start)


def shape_key(inputs: Mapping[str, Array]) -> tuple[object, ...]:
    """Equal for inputs that one request can hold: same names, dtypes and shapes but for rows."""
    return tuple([(name, array.dtype, array.shape[1:]) for name, array in inputs.items()])


def size_of(inputs: Mapping[str, Array]) -> int:
    """Bytes of the tensors on the wire."""
    size = 0
    for array in inputs.values():
        if array.dtype == object:
            size += sum(map(len, array.reshape(-1).tolist())) + 4 * array.size
        else:
            size += array.nbytes
    return size


def is_refusal(error: BaseException) -> bool:
    """Whether one bad row may be why the server refused a whole request."""
    return isinstance(error, APIStatusError) and error.status_code in _REFUSALS


def split(chunk: Chunk, result: InferResult) -> list[tuple[Piece, Tensors]]:
    """Give every piece its rows of the answer, as arrays of their own.

    Raises:
        ProtocolError: an output does not have one row for each row sent.
    """
    rows = chunk.rows
    for name, array in result.items():
        if not array.ndim or array.shape[0] != rows:
            got = tuple(array.shape)
            text = f"output {name!r}: expected {rows} rows for {rows} sent, got shape {got}"
            raise ProtocolError(text, model=result.model_name, request_id=result.request_id)
    if len(chunk.pieces) == 1:
        return [(chunk.pieces[0], dict(result))]
    shares = []
    start = 0
    for piece in chunk.pieces:
        stop = start + piece.rows
        shares.append((piece, {name: array[start:stop].copy() for name, array in result.items()}))
        start = stop
    return shares


def only_row(outputs: Mapping[str, Array]) -> Tensors:
    """Take the batch dimension off arrays of one row."""
    return {name: array.reshape(array.shape[1:]) for name, array in outputs.items()}


def error_of(index: int | None, error: AiaasError) -> AiaasError:
    """An item's own copy of an error that may concern many, with its `index`."""
    own = copy.copy(error)
    own.index = index
    return own


@dataclass(frozen=True, slots=True)
class BulkPlan:
    """What is known about the model before the first item.

    Attributes:
        batched: Requests carry a batch dimension; otherwise each holds one item as it is.
        max_rows, max_bytes: Largest request.
    """

    model: str
    metadata: ModelMetadata | None
    optional: frozenset[str]
    batched: bool
    max_rows: int
    max_bytes: int

    def item(self, value: object) -> Tensors:
        """One item without batch dimension as a batch of one row.

        Raises:
            InputError: it does not fit the model.
        """
        named = _inputs.bind(self.metadata, value, model=self.model)
        return _inputs.prepare(
            self.metadata, named, model=self.model, optional=self.optional, item=True
        )

    def block(self, value: object) -> tuple[Tensors, int]:
        """A block of rows, and how many there are.

        Raises:
            InputError: it does not fit the model, or its inputs disagree about the rows.
        """
        named = _inputs.bind(self.metadata, value, model=self.model)
        inputs = _inputs.prepare(self.metadata, named, model=self.model, optional=self.optional)
        rows = {array.shape[0] if array.ndim else None for array in inputs.values()}
        if len(rows) != 1 or None in rows:
            shapes = ", ".join(f"{name!r} {array.shape}" for name, array in inputs.items())
            text = f"model {self.model!r}: expected as many rows in every input, got {shapes}"
            raise InputError(text, model=self.model)
        return inputs, next(row for row in rows if row is not None)


@dataclass(slots=True)
class _Entry:
    """An input not yet handed out: what is still missing of it, or what became of it."""

    index: int
    rows: int
    size: int
    missing: int
    parts: list[tuple[int, Tensors]] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def is_finished(self) -> bool:
        return self.outcome is not None

    def outcomes(self) -> Iterator[Outcome]:
        """Give what is handed out; its `index` is the position in the input."""
        if self.outcome is not None:
            yield self.outcome


@dataclass(slots=True)
class _RowsEntry:
    """Items read at once: the rows from `index` on, each with an outcome of its own.

    Results are made when they are handed out, one by one: there may be millions.
    """

    index: int
    rows: int
    size: int
    missing: int
    shares: list[tuple[int, int, Outcome, Tensors]] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        return not self.missing

    @property
    def is_success(self) -> bool:
        return all(isinstance(outcome, InferResult) for _, _, outcome, _ in self.shares)

    def add(self, piece: Piece, outcome: Outcome, outputs: Tensors) -> None:
        self.missing -= piece.rows
        self.shares.append((piece.start, piece.rows, outcome, outputs))

    def outcomes(self) -> Iterator[Outcome]:
        """Give what is handed out; its `index` is the position in the input."""
        for start, rows, outcome, outputs in sorted(self.shares, key=lambda share: share[0]):
            first = self.index + start
            if isinstance(outcome, InferResult):
                yield from outcome.rows(outputs, rows, first)
            else:
                yield from (error_of(first + row, outcome) for row in range(rows))


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `start` to `stop` of arrays by input name: as many items, read at once."""

    columns: Mapping[str, Any]
    start: int
    stop: int

    def block(self) -> dict[str, object]:
        """The rows as one block."""
        return {name: column[self.start : self.stop] for name, column in self.columns.items()}

    def items(self) -> Iterator[dict[str, object]]:
        """The rows one by one."""
        for row in range(self.start, self.stop):
            yield {name: column[row] for name, column in self.columns.items()}


class BulkCore:
    """Decides what to send next and what to hand out next; does no I/O.

    Args:
        plan: The model's limits.
        concurrency: Requests in flight at once.
        ordered: Hand out in the order of the input; otherwise as answers come.
        rows: Entries are blocks of rows and keep their batch dimension.
    """

    def __init__(
        self, plan: BulkPlan, *, concurrency: int = 8, ordered: bool = True, rows: bool = False
    ) -> None:
        self.plan = plan
        self._most_rows = (concurrency + 1) * plan.max_rows
        self._most_bytes = (concurrency + 1) * plan.max_bytes
        self.in_flight = 0
        self.hopeless: AiaasError | None = None
        self._concurrency = concurrency
        self._ordered = ordered
        self._keep_rows = rows
        self._read = 0
        self._ended = False
        self._held_rows = 0
        self._held_bytes = 0
        self._entries: dict[int, _Entry | _RowsEntry] = {}  # read and not handed out, in order
        self._finished: deque[_Entry | _RowsEntry] = deque()  # for `ordered=False`
        self._ready: deque[Chunk] = deque()
        self._open: dict[tuple[object, ...], _OpenChunk] = {}

    @property
    def wants_input(self) -> bool:
        """Whether another entry may be read now."""
        return not self._ended and not self._ready and self._has_room

    @property
    def _has_room(self) -> bool:
        return self._held_rows < self._most_rows and self._held_bytes < self._most_bytes

    def end(self) -> None:
        """There is no more input."""
        self._ended = True

    def add(self, value: object) -> None:
        """Take the next entry; one that does not fit the model fails alone."""
        if isinstance(value, Rows):
            self._add_rows(value)
            return
        index = self._read
        self._read += 1
        try:
            if self._keep_rows:
                inputs, rows = self.plan.block(value)
            else:
                inputs, rows = self.plan.item(value), 1
        except AiaasError as error:
            self._entries[index] = entry = _Entry(index, 1, 0, 0)
            self._held_rows += 1
            self._finish(entry, error_of(index, error))
            return
        size = size_of(inputs)
        entry = _Entry(index, max(rows, 1), size, rows)
        self._entries[index] = entry
        self._held_rows += entry.rows
        self._held_bytes += size
        self._place(Piece(entry, inputs, rows), size)

    def _add_rows(self, rows: Rows) -> None:
        """Take many items at once, or one by one when something is wrong with one of them."""
        try:
            inputs, count = self.plan.block(rows.block())
        except AiaasError:
            for item in rows.items():
                self.add(item)
            return
        size = size_of(inputs)
        each = size // count
        entry = _RowsEntry(self._read, count, each * count, count)
        self._entries[entry.index] = entry
        self._read += count
        self._held_rows += count
        self._held_bytes += entry.size
        self._place(Piece(entry, inputs, count), size)

    def _place(self, piece: Piece, size: int) -> None:
        if not self.plan.batched or not piece.rows:
            self._ready.append(Chunk([piece]))  # no rows to share a request with
            return
        key = shape_key(piece.inputs)
        each = size // piece.rows
        most = max(1, min(self.plan.max_rows, self.plan.max_bytes // each if each else piece.rows))
        start = 0
        while start < piece.rows:
            opened = self._open.setdefault(key, _OpenChunk())
            room = self.plan.max_rows - opened.rows
            if each:
                room = min(room, (self.plan.max_bytes - opened.size) // each)
            if room <= 0 and opened.pieces:
                self._close(key)
                continue
            stop = min(piece.rows, start + max(1, min(room, most)))
            whole = start == 0 and stop == piece.rows
            opened.add(piece if whole else cut(piece, start, stop), each)
            start = stop
            if opened.rows >= self.plan.max_rows or opened.size >= self.plan.max_bytes:
                self._close(key)

    def _close(self, key: tuple[object, ...]) -> None:
        self._ready.append(Chunk(self._open.pop(key).pieces))

    def take(self) -> Chunk | None:
        """The next chunk to send now, if there is one; count it as in flight."""
        if self.in_flight >= self._concurrency:
            return None
        if not self._ready and self._open and (self._ended or not self._has_room):
            self._close(next(iter(self._open)))  # the oldest one
        if not self._ready:
            return None
        self.in_flight += 1
        return self._ready.popleft()

    def succeeded(self, chunk: Chunk, result: InferResult) -> None:
        """`chunk` was answered."""
        self.in_flight -= 1
        if not self.plan.batched or not chunk.pieces[0].rows:
            entry: _Entry = chunk.pieces[0].owner
            self._finish(entry, result.with_outputs(result, index=entry.index))
            return
        try:
            shares = split(chunk, result)
        except ProtocolError as error:
            self._fail(chunk, error)
            return
        for piece, outputs in shares:
            self._collect(piece, outputs, result)

    def _collect(self, piece: Piece, outputs: Tensors, result: InferResult) -> None:
        if isinstance(piece.owner, _RowsEntry):
            self._share(piece.owner, piece, result, outputs)
            return
        entry: _Entry = piece.owner
        entry.missing -= piece.rows
        if entry.outcome is not None:
            return
        if not self._keep_rows:
            self._finish(entry, result.with_outputs(only_row(outputs), index=entry.index))
            return
        entry.parts.append((piece.start, outputs))
        if entry.missing:
            return
        parts = [part for _, part in sorted(entry.parts, key=lambda pair: pair[0])]
        whole = parts[0] if len(parts) == 1 else _joined(parts)
        entry.parts.clear()
        self._finish(entry, result.with_outputs(whole, index=entry.index))

    def failed(self, chunk: Chunk, error: AiaasError) -> None:
        """`chunk` was not answered: halve it if one row may be to blame, else give it up."""
        self.in_flight -= 1
        if isinstance(error, _HOPELESS):
            self.hopeless = error
        elif is_refusal(error) and chunk.rows > 1 and self.plan.batched:
            self._ready.extendleft(reversed(chunk.halves()))
        else:
            self._fail(chunk, error)

    def _fail(self, chunk: Chunk, error: AiaasError) -> None:
        for piece in chunk.pieces:
            if isinstance(piece.owner, _RowsEntry):
                self._share(piece.owner, piece, error, {})
                continue
            entry: _Entry = piece.owner
            entry.missing -= piece.rows
            if entry.outcome is None:
                entry.parts.clear()
                self._finish(entry, error_of(entry.index, error))

    def _share(self, entry: _RowsEntry, piece: Piece, outcome: Outcome, outputs: Tensors) -> None:
        entry.add(piece, outcome, outputs)
        if entry.is_finished and not self._ordered:
            self._finished.append(entry)

    def _finish(self, entry: _Entry, outcome: Outcome) -> None:
        entry.outcome = outcome
        if not self._ordered:
            self._finished.append(entry)

    def finished(self) -> Iterator[_Entry | _RowsEntry]:
        """Give what can be handed out now, each once."""
        while True:
            if self._ordered:
                entry = next(iter(self._entries.values()), None)
            else:
                entry = self._finished.popleft() if self._finished else None
            if entry is None or not entry.is_finished:
                return
            del self._entries[entry.index]
            self._held_rows -= entry.rows
            self._held_bytes -= entry.size
            yield entry


class _OpenChunk:
    """A chunk that still takes pieces."""

    __slots__ = ("pieces", "rows", "size")

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.rows = 0
        self.size = 0

    def add(self, piece: Piece, row_size: int) -> None:
        self.pieces.append(piece)
        self.rows += piece.rows
        self.size += piece.rows * row_size


def _joined(parts: Sequence[Tensors]) -> Tensors:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Failures:
    """Sorts outcomes into what is handed out and what is raised at the end.

    Args:
        model: Its name, for the message.
        keep: Failures are raised at the end; otherwise they are handed out.
        most: Failures kept to be looked at; the others are only counted.
    """

    def __init__(self, model: str, *, keep: bool, most: int = KEPT_FAILURES) -> None:
        self._model = model
        self._keep = keep
        self._most = most
        self._errors: dict[int, Exception] = {}
        self._failed = 0
        self._seen = 0

    def filter(self, outcome: Outcome) -> Outcome | None:
        """The outcome to hand out, or None for an error that is raised at the end."""
        self._seen += 1
        if isinstance(outcome, InferResult) or not self._keep:
            return outcome
        self._failed += 1
        if len(self._errors) < self._most and outcome.index is not None:
            self._errors[outcome.index] = outcome
        return None

    def passed(self, count: int) -> None:
        """So many rows of an answer are handed out as they are."""
        self._seen += count

    def raise_any(self) -> None:
        """Raise what was kept.

        Raises:
            BulkError: at least one item failed.
        """
        if not self._failed:
            return
        text = f"model {self._model!r}: {self._failed} of {self._seen} items failed"
        if self._errors:
            index, first = next(iter(sorted(self._errors.items())))
            text += f"; the first is item {index}: {first}"
        raise BulkError(text, failures=self._errors, count=self._failed, model=self._model)


def handed_out(
    entry: _Entry | _RowsEntry, failures: Failures, progress: Progress
) -> Iterator[Outcome]:
    """What the caller gets of a finished entry, counted and told."""
    if isinstance(entry, _RowsEntry) and entry.is_success and isinstance(progress, Silent):
        failures.passed(entry.rows)
        return entry.outcomes()  # nothing else to be done for each of very many rows
    return _sifted(entry, failures, progress)


def _sifted(
    entry: _Entry | _RowsEntry, failures: Failures, progress: Progress
) -> Iterator[Outcome]:
    for outcome in entry.outcomes():
        progress.advance()
        given = failures.filter(outcome)
        if given is not None:
            yield given


def check(
    max_rows: int | None, max_bytes: int, concurrency: int, kept_failures: int = KEPT_FAILURES
) -> None:
    """Refuse limits that no work can be done under.

    Raises:
        InputError: one of them is too small.
    """
    if kept_failures < 0:
        raise InputError(f"kept_failures: expected 0 or more, got {kept_failures}")
    for name, value in (
        ("max_rows", max_rows),
        ("max_bytes", max_bytes),
        ("concurrency", concurrency),
    ):
        if value is not None and value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")


def items_of(
    values: Iterable[object] | Mapping[str, object], plan: BulkPlan, *, rows: bool = False
) -> Iterator[object]:
    """The items of an iterable, or the rows of arrays given by input name, or of a data frame.

    Rows of numpy arrays come many at a time, as `Rows`.

    Args:
        values: What the caller gave.
        plan: For the names of a data frame's columns.
        rows: Items are blocks; arrays by name are one block.
    Raises:
        InputError: the arrays differ in length.
    """
    if hasattr(values, "columns") and hasattr(values, "to_numpy"):
        values = _inputs.bind(plan.metadata, values, model=plan.model)
    if isinstance(values, np.ndarray) and not rows and values.ndim:
        values = _inputs.bind(plan.metadata, values, model=plan.model)
    if not isinstance(values, Mapping):
        return iter(values)
    if rows:
        return iter([values])
    columns = {str(name): _rows(value) for name, value in values.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"expected inputs of equal length, got {lengths}")
    count = next(iter(lengths.values()), 0)
    if not plan.batched or not all(isinstance(column, np.ndarray) for column in columns.values()):
        return Rows(columns, 0, count).items()
    each = max(1, sum(column[:1].nbytes for column in columns.values()))
    step = max(1, min(plan.max_rows, plan.max_bytes // each))
    return (Rows(columns, i, min(i + step, count)) for i in range(0, count, step))


def _rows(value: Any) -> Any:
    if hasattr(value, "to_numpy"):
        return value.to_numpy()
    return value if hasattr(value, "__getitem__") else list(value)


def length_of(values: object) -> int | None:
    """How many items there will be, if that can be told."""
    if isinstance(values, Mapping):
        return len(next(iter(values.values()), ()))
    return len(values) if isinstance(values, Sized) else None


def run_threads(
    core: BulkCore,
    items: Iterator[object],
    send: Callable[[Tensors], InferResult],
    failures: Failures,
    progress: Progress,
    concurrency: int,
) -> Generator[Outcome, None, None]:
    """Drive `core` with a pool of threads that ends with the generator.

    Closing early drops what is queued and waits for the requests already on the wire.
    """
    answered: SimpleQueue[tuple[Chunk, Future[InferResult]]] = SimpleQueue()
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="aiaas-bulk")

    def submit(chunk: Chunk) -> None:
        future = pool.submit(lambda: send(chunk.inputs()))
        future.add_done_callback(lambda done: answered.put((chunk, done)))

    try:
        while True:
            while not answered.empty():
                _settle(core, *answered.get())
            for entry in core.finished():
                yield from handed_out(entry, failures, progress)
            if (chunk := core.take()) is not None:
                submit(chunk)
            elif core.wants_input:
                _read_one(core, items)
            elif core.in_flight:
                _settle(core, *answered.get())
            else:
                break
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        progress.close()
    failures.raise_any()


def _read_one(core: BulkCore, items: Iterator[object]) -> None:
    try:
        value = next(items)
    except StopIteration:
        core.end()
    else:
        core.add(value)


def _settle(core: BulkCore, chunk: Chunk, done: Future[InferResult] | asyncio.Task[Any]) -> None:
    try:
        result = done.result()
    except AiaasError as error:
        core.failed(chunk, error)
        if core.hopeless is not None:
            raise core.hopeless from None
    else:
        core.succeeded(chunk, result)


async def run_tasks(
    core: BulkCore,
    items: Iterator[object] | AsyncIterator[object],
    send: Callable[[Tensors], Awaitable[InferResult]],
    failures: Failures,
    progress: Progress,
) -> AsyncGenerator[Outcome, None]:
    """Drive `core` with tasks; closing early cancels them and waits until they have ended."""
    flying: dict[asyncio.Task[Any], Chunk] = {}
    reading: asyncio.Task[object] | None = None

    async def post(chunk: Chunk) -> InferResult:
        return await send(chunk.inputs())

    try:
        while True:
            for task in [task for task in flying if task.done()]:
                _settle(core, flying.pop(task), task)
            for entry in core.finished():
                for outcome in handed_out(entry, failures, progress):
                    yield outcome
            if (chunk := core.take()) is not None:
                flying[asyncio.create_task(post(chunk))] = chunk
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
        progress.close()
    failures.raise_any()


_END = object()


async def _next(items: AsyncIterator[object]) -> object:
    return await anext(items, _END)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def async_items_of(
    values: Iterable[object] | AsyncIterable[object], plan: BulkPlan, *, rows: bool = False
) -> Iterator[object] | AsyncIterator[object]:
    """As `items_of`, for asynchronous iterables too."""
    if isinstance(values, AsyncIterable):
        return aiter(values)
    return items_of(values, plan, rows=rows)
