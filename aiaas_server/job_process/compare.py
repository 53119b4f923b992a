"""A job that measures two versions on the same rows, and says what of the difference is chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_client.protocol.jobs import CompareSpec
from aiaas_client.protocol.management import Version
from aiaas_server.core.describe.card import CARD_NAME, read_card
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.answers import Answers
from aiaas_server.job_process.evaluate import answered_rows, known_labels
from aiaas_server.job_process.metrics import classification_metrics, coded, regression_metrics
from aiaas_server.job_process.resampling import (
    Weighed,
    interval,
    mcnemar,
    resampled,
    weighed_labels,
    weighed_numbers,
)
from aiaas_server.job_process.served import served
from aiaas_server.job_process.truth import Measured, answered, measured
from aiaas_server.jobs.orders import LaidVersion, Order, Product
from aiaas_server.jobs.recipes.recipe import Watch

Array = np.ndarray[Any, Any]

MOST_CHANGED: Final = 100  # rows shown of each kind of change
_LABELS: Final = ("accuracy", "precision", "recall", "f1", "roc_auc", "log_loss")
_NUMBERS: Final = ("mse", "rmse", "mae", "r2")
LESS_IS_BETTER: Final = frozenset({"log_loss", "mse", "rmse", "mae"})


class Side(NamedTuple):
    """One of the two versions.

    Attributes:
        metrics: Of the rows that both answered.
        weighed: See `resampling`.
        answers: `[rows]` labels or values.
    """

    metrics: dict[str, Any]
    weighed: dict[str, Weighed]
    answers: Array


def run(order: Order, watch: Watch) -> Product:
    """Answer the rows by both, one version after the other, and compare.

    Raises:
        InvalidInput: The versions have different tasks; or see `truth.measured`.
    """
    spec = CompareSpec.model_validate(order.spec)
    laid = order.datasets[spec.dataset]
    pair = [order.versions[ref] for ref in spec.models]
    watch.phase("reading")
    found = measured(laid, [one.version for one in pair], spec.target, spec.held_out)
    check_tasks(pair)
    both = [_answered(one, found, order.threads, watch) for one in pair]
    a, b = both
    kept = answered_rows(len(found.rows), a) & answered_rows(len(found.rows), b)
    if not kept.any():
        raise InvalidInput("there is no row that both versions answered")
    watch.phase("comparing")
    sides = [_side(found, answers, kept, spec.resamples) for answers in both]
    details = {
        "a": spec.models[0],
        "b": spec.models[1],
        "dataset": laid.dataset.ref,
        "target": found.target,
        "held_out": spec.held_out,
        "rows": int(kept.sum()),
        "failed": {"a": len(a.failed), "b": len(b.failed)},
        "without_truth": found.missing,
        "confidence": spec.confidence,
        "resamples": spec.resamples,
        **_changes(found, kept, sides, labels=a.scores is not None),
    }
    return Product(
        table=_table(sides, int(kept.sum()), spec, watch),
        details=details,
        metrics={
            name: sides[1].metrics[name] for name in _LABELS + _NUMBERS if name in sides[1].metrics
        },
    )


def check_tasks(pair: list[LaidVersion]) -> None:
    """Two versions are compared only where they do the same.

    Raises:
        InvalidInput: They do not; both tasks are named.
    """
    tasks = [_task(one.version, Path(one.path)) for one in pair]
    if tasks[0] != tasks[1]:
        names = [f"{one.version.model}@{one.version.version}" for one in pair]
        raise InvalidInput(
            f"only versions of the same task can be compared: {names[0]} is of "
            f"'{tasks[0]}', {names[1]} of '{tasks[1]}'"
        )


def _task(version: Version, directory: Path) -> str:
    path = directory / CARD_NAME
    return read_card(path.read_bytes()).task if path.exists() else "no task"


def _answered(laid: LaidVersion, found: Measured, threads: int, watch: Watch) -> Answers:
    watch.phase(f"answering by {laid.version.model}@{laid.version.version}")
    with served(Path(laid.path), threads) as model:
        return answered(model, laid.version, found, watch)


def _side(found: Measured, answers: Answers, kept: Array, resamples: int) -> Side:
    if answers.scores is None:
        assert answers.values is not None, "numbers, where there are no labels"
        truth, values = found.values[kept], answers.values[kept]
        return Side(regression_metrics(truth, values), weighed_numbers(truth, values), values)
    labels, scores = known_labels(found, answers)[kept], answers.scores[kept]
    told = answers.labels[kept]
    metrics = classification_metrics(labels, scores, answers.classes, told)
    weighed = weighed_labels(coded(labels, scores, answers.classes, told), scores, resamples)
    return Side(metrics, weighed, told)


def _table(sides: list[Side], rows: int, spec: CompareSpec, watch: Watch) -> list[dict[str, Any]]:
    """A row a metric: both values, the difference and its interval."""
    a, b = sides

    def progress(done: int, resamples: int) -> None:
        watch.progress(done, resamples, "resamples")

    drawn = resampled(a.weighed, b.weighed, rows, spec.resamples, spec.seed, progress)
    table = []
    for name in (name for name in _LABELS + _NUMBERS if name in a.metrics):
        one, other = a.metrics[name], b.metrics[name]
        difference = None if one is None or other is None else other - one
        low, high = interval(drawn[name], spec.confidence) if name in drawn else (None, None)
        table.append(
            {
                "metric": name,
                "a": one,
                "b": other,
                "difference": difference,
                "low": low,
                "high": high,
                "better": _better(name, low, high),
            }
        )
    return table


def _better(name: str, low: float | None, high: float | None) -> str | None:
    """Which one is better beyond chance: `a`, `b`, or None where the interval holds 0."""
    if low is None or high is None or low <= 0.0 <= high:
        return None
    return "b" if (low > 0.0) != (name in LESS_IS_BETTER) else "a"


def _changes(found: Measured, kept: Array, sides: list[Side], labels: bool) -> dict[str, Any]:
    """Which rows the second version gets right or wrong that the first one did not."""
    rows, (a, b) = found.rows[kept], (side.answers for side in sides)
    if not labels:
        return _moved(rows, found.values[kept], a, b)
    truth = found.labels[kept]
    was, now = a == truth, b == truth

    def shown(which: Array) -> list[dict[str, Any]]:
        return [
            {"row": int(rows[at]), "truth": truth[at], "a": a[at], "b": b[at]}
            for at in np.flatnonzero(which)[:MOST_CHANGED]
        ]

    fixed, broken = ~was & now, was & ~now
    return {
        "changed": int((a != b).sum()),
        "fixed": {"rows": int(fixed.sum()), "shown": shown(fixed)},
        "broken": {"rows": int(broken.sum()), "shown": shown(broken)},
        "mcnemar": {
            "only_a_right": int(broken.sum()),
            "only_b_right": int(fixed.sum()),
            "p_value": mcnemar(int(broken.sum()), int(fixed.sum())),
        },
    }


def _moved(rows: Array, truth: Array, a: Array, b: Array) -> dict[str, Any]:
    """Rows whose error shrank or grew, those that moved most first."""
    gain = np.abs(a - truth) - np.abs(b - truth)

    def shown(which: Array) -> list[dict[str, Any]]:
        order = which[np.argsort(-np.abs(gain[which]), kind="stable")][:MOST_CHANGED]
        return [
            {"row": int(rows[at]), "truth": float(truth[at]), "a": float(a[at]), "b": float(b[at])}
            for at in order
        ]

    better, worse = np.flatnonzero(gain > 0), np.flatnonzero(gain < 0)
    return {
        "changed": int((a != b).sum()),
        "fixed": {"rows": len(better), "shown": shown(better)},
        "broken": {"rows": len(worse), "shown": shown(worse)},
    }
