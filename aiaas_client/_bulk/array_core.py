"""Very many rows to one result: what is sent next, and what an answer or a failure means; no I/O.

`ArrayCore` stands where `BulkCore` does in the loops of `runners`. It hands nothing out: answers
go to their rows as they come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Never, Protocol

from aiaas_client._api.call import Timing
from aiaas_client._api.inference import InferResult
from aiaas_client._bulk.blocks import Cutter
from aiaas_client._bulk.columns import columns_of
from aiaas_client._bulk.failures import block_error
from aiaas_client._errors import AiaasError

if TYPE_CHECKING:
    from aiaas_client._bulk.blocks import Block
    from aiaas_client._bulk.plan import BulkPlan
    from aiaas_client._bulk.progress import Progress
    from aiaas_client.protocol.tensors import Array


class Sink(Protocol):
    """Where the answers of blocks go, and what a failure means to the whole."""

    def put(self, block: Block, result: InferResult) -> None:
        """Take the answer of a block, in any order.

        Raises:
            AiaasError: it cannot be used.
        """

    def failed(self, block: Block, error: AiaasError) -> Iterable[Block]:
        """Blocks to be tried in place of one that failed; none where its rows are given up.

        Raises:
            AiaasError: it ends the call.
        """
        ...


class ArrayCore:
    """Decides what to send next; does no I/O, and keeps no answer.

    What was read and is neither sent nor answered is never more than one block of the caller's and
    `concurrency + 1` requests.

    Args:
        plan: The model's limits.
        sink: Takes the answers.
        concurrency: Requests in flight at once.
        progress: Told of the rows that are done.
    """

    def __init__(self, plan: BulkPlan, sink: Sink, concurrency: int, progress: Progress) -> None:
        self.in_flight = 0
        self.hopeless: AiaasError | None = None
        self.facts = Facts(plan.model)
        self._plan = plan
        self._sink = sink
        self._concurrency = concurrency
        self._progress = progress
        self._cutter = Cutter(plan)
        self._blocks: Iterator[Block] = iter(())  # of what was read last
        self._again: deque[Block] = deque()
        self._is_dry = True
        self._ended = False

    @property
    def rows(self) -> int:
        """Rows read so far."""
        return self._cutter.taken

    @property
    def wants_input(self) -> bool:
        """Whether another block may be read now."""
        return self._is_dry and not self._ended

    def add(self, value: object) -> None:
        """Take the next block of rows.

        Raises:
            AiaasError: it is none.
        """
        try:
            columns = columns_of(value, self._plan)
        except AiaasError as error:
            if not self.rows:
                raise
            raise block_error(self._plan.model, self.rows, self.rows + 1, error) from error
        self._blocks, self._is_dry = self._cutter.cut(columns), False

    def end(self) -> None:
        """There is no more input."""
        self._blocks, self._is_dry, self._ended = self._cutter.flush(), False, True

    def take(self) -> Block | None:
        """The next block to send now, if there is one; count it as in flight.

        Raises:
            AiaasError: the next rows do not fit the model.
        """
        if self.in_flight >= self._concurrency:
            return None
        block = self._again.popleft() if self._again else next(self._blocks, None)
        if block is None:
            self._is_dry = True
            return None
        self.in_flight += 1
        return block

    def succeeded(self, block: Block, result: InferResult) -> None:
        """`block` was answered."""
        self.in_flight -= 1
        try:
            self._sink.put(block, result)
        except AiaasError as error:
            self._fail(block, error)
            return
        self.facts.add(result)
        self._progress.advance(block.rows)

    def failed(self, block: Block, error: AiaasError) -> None:
        """`block` was not answered."""
        self.in_flight -= 1
        self._fail(block, error)

    def _fail(self, block: Block, error: AiaasError) -> None:
        try:
            again = list(self._sink.failed(block, error))
        except AiaasError as final:
            self.hopeless = final
            return
        self._again.extend(again)
        if not again:
            self._progress.advance(block.rows)

    def finished(self) -> Iterator[Never]:
        """Nothing is handed out on the way."""
        return iter(())


class Facts:
    """What the answers tell besides their tensors, gathered."""

    def __init__(self, model: str) -> None:
        self._began = monotonic()
        self._model = model
        self._versions: set[str] = set()
        self._attempts = 0
        self._queue: float | None = None
        self._compute: float | None = None

    def add(self, result: InferResult) -> None:
        """One more answer."""
        timing = result.timing
        self._model = result.model_name or self._model
        self._versions.add(result.model_version)
        self._attempts += result.attempts
        self._queue = _sum(self._queue, timing.server_queue)
        self._compute = _sum(self._compute, timing.server_compute)

    def result(self, outputs: Mapping[str, Array]) -> InferResult:
        """All answers as one: attempts and the server's times are sums."""
        (version,) = self._versions if len(self._versions) == 1 else ("",)
        timing = Timing(monotonic() - self._began, self._queue, self._compute)
        return InferResult(
            outputs,
            model_name=self._model,
            model_version=version,
            timing=timing,
            attempts=self._attempts,
        )


def _sum(so_far: float | None, more: float | None) -> float | None:
    return so_far if more is None else (so_far or 0.0) + more
