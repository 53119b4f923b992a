"""A job that measures a version on a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from aiaas_client.protocol.jobs import EvaluateSpec
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.answers import Answers
from aiaas_server.job_process.metrics import classification_metrics, regression_metrics
from aiaas_server.job_process.served import served
from aiaas_server.job_process.truth import Measured, answered, measured
from aiaas_server.jobs.orders import Order, Product
from aiaas_server.jobs.recipes.recipe import Watch

Array = np.ndarray[Any, Any]

WORST: Final = 50  # rows that are shown
_SHOWN_FAILURES: Final = 20
_DETAILS: Final[tuple[str, ...]] = ("per_class", "confusion", "calibration")


def run(order: Order, watch: Watch) -> Product:
    """Answer the rows, and hold the answers against the truth.

    Raises:
        InvalidInput: See `truth.measured`; or the version tells neither labels nor numbers.
    """
    spec = EvaluateSpec.model_validate(order.spec)
    laid, version = order.datasets[spec.dataset], order.versions[spec.model]
    watch.phase("reading")
    found = measured(laid, [version.version], spec.target, spec.held_out)
    watch.phase("answering")
    with served(Path(version.path), order.threads) as model:
        answers = answered(model, version.version, found, watch)
    watch.phase("measuring")
    told = metrics_of(found, answers)
    details: dict[str, Any] = {name: told.pop(name) for name in _DETAILS if name in told}
    where = {
        "dataset": laid.dataset.ref,
        "target": found.target,
        "held_out": spec.held_out,
        "failed": len(answers.failed),
        "without_truth": found.missing,
    }
    return Product(
        metrics={**told, **where},
        measured={spec.model: {"evaluation": {**told, **where}}},
        details={
            **details,
            "worst": worst(found, answers),
            "failures": failures(found, answers.failed),
        },
    )


def metrics_of(found: Measured, answers: Answers) -> dict[str, Any]:
    """The metrics of the rows that got an answer.

    Raises:
        InvalidInput: The truth is of another kind than the answers, or shares no label with them.
    """
    kept = answered_rows(len(found.rows), answers)
    if answers.scores is None:
        assert answers.values is not None, "numbers, where there are no labels"
        return regression_metrics(found.values[kept], answers.values[kept])
    labels = known_labels(found, answers)
    return classification_metrics(
        labels[kept], answers.scores[kept], answers.classes, answers.labels[kept]
    )


def answered_rows(rows: int, answers: Answers) -> Array:
    """Which rows got an answer, `[rows]` of booleans."""
    kept = np.ones(rows, bool)
    kept[list(answers.failed)] = False
    return kept


def known_labels(found: Measured, answers: Answers) -> Array:
    """The truth as texts.

    Raises:
        InvalidInput: None of them is a label of the version: it is another column, or another set.
    """
    labels = found.labels
    true = sorted(set(labels.tolist()))
    if not set(true) & {*answers.classes, *answers.labels.tolist()}:
        raise InvalidInput(
            f"column '{found.target}': none of its labels ({_listed(true)}) is one of the "
            f"version's ({_listed(answers.classes)})"
        )
    return labels


def worst(found: Measured, answers: Answers) -> list[dict[str, Any]]:
    """The rows that it was surest of and wrong in, or the greatest errors; `row` from 0."""
    kept = answered_rows(len(found.rows), answers)
    if answers.scores is None:
        assert answers.values is not None, "numbers, where there are no labels"
        truth, error = found.values, np.abs(found.values - answers.values)
        order = np.argsort(-np.where(kept, error, -1.0), kind="stable")[:WORST]
        return [
            {
                "row": int(found.rows[at]),
                "truth": float(truth[at]),
                "answer": float(answers.values[at]),
                "error": float(error[at]),
            }
            for at in order
            if kept[at]
        ]
    labels, told = found.labels, answers.labels
    sure = np.max(np.where(np.isnan(answers.scores), -np.inf, answers.scores), axis=1)
    wrong = np.flatnonzero(kept & (labels != told))
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:WORST]
    return [
        {
            "row": int(found.rows[at]),
            "truth": labels[at],
            "answer": told[at],
            "score": float(sure[at]),
        }
        for at in order
    ]


def failures(found: Measured, failed: Mapping[int, str]) -> list[dict[str, Any]]:
    """The first rows that got no answer, and why."""
    first = sorted(failed)[:_SHOWN_FAILURES]
    return [{"row": int(found.rows[at]), "message": failed[at]} for at in first]


def _listed(names: Any) -> str:
    shown = ", ".join(str(name)[:32] for name in list(names)[:5])
    return f"{shown}, …" if len(names) > 5 else shown
