"""How bulk work carries payloads: one a row of text, and its prediction a row of objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aiaas_client import _payloads as payloads
from aiaas_client._api import predict as calls
from aiaas_client._bulk.plan import BulkOptions, BulkPlan
from aiaas_client._errors import AiaasError
from aiaas_client._models.frames import ROW, Predictions

if TYPE_CHECKING:
    from aiaas_client._api.call import Call
    from aiaas_client._api.inference import InferResult
    from aiaas_client._bulk.plan import Tensors
    from aiaas_client._bulk.runners import Work

MAX_INSTANCES = 64  # payloads in one request of a bulk call


@dataclass(frozen=True, slots=True)
class PayloadBulk:
    """One bulk call: how payloads become rows, rows a request, and answers predictions."""

    model: str
    version: str | None
    files: bool
    params: Mapping[str, Any]

    def plan(self, options: BulkOptions) -> BulkPlan:
        """Any payload shares a request with any other."""
        most = options.max_rows or MAX_INSTANCES
        return BulkPlan(self.model, self, True, most, options.max_bytes)

    def frame_work(
        self, rows: Sequence[Any], options: BulkOptions
    ) -> tuple[Work, Callable[[], list[Any]]]:
        """What is to be done for the rows of a frame, and what gives the answers in the end."""
        from aiaas_client._bulk.runners import Work

        plan = self.plan(options)
        predictions = Predictions(plan, rows)
        work, _ = Work.of_rows(plan, options, predictions.blocks(), len(rows), predictions)
        keep = options.on_error == "return"
        return work, lambda: predictions.result(keep_errors=keep)

    def item(self, value: object) -> Tensors:
        """One payload as a row of text."""
        row = np.empty(1, object)
        try:
            row[0] = payloads.encode(value, files=self.files)
        except OSError as error:
            raise calls.unreadable(self.model, error) from None
        return {ROW: row}

    def block(self, value: Any) -> Tensors:
        """Rows of text, made one by one before."""
        return dict(value)

    def named(self, value: object) -> object:
        """Payloads have no names."""
        return value

    def call(self, rows: Mapping[str, Any]) -> Call[InferResult]:
        """The request of one batch."""
        return calls.predict(self.model, self.version, rows[ROW].tolist(), self.params)

    def read(self, result: InferResult) -> Any:
        """The prediction, or the error that stands in its place."""
        answer = result[calls.PREDICTION].item()
        if isinstance(answer, AiaasError):
            answer.index = result.index
        return answer
