"""A job that has a version answer to every row of a data set; the answers are a data set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from aiaas_client.protocol.datasets import Column
from aiaas_client.protocol.jobs import ScoreSpec
from aiaas_client.protocol.management import Version
from aiaas_server.core.errors import InvalidInput, ServerError
from aiaas_server.job_process import predicted, profile
from aiaas_server.job_process.parts import Parts
from aiaas_server.job_process.predicted import PredictedColumn
from aiaas_server.job_process.served import Served, served
from aiaas_server.job_process.shards import Shards
from aiaas_server.job_process.tables import kind_and_shape, of_arrow
from aiaas_server.job_process.truth import features_of
from aiaas_server.jobs.orders import OUT, MadeDataset, Order, Product
from aiaas_server.jobs.recipes.recipe import Watch

_FILE: Final = "scores.parquet"
_SHOWN: Final = 20  # failures


def run(order: Order, watch: Watch) -> Product:
    """Answer row after row, each once; go on from the rows that an attempt before had done.

    Raises:
        InvalidInput: A column is missing, `keep` names none or clashes, or no row got an answer.
    """
    spec = ScoreSpec.model_validate(order.spec)
    laid, version = order.datasets[spec.dataset], order.versions[spec.model]
    out = Path(OUT) / _FILE
    out.parent.mkdir(exist_ok=True)
    with served(Path(version.path), order.threads) as model, Parts(Path(laid.path)) as parts:
        needed = _needed(model, version.version, parts)
        columns = predicted.columns_of(model)
        kept, left_out = _kept(spec, parts, columns)
        fields = [parts.schema.field(name) for name in kept]
        told = [*(column.field for column in columns), predicted.error_field()]
        schema = pa.schema([*fields, *told])
        shards = Shards(schema, watch)
        watch.phase("answering")
        _answer(model, parts, needed, kept, columns, shards, watch)
        shards.finish(out)
        total = parts.rows
    failed = _failures(out, total)
    made = MadeDataset(
        name=spec.output or f"{version.version.model}-scores",
        path=str(out),
        rows=total,
        columns=profiled(out),
        lineage={"job": order.job, "model": spec.model, "dataset": laid.dataset.ref},
    )
    return Product(
        datasets=[made],
        metrics={"rows": total, "failed": len(failed)},
        details={"left_out": left_out, "failures": failed[:_SHOWN]},
    )


def _answer(
    model: Served,
    parts: Parts,
    needed: Sequence[str],
    kept: Sequence[str],
    columns: Sequence[PredictedColumn],
    shards: Shards,
    watch: Watch,
) -> None:
    """The rows that are not done yet."""
    began, before, params = time.monotonic(), shards.rows, model.params
    columns_read = sorted({*needed, *kept})
    for _, found in parts.read(columns_read, shards.rows, model.rows_at_once):
        answers = model.predict(model.payloads(of_arrow(found.select(needed))), params)
        arrays = [found.column(name) for name in kept]
        told = predicted.table_of(columns, answers)
        shards.add(pa.Table.from_arrays([*arrays, *told.values()], schema=shards.schema))
        seconds = max(time.monotonic() - began, 1e-9)
        rate = (shards.rows - before) / seconds
        watch.progress(shards.rows, parts.rows, "rows", rate=rate)


def _needed(model: Served, version: Version, parts: Parts) -> list[str]:
    """The columns that payloads are made of."""
    target = str(version.lineage.get("target") or "")
    return model.columns(features_of(version, target, parts.fields))


def _kept(
    spec: ScoreSpec, parts: Parts, columns: Sequence[PredictedColumn]
) -> tuple[list[str], list[str]]:
    """Columns that are carried over, and those that would be, but for a name of an answer's.

    Raises:
        InvalidInput: A column that is asked for is not there, or has the name of an answer's.
    """
    names = [field.name for field in parts.fields]
    taken = {column.field.name for column in columns} | {predicted.ERROR}
    if spec.keep is None:
        small = [name for name, kind in parts.fields if kind not in ("image", "array")]
        return [n for n in small if n not in taken], [n for n in small if n in taken]
    for name in spec.keep:
        if name not in names:
            raise InvalidInput(
                f"keep: the data set has no column '{name[:64]}'; there are {', '.join(names[:32])}"
            )
        if name in taken:
            raise InvalidInput(f"keep: column '{name}' has the name of one of the answers' columns")
    return list(dict.fromkeys(spec.keep)), []


def _failures(path: Path, rows: int) -> list[dict[str, Any]]:
    """The rows that got no answer, and why.

    Raises:
        InvalidInput: None got one.
        ServerError: There are not as many rows as there should be.
    """
    with Parts(path) as parts:
        found = parts.column(predicted.ERROR)
    if len(found) != rows:
        raise ServerError(f"{len(found)} rows were answered, expected {rows}")
    failed = [{"row": at, "message": text} for at, text in enumerate(found) if text is not None]
    if rows and len(failed) == rows:
        raise InvalidInput(f"no row got an answer; the first: {failed[0]['message']}")
    return failed


def profiled(path: Path) -> list[Column]:
    """The profile of a file, column by column; of arrays only what they are."""
    with Parts(path) as parts:
        return [
            _of_array(parts.schema.field(name))
            if kind == "array"
            else profile.columns_of(parts.arrow(name))[0]
            for name, kind in parts.fields
        ]


def _of_array(field: Any) -> Column:
    known = kind_and_shape(field)
    assert known is not None, "it is read"
    dtype = str(field.type.value_type.to_pandas_dtype().__name__)
    return Column(name=field.name, kind="array", dtype=dtype, shape=known[1])
