"""Predictions as columns of a data set: a label with its scores, a number, a vector, or JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from aiaas_client.protocol.predictions import (
    Classification,
    Embedding,
    ImageClassification,
    Regression,
)
from aiaas_server.core.errors import ServerError
from aiaas_server.job_process.answers import scores_of
from aiaas_server.job_process.served import Served
from aiaas_server.job_process.tables import field_of

MOST_COLUMNS: Final = 100  # of classes; of more only the best one is told
ERROR: Final = "error"

Cells = Callable[[Sequence[Any]], Any]
"""The Arrow array of predictions, None where a row failed."""


class PredictedColumn(NamedTuple):
    """One column, and how its cells come of predictions."""

    field: Any
    cells: Cells


def columns_of(served: Served) -> list[PredictedColumn]:
    """What the answers of a version are told in; the last column tells what failed."""
    assert served.model.task is not None, "it makes predictions"
    kind = served.model.task.predictions[0]
    if issubclass(kind, Classification | ImageClassification):
        found = _of_labels(served.labels)
    elif issubclass(kind, Regression):
        found = _of_numbers(served)
    elif issubclass(kind, Embedding):
        found = [_vector(served)]
    else:
        found = [_column("prediction", "text", lambda one: one.model_dump_json())]
    return found


def table_of(columns: Sequence[PredictedColumn], answers: Sequence[Any]) -> dict[str, Any]:
    """Arrow arrays by column, `error` among them."""
    whole = [None if isinstance(one, ServerError) else one for one in answers]
    failed = [one.message if isinstance(one, ServerError) else None for one in answers]
    arrays = {column.field.name: column.cells(whole) for column in columns}
    return {**arrays, ERROR: pa.array(failed, pa.string())}


def error_field() -> Any:
    """Of the column that tells what was wrong with a row."""
    return field_of(ERROR, pa.string(), "text")


def _column(name: str, kind: Any, cell: Callable[[Any], Any]) -> PredictedColumn:
    arrow = pa.float64() if kind == "number" else pa.string()

    def cells(answers: Sequence[Any]) -> Any:
        return pa.array([None if one is None else cell(one) for one in answers], arrow)

    return PredictedColumn(field_of(name, arrow, kind), cells)


def _of_labels(labels: Sequence[str]) -> list[PredictedColumn]:
    def score_of(label: str) -> Callable[[Any], float]:
        return lambda one: scores_of(one).get(label, 0.0)

    known = list(dict.fromkeys(labels))
    each = known if len(known) <= MOST_COLUMNS else []
    return [
        _column("prediction", "category", lambda one: one.label),
        _column("score", "number", lambda one: one.score),
        *(_column(f"score:{label}", "number", score_of(label)) for label in each),
    ]


def _of_numbers(served: Served) -> list[PredictedColumn]:
    def value_of(name: str) -> Callable[[Any], float | None]:
        return lambda one: one.values.get(name)

    names = served.card.postprocessing.get("names", []) if served.card is not None else []
    several = [str(name) for name in names] if isinstance(names, list) else []
    return [
        _column("value", "number", lambda one: one.value),
        *(_column(f"value:{name}", "number", value_of(name)) for name in several),
    ]


def _vector(served: Served) -> PredictedColumn:
    """Vectors of one length, which a text of one letter tells; NaN in rows that failed."""
    probe = served.predict(["a"])[0]
    if isinstance(probe, ServerError):
        raise probe
    width = len(probe.vector)
    arrow = pa.list_(pa.float32(), width)

    def cells(answers: Sequence[Any]) -> Any:
        nothing = [np.nan] * width
        rows = [nothing if one is None else one.vector for one in answers]
        flat = np.array(rows, np.float32).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), width)

    return PredictedColumn(field_of("embedding", arrow, "array", [width]), cells)
