"""The reports of jobs that measure and score, written from what those jobs tell anyway."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aiaas_server.job_process.report import (
    Points,
    comparison_report,
    evaluation_report,
    scoring_report,
)
from aiaas_server.jobs.orders import OUT, Order, Product

REPORT: Final = "report.html"
_FACTS: Final = ("dataset", "target", "held_out", "failed", "without_truth")


def evaluation(order: Order, product: Product, points: Points | None = None) -> Product:
    """The product of an evaluation, with its report.

    Args:
        points: Truth and answers, where they are numbers.
    """
    told, spec = {**product.metrics, **product.details}, order.spec
    evaluation_report(
        _path(),
        title=f"{spec['model']} on {spec['dataset']}",
        facts={"model": spec["model"], **{name: told[name] for name in _FACTS if name in told}},
        metrics={name: one for name, one in told.items() if name not in _FACTS},
        points=points,
        lead=f"Measured on {told.get('rows', 0):,} rows.",
    )
    return _with(product)


def comparison(order: Order, product: Product) -> Product:
    """The product of a comparison, with its report: the rows that got worse come first."""
    details = product.details
    changed = [
        {"change": change, **row}
        for change in ("broken", "fixed")
        for row in details.get(change, {}).get("shown", ())
    ]
    facts = {name: one for name, one in details.items() if name not in ("broken", "fixed")}
    comparison_report(
        _path(),
        title=f"{details['a']} and {details['b']} on {details['dataset']}",
        facts={**facts, **{name: details[name]["rows"] for name in ("broken", "fixed")}},
        table=product.table,
        changed=changed,
        lead=(
            f"a is {details['a']}, b is {details['b']}; intervals hold the difference in "
            f"{details['confidence']:.0%} of {details['resamples']:,} resamples."
        ),
    )
    return _with(product)


def scoring(order: Order, product: Product) -> Product:
    """The product of a scoring, with its report."""
    (made,) = product.datasets
    laid = order.datasets[order.spec["dataset"]].dataset
    kept = {column.name for column in laid.columns}
    answers = [column for column in made.columns if column.name not in kept]
    classes = next((one.classes for one in answers if one.classes), [])
    values = next((one for one in answers if one.histogram), None)
    left_out = product.details.get("left_out")
    scoring_report(
        _path(),
        title=f"What {order.spec['model']} answers to {order.spec['dataset']}",
        facts={
            **made.lineage,
            "answers": made.name,
            **({"columns left out": left_out} if left_out else {}),
        },
        metrics=product.metrics,
        classes={str(one.value): one.rows for one in classes} or None,
        values=None if classes or values is None else (values.edges, values.histogram),
    )
    return _with(product)


def _path() -> Path:
    path = Path(OUT, REPORT)
    path.parent.mkdir(exist_ok=True)
    return path


def _with(product: Product) -> Product:
    return product.model_copy(update={"files": {**product.files, REPORT: f"{OUT}/{REPORT}"}})
