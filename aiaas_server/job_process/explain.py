"""A job that tells what a version looks at, over a whole data set.

* Permutation importance: what the metric loses when the values of one column are dealt out anew
  among the rows; a few times, since it is chance what comes where. Columns that say the same stand
  in for each other, and may all seem to matter little.
* Partial dependence: the mean answer when every row has the same value in one column, value by
  value. Pairs of values that never occur together are asked for as well.

Sources: Breiman 2001, *Random Forests*; Friedman 2001, *Greedy Function Approximation*.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_client.protocol.jobs import ExplainSpec
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process import drawing
from aiaas_server.job_process.evaluate import metrics_of
from aiaas_server.job_process.parts import Parts, chosen_parts
from aiaas_server.job_process.report import explanation_report
from aiaas_server.job_process.served import Served, served
from aiaas_server.job_process.truth import Measured, features_of, measured
from aiaas_server.jobs.orders import OUT, LaidVersion, Order, Product
from aiaas_server.jobs.recipes.recipe import Watch
from aiaas_server.jobs.table import Field, Table

Array = np.ndarray[Any, Any]

POINTS: Final = 20
"""Quantiles of a number at which a curve is told."""
MOST_VALUES: Final = 30
"""Categories of a curve, the most frequent ones."""
CURVE_ROWS: Final = 500
"""Over which a curve is averaged."""
_CURVED: Final = ("number", "integer", "boolean", "category")


class Looked(NamedTuple):
    """What the version is asked about: rows with their truth.

    Attributes:
        metric: That is lost: `accuracy`, or `r2`, or of a truth that is always the same `mse`.
        baseline: Its value as the rows are.
    """

    found: Measured
    table: Table
    metric: str
    baseline: float


def run(order: Order, watch: Watch) -> Product:
    """Shuffle each column, draw the curves of those that matter most, and report.

    Raises:
        InvalidInput: See `truth.measured`; or the version is not one of columns.
    """
    spec = ExplainSpec.model_validate(order.spec)
    version, laid = order.versions[spec.model], order.datasets[spec.dataset]
    watch.phase("reading")
    found = _some(
        measured(laid, [version.version], spec.target, spec.held_out), spec.rows, spec.seed
    )
    with served(Path(version.path), order.threads) as model:
        table = _read(model, version, found)
        watch.phase("answering")
        looked = _looked(model, found, table)
        watch.phase("shuffling")
        drops = _drops(model, looked, spec, watch)
        importance = _importance(drops)
        watch.phase("curves")
        curves = _curves(model, looked, importance, spec, watch)
    watch.phase("reporting")
    facts = {
        "model": spec.model,
        "dataset": laid.dataset.ref,
        "target": found.target,
        "held_out": spec.held_out,
        "rows": table.rows,
        "metric": looked.metric,
        "baseline": looked.baseline,
        "repeats": spec.repeats,
        "seed": spec.seed,
    }
    return Product(
        metrics={name: facts[name] for name in ("rows", "metric", "baseline")},
        table=importance,
        details={"curves": curves, "drops": drops, **facts},
        files=_files(f"What {spec.model} looks at", facts, importance, curves),
    )


# What is asked


def _some(found: Measured, most: int, seed: int) -> Measured:
    """At most so many of the rows."""
    if len(found.rows) <= most:
        return found
    kept = np.sort(np.random.default_rng(seed).choice(len(found.rows), most, replace=False))
    return found._replace(rows=found.rows[kept], truth=found.truth.take(kept))


def _read(model: Served, version: LaidVersion, found: Measured) -> Table:
    task = model.model.task
    if task is None or task.input != "features":
        takes = "tensors" if task is None else f"payloads of kind '{task.input}'"
        raise InvalidInput(
            f"only versions of columns can be explained over a data set, this one takes {takes}; "
            "single texts and pictures are explained by model.explain(...)"
        )
    with Parts(found.path) as parts:
        columns = model.columns(features_of(version.version, found.target, parts.fields))
        read = list(chosen_parts(parts, columns, found.rows))
    fields = read[0].fields
    whole = {field.name: np.concatenate([one[field.name] for one in read]) for field in fields}
    return Table(fields, whole)


def _looked(model: Served, found: Measured, table: Table) -> Looked:
    told = metrics_of(found, model.answers(table))
    for metric in ("accuracy", "r2", "mse"):
        value = told.get(metric)
        if isinstance(value, float):
            return Looked(found, table, metric, value)
    raise InvalidInput(f"column '{found.target}': no metric is defined on these rows")


# Importance


def _drops(
    model: Served, looked: Looked, spec: ExplainSpec, watch: Watch
) -> dict[str, list[float]]:
    """By column what each shuffling took off the metric; what another attempt did is kept."""
    known: dict[str, list[float]] = {}
    if watch.restored is not None:
        known = json.loads(watch.restored.read_text("utf-8"))
    names = looked.table.names
    total = len(names) * spec.repeats
    for at, name in enumerate(names):
        if name not in known:
            # Each column has draws of its own, so that it is the same wherever a job goes on.
            draw = np.random.default_rng([spec.seed, at])
            known[name] = [_lost(model, looked, name, draw) for _ in range(spec.repeats)]
            watch.checkpoint(at + 1, partial(_write, json.dumps(known)))
        watch.progress((at + 1) * spec.repeats, total, "shuffles")
    return known


def _write(text: str, path: Path) -> None:
    path.write_text(text, "utf-8")


def _lost(model: Served, looked: Looked, name: str, draw: np.random.Generator) -> float:
    table = looked.table
    dealt = table[name][draw.permutation(table.rows)]
    answers = model.answers(table.with_column(Field(name, table.kind(name)), dealt))
    value = metrics_of(looked.found, answers)[looked.metric]
    lost = looked.baseline - float(value)
    return -lost if looked.metric == "mse" else lost


def _importance(drops: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """A row a column, the most important first: mean drop, and its deviation over the repeats."""
    rows = [
        {
            "feature": name,
            "importance": float(np.mean(lost)),
            "error": float(np.std(lost, ddof=1)) if len(lost) > 1 else 0.0,
        }
        for name, lost in drops.items()
    ]
    return sorted(rows, key=lambda row: -float(row["importance"]))


# Partial dependence


def _curves(
    model: Served,
    looked: Looked,
    importance: Sequence[Mapping[str, Any]],
    spec: ExplainSpec,
    watch: Watch,
) -> dict[str, dict[str, Any]]:
    """By column its values, and the mean answer at each: of every label, or of the number."""
    table = looked.table
    named = [row["feature"] for row in importance if table.kind(row["feature"]) in _CURVED]
    kept = np.random.default_rng(spec.seed).permutation(table.rows)[:CURVE_ROWS]
    rows = table.take(np.sort(kept))
    found = {}
    for done, name in enumerate(named[: spec.curves], 1):
        values = _places(table[name], table.kind(name))
        curve = _curve(model, rows, name, values)
        if curve["values"]:
            found[name] = curve
        watch.progress(done, min(spec.curves, len(named)), "curves")
    return found


def _places(column: Array, kind: str) -> list[Any]:
    """Where a curve is told: quantiles of numbers, the values of what has few."""
    if kind in ("number", "integer"):
        there = column[~np.isnan(column.astype(np.float64))]
        if not len(there):
            return []
        share = np.linspace(0, 1, POINTS)
        whole = kind == "integer"  # a value between two may be none that the version takes
        places = np.quantile(there, share, method="nearest" if whole else "linear")
        return [int(one) if whole else float(one) for one in np.unique(places)]
    there = np.array([value for value in column.tolist() if value is not None], object)
    values, counts = np.unique(there.astype(str), return_counts=True)
    kept = {str(value) for value in values[np.argsort(-counts, kind="stable")[:MOST_VALUES]]}
    return sorted({value for value in there.tolist() if str(value) in kept}, key=str)


def _curve(model: Served, rows: Table, name: str, values: Sequence[Any]) -> dict[str, Any]:
    kind = rows.kind(name)
    lines: dict[str, list[float]] = {}
    asked = []
    for value in values:
        same = np.empty(rows.rows, object if kind == "category" else None)
        same[:] = value
        try:
            answers = model.answers(rows.with_column(Field(name, kind), same))
        except InvalidInput:  # a category that the version does not know
            continue
        asked.append(value)
        told = answers.values[:, None] if answers.scores is None else answers.scores  # type: ignore[index]
        means = np.nanmean(told, axis=0).tolist()
        for label, mean in zip(answers.classes or ("value",), means, strict=True):
            lines.setdefault(label, []).append(mean)
    if len(lines) == 2:
        lines.pop(next(iter(lines)))  # of two labels the one is the other, turned round
    return {"values": asked, "lines": lines}


# Files


def _files(
    title: str,
    facts: Mapping[str, Any],
    importance: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Mapping[str, Any]],
) -> dict[str, str]:
    out = Path(OUT)
    out.mkdir(exist_ok=True)
    explanation_report(
        out / "report.html", title=title, facts=facts, importance=importance, curves=curves
    )
    top = importance[:40]
    drawn = {
        "importance.svg": drawing.bars(
            "importance",
            [str(row["feature"]) for row in top],
            [row["importance"] for row in top],
            [row["error"] for row in top],
        )
    }
    for number, (name, curve) in enumerate(curves.items(), 1):
        drawn[f"dependence-{number}.svg"] = drawing.dependence(
            name, curve["values"], curve["lines"]
        )
    for file, svg in drawn.items():
        (out / file).write_text(svg, "utf-8")
    return {file: f"{OUT}/{file}" for file in ("report.html", *drawn)}
