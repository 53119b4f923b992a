"""Predictions of a frame's rows: its payloads go out in blocks, the answers to the rows' places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aiaas_client import _payloads as payloads
from aiaas_client._api.predict import PREDICTION
from aiaas_client._bulk.batches import error_of, is_refusal
from aiaas_client._bulk.core import HOPELESS
from aiaas_client._bulk.failures import Failures
from aiaas_client._errors import AiaasError, InputError

if TYPE_CHECKING:
    from aiaas_client._api.inference import InferResult
    from aiaas_client._bulk.blocks import Block
    from aiaas_client._bulk.plan import BulkPlan
    from aiaas_client.protocol.tensors import Array

ROW = "instance"  # the column under which payloads travel through bulk work


class Predictions:
    """Takes the predictions of many payloads, each to its own place; failures stand there too.

    Args:
        plan: Its conversion makes a row of text of each payload.
        rows: The payloads.
    """

    def __init__(self, plan: BulkPlan, rows: Sequence[Any]) -> None:
        self._plan = plan
        self._rows = rows
        self._sent: list[int] = []  # places of the rows that could be sent
        self.answers: list[Any] = [None] * len(rows)

    def blocks(self) -> Iterator[dict[str, Array]]:
        """The payloads in blocks; one that cannot be sent stays behind with its error."""
        for start in range(0, len(self._rows), self._plan.max_rows):
            ready = list(self._encoded(start, start + self._plan.max_rows))
            if ready:
                yield {ROW: np.concatenate(ready)}

    def _encoded(self, start: int, stop: int) -> Iterator[Array]:
        for place, payload in enumerate(self._rows[start:stop], start):
            try:
                row = self._plan.conversion.item(payload)[ROW]
            except AiaasError as error:
                self.answers[place] = error_of(place, error)
                continue
            self._sent.append(place)
            yield row

    def put(self, block: Block, result: InferResult) -> None:
        """Take the predictions of a block, some of which may be errors."""
        for place, answer in zip(self._places(block), result[PREDICTION].tolist(), strict=True):
            if isinstance(answer, AiaasError):
                answer.index = place
            self.answers[place] = answer

    def failed(self, block: Block, error: AiaasError) -> Iterable[Block]:
        """Halves of what was refused, as one payload may be to blame; else each row has the error.

        Raises:
            AiaasError: the failure itself, where it has nothing to do with the payloads.
        """
        if isinstance(error, HOPELESS):
            raise error
        if is_refusal(error) and block.rows > 1:
            return block.halves()
        for place in self._places(block):
            self.answers[place] = error_of(place, error)
        return ()

    def _places(self, block: Block) -> list[int]:
        return self._sent[block.start : block.stop]

    def result(self, *, keep_errors: bool) -> list[Any]:
        """All answers in the order of the rows.

        Raises:
            BulkError: some failed, and errors are not to be kept in their places.
        """
        failures = Failures(self._plan.model, keep=not keep_errors)
        found = [one for answer in self.answers for one in failures.filter(answer)]
        failures.raise_any()
        return found


def with_predictions(frame: Any, found: Sequence[Any], prefix: str) -> Any:
    """The frame with a column for each simple field of the predictions, and one of errors."""
    rows = [
        {"error": str(answer)} if isinstance(answer, AiaasError) else payloads.scalar_fields(answer)
        for answer in found
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {prefix + name: [row.get(name) for row in rows] for name in names}
    return payloads.append_columns(frame, columns)


def frame_payloads(frame: Any, column: str | None) -> list[Any]:
    """The rows of a frame as records, or the values of one column.

    Raises:
        InputError: it is no frame, or has no such column.
    """
    if not payloads.is_frame(frame):
        raise InputError(f"expected a pandas or polars frame, got {type(frame).__name__}")
    if column is None:
        return payloads.records_of(frame)
    count = list(frame.columns).count(column)
    if count != 1:
        listed = ", ".join(map(str, frame.columns))
        much = f"no column '{column}'" if not count else f"{count} columns '{column}'"
        raise InputError(f"the frame has {much}; it has {listed}")
    return list(frame[column].to_list())
