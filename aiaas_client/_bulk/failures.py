"""What is handed out of bulk work, and what is raised at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from aiaas_client._api.inference import InferResult
from aiaas_client._bulk.pending import PendingInput, PendingRows
from aiaas_client._bulk.plan import KEPT_FAILURES
from aiaas_client._bulk.progress import Silent
from aiaas_client._errors import AiaasError, BlockError, BulkError

if TYPE_CHECKING:
    from aiaas_client._bulk.plan import Outcome
    from aiaas_client._bulk.progress import Progress


class Failures:
    """Sorts outcomes into what is handed out and what is raised at the end.

    Args:
        model: Its name, for the message.
        keep: Failures are raised at the end; otherwise they are handed out.
        most: Failures kept to be looked at; the others are only counted.
        read: What to hand out for a result, which may turn out to be an error.
    """

    def __init__(
        self,
        model: str,
        *,
        keep: bool,
        most: int = KEPT_FAILURES,
        read: Callable[[InferResult], Any] | None = None,
    ) -> None:
        self._model = model
        self._keep = keep
        self._most = most
        self._read = read
        self._errors: dict[int, Exception] = {}
        self._failed = 0
        self._seen = 0

    @property
    def passes_results(self) -> bool:
        """Whether results are handed out as they are."""
        return self._read is None

    def filter(self, outcome: Outcome) -> Iterator[Any]:
        """Give what is handed out: nothing for an error that is raised at the end."""
        self._seen += 1
        found: Any = outcome
        if self._read is not None and isinstance(outcome, InferResult):
            found = self._read(outcome)
        if not isinstance(found, AiaasError) or not self._keep:
            yield found
            return
        self._failed += 1
        if len(self._errors) < self._most and found.index is not None:
            self._errors[found.index] = found

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


def handed_out(finished: PendingInput, failures: Failures, progress: Progress) -> Iterator[Any]:
    """What the caller gets of an input that is done with, counted and told."""
    is_plain = failures.passes_results and isinstance(progress, Silent)
    if is_plain and isinstance(finished, PendingRows) and finished.is_success:
        failures.passed(finished.rows)
        return finished.outcomes()  # nothing else to be done for each of very many rows
    return _sifted(finished, failures, progress)


def _sifted(finished: PendingInput, failures: Failures, progress: Progress) -> Iterator[Any]:
    for outcome in finished.outcomes():
        progress.advance()
        yield from failures.filter(outcome)


def block_error(model: str, start: int, stop: int, error: AiaasError) -> BlockError:
    """What is raised for rows `start` to `stop` when `error` has ended a call of many rows."""
    rows = f"row {start}" if stop == start + 1 else f"rows {start} to {stop - 1}"
    return BlockError(
        f"model {model!r}: {rows} failed: {error}",
        start=start,
        stop=stop,
        failures={start: error},
        count=stop - start,
        model=model,
        request_id=error.request_id,
        attempts=error.attempts,
        elapsed=error.elapsed,
        endpoint=error.endpoint,
    )
