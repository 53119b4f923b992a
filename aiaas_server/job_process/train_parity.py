"""The gate between a trainer and its export: what is served answers as what was trained.

Rows of the training, and rows at the edge (gaps, zeros, extremes, values never seen), go through
the exported bundle as through a server, and through the trainer's own library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_server.core.errors import Rejected
from aiaas_server.job_process.served import Answers, Served
from aiaas_server.jobs.recipes.recipe import Diverged, Fitted
from aiaas_server.jobs.table import Field, Table

Array = np.ndarray[Any, Any]

_ROWS: Final = 1000  # of the training
_SINGLY: Final = 32  # columns that are missing one at a time
_TOLD: Final = 10  # rows that a failure shows
_CELLS: Final = 16  # columns of such a row
_FAR: Final = 1e30  # float32 holds it
UNSEEN: Final = "a value never seen"


class ParityFailed(Rejected):
    """The exported model answers otherwise than the trainer's library."""

    job_code = "parity"

    def __init__(self, message: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.details = {"rows": rows}


class Sample(NamedTuple):
    """Rows with a name each: `row 17`, `zeros`, `colour is missing`."""

    table: Table
    names: Sequence[str]


def check_parity(
    fitted: Fitted, served: Served, learned: Table, classes: tuple[str, ...], tolerance: float
) -> dict[str, Any]:
    """Hold the one against the other.

    Args:
        learned: The rows that were learned from.
        tolerance: See `Exported`.

    Returns:
        `rows` and `largest_difference`.

    Raises:
        ParityFailed: A row differs; shows the worst.
        Diverged: The trainer's own answers are no numbers.
    """
    chosen = evenly(learned.rows, _ROWS)
    sample = Sample(learned.take(chosen), [f"row {row} of the training" for row in chosen])
    scale = _compare(fitted, served, sample, classes, tolerance, None)
    edge = edges_of(learned)
    edges = _compare(fitted, served, edge, classes, tolerance, scale.spread)
    return {
        "rows": len(chosen) + len(edge.names),
        "largest_difference": max(scale.largest, edges.largest),
        "tolerance": tolerance,
    }


class _Compared(NamedTuple):
    largest: float
    spread: float


def _compare(
    fitted: Fitted,
    served: Served,
    sample: Sample,
    classes: tuple[str, ...],
    tolerance: float,
    spread: float | None,
) -> _Compared:
    """Args: spread: Of the values on the training rows; None where these are they."""
    own = fitted.answer(sample.table)
    if spread is None and not np.isfinite(own).all():
        raise Diverged("the trained model answers with what is not a number")
    answers = served.answers(sample.table)
    # A server may refuse what no caller should ask; it may not refuse what was learned from.
    refused = set(answers.failed) if spread is not None else set()
    got = in_order(answers, classes)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(got - own)
    difference[~np.isfinite(own) & ~np.isfinite(got)] = 0.0
    spread = float(np.std(own)) if spread is None else spread
    if classes:
        wrong = ~(difference <= tolerance).all(axis=1) | _other_label(own, got, tolerance)
        largest = difference.max(axis=1, initial=0.0)
    else:
        wrong = ~(difference <= tolerance * (np.abs(own) + spread))
        largest = difference
    wrong[list(refused)] = False
    if wrong.any():
        raise _failed(np.flatnonzero(wrong), largest, sample, own, got, answers)
    return _Compared(float(np.nanmax(largest, initial=0.0)), spread)


def _other_label(own: Array, got: Array, tolerance: float) -> Array:
    """Rows whose best class differs, and not because two are as good as equal."""
    best, other = own.argmax(axis=1), got.argmax(axis=1)
    rows = np.arange(len(own))
    found: Array = (best != other) & (own[rows, best] - own[rows, other] > 2 * tolerance)
    return found


def in_order(answers: Answers, classes: tuple[str, ...]) -> Array:
    """Scores in the order of the classes, `[rows, classes]`, or values, `[rows]`; NaN where it
    failed.
    """
    if not classes:
        assert answers.values is not None, "it was trained on values"
        return answers.values
    assert answers.scores is not None, "it was trained on classes"
    found = np.zeros((len(answers.scores), len(classes)))
    for at, label in enumerate(classes):
        if label in answers.classes:
            found[:, at] = answers.scores[:, answers.classes.index(label)]
    found[list(answers.failed)] = np.nan
    return found


def _failed(
    rows: Array, largest: Array, sample: Sample, own: Array, got: Array, answers: Answers
) -> ParityFailed:
    worst = rows[np.argsort(-np.nan_to_num(largest[rows], nan=np.inf), kind="stable")][:_TOLD]
    shown = [
        {
            "row": sample.names[row],
            "values": _cells(sample.table, row),
            "trained": plain(own[row]),
            "served": answers.failed.get(int(row), plain(got[row])),
        }
        for row in worst.tolist()
    ]
    text = (
        f"the exported model answers otherwise than the trained one in {len(rows)} of "
        f"{len(sample.names)} rows, {shown[0]['row']} first: "
        f"{shown[0]['trained']} was trained, {shown[0]['served']} is served"
    )
    return ParityFailed(text[:1024], shown)


def _cells(table: Table, row: int) -> dict[str, Any]:
    return {name: plain(table[name][row]) for name in table.names[:_CELLS]}


def plain(value: Any) -> Any:
    """A cell as JSON has it, shortened."""
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value.reshape(-1)[:_CELLS].tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)[:256]


def evenly(rows: int, most: int) -> Array:
    """At most so many indices, spread over all."""
    if rows <= most:
        return np.arange(rows)
    return np.unique(np.linspace(0, rows - 1, most).astype(np.int64))


Cell = Callable[..., Any]  # of a field and its values


def edges_of(table: Table) -> Sample:
    """Rows that training seldom sees and callers send."""
    kinds: dict[str, Cell] = {
        "everything is missing": _gap,
        "zeros": partial(_number, choose=lambda numbers: numbers[0] * 0),
        "smallest": partial(_number, choose=np.nanmin),
        "largest": partial(_number, choose=np.nanmax),
        "beyond all": partial(_number, choose=_beyond),
        "values never seen": _unseen,
    }
    for name in table.names[:_SINGLY]:
        kinds[f"'{name}' is missing"] = partial(_gap, only=name)
    fields = [Field(f.name, "number" if f.kind == "integer" else f.kind) for f in table.fields]
    values = {
        field.name: _column(
            field, [cell(field, table[field.name]) for cell in kinds.values()], table
        )
        for field in fields
    }
    return Sample(Table(fields, values), list(kinds))


def _gap(field: Field, values: Array, only: str | None = None) -> Any:
    """A gap, in every column or in the one of that name."""
    if only not in (None, field.name):
        return values[0]
    if field.kind == "number":
        return np.nan
    return None if field.kind in ("boolean", "category") else values[0]


def _number(field: Field, values: Array, choose: Callable[[Array], Any]) -> Any:
    if field.kind == "number":
        known = values[~np.isnan(values.astype(np.float64))]
        return choose(known) if len(known) else np.nan
    if field.kind == "array":
        return np.full(values.shape[1:], choose(values.reshape(-1)))
    return values[0]


def _beyond(numbers: Array) -> Any:
    if numbers.dtype.kind == "u":  # such as pixels: their range is what it is
        return numbers.max()
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    return min(high + 10.0 * (high - low), max(high, _FAR))


def _unseen(field: Field, values: Array) -> Any:
    if field.kind in ("category", "text"):
        return UNSEEN
    return values[0]


def _column(field: Field, cells: list[Any], table: Table) -> Array:
    if field.kind == "number":
        return np.array(cells, np.float64)
    if field.kind == "array":
        return np.stack(cells).astype(table[field.name].dtype)
    if field.kind == "time":
        return np.array(cells, table[field.name].dtype)
    found = np.empty(len(cells), object)
    found[:] = cells
    return found
