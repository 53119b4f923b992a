"""`report.html` of each kind of job: what came out, read by a person.

Each function writes one file that stands by itself. Metrics are documents as `metrics.py` makes
them; what is not in one is left out of the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from aiaas_server.job_process import drawing, page

# Metrics that a reader looks for first, in this order.
_FIRST: Final = (
    "accuracy", "precision", "recall", "f1", "roc_auc", "log_loss",
    "r2", "rmse", "mae", "mse",
)  # fmt: skip
_IN_FULL: Final = 24  # classes of a confusion matrix that is drawn whole
_WORST: Final = 30  # pairs of classes that are listed of a larger one
_PER_CLASS: Final = 200
_ROWS: Final = 500  # of any other table

Document = Mapping[str, Any]
Points = tuple[Sequence[float | None], Sequence[float | None]]
"""True values, and what was predicted."""


def training_report(
    path: Path,
    *,
    title: str,
    facts: Document,
    metrics: Document,
    history: Sequence[Document],
    search: Sequence[Document] = (),
    folds: Sequence[Document] = (),
    points: Points | None = None,
    lead: str = "",
) -> None:
    """The report of a training.

    Args:
        facts: Lineage: data set, recipe, parameters, split, seed, libraries, …
        metrics: Of the held-out rows.
        history: A document an epoch or fold; see `drawing.curves`.
        search: Rows of the trials, the best first.
        folds: Rows of the cross-validation: its mean, its deviation, and each fold.
        points: Of a regression, of the held-out rows.
    """
    curves = [
        page.figure(svg, f"{measure.replace('_', ' ')} at each step")
        for measure, svg in drawing.curves(history).items()
    ]
    blocks = [
        page.tiles(headline(metrics)),
        page.section("Learning curves", page.plots(curves)),
        *measured(metrics, points),
        page.section("Search", page.table(search[:_ROWS], best=0)) if search else "",
        page.section("Cross-validation", page.table(folds, best=0)) if folds else "",
        page.section("Where it comes from", page.facts(facts)),
    ]
    page.write(path, title, lead or "Measured on rows that the training did not see.", blocks)


def evaluation_report(
    path: Path,
    *,
    title: str,
    facts: Document,
    metrics: Document,
    points: Points | None = None,
    lead: str = "",
) -> None:
    """The report of an evaluation; arguments as of `training_report`."""
    blocks = [
        page.tiles(headline(metrics)),
        *measured(metrics, points),
        page.section("What was measured", page.facts(facts)),
    ]
    page.write(path, title, lead, blocks)


def comparison_report(
    path: Path,
    *,
    title: str,
    facts: Document,
    table: Sequence[Document],
    changed: Sequence[Document] = (),
    lead: str = "",
) -> None:
    """The report of a comparison.

    Args:
        table: A row a metric: `metric`, the values of both, `difference`, `low`, `high`.
        changed: Rows to which the two answer differently.
    """
    drawn = [row for row in table if all(_known(row.get(k)) for k in ("difference", "low", "high"))]
    plot = ""
    if drawn:
        svg = drawing.intervals(
            [str(row.get("metric", "")) for row in drawn],
            [row["difference"] for row in drawn],
            [(row["low"], row["high"]) for row in drawn],
        )
        plot = page.figure(svg, "An interval that leaves out 0 is a difference beyond chance.")
    blocks = [
        page.section("Differences", page.table(table), plot),
        page.section(
            "Rows that changed", _cut(len(changed)), page.table(changed[:_ROWS]) if changed else ""
        ),
        page.section("What was compared", page.facts(facts)),
    ]
    page.write(path, title, lead, blocks)


def scoring_report(
    path: Path,
    *,
    title: str,
    facts: Document,
    metrics: Document,
    classes: Mapping[str, int] | None = None,
    values: tuple[Sequence[float], Sequence[int]] | None = None,
    lead: str = "",
) -> None:
    """The report of a scored data set.

    Args:
        metrics: Rows, failures, rate: numbers.
        classes: Rows by label, of a classifier.
        values: Edges and counts of the answers, of numbers.
    """
    plots = []
    if classes:
        most = sorted(classes.items(), key=lambda item: (-item[1], item[0]))[:30]
        svg = drawing.bars("rows by answer", [name for name, _ in most], [n for _, n in most])
        plots.append(page.figure(svg, f"Answers; the most frequent {len(most)} of {len(classes)}."))
    if values is not None:
        plots.append(page.figure(drawing.histogram("answers", *values), "Rows by their answer."))
    blocks = [
        page.tiles(_numbers(metrics)),
        page.section("Answers", page.plots(plots)),
        page.section("What was scored", page.facts(facts)),
    ]
    page.write(path, title, lead, blocks)


def optimisation_report(
    path: Path,
    *,
    title: str,
    facts: Document,
    table: Sequence[Document],
    plot: str = "",
    lead: str = "",
) -> None:
    """The report of an optimisation: `table` has the parent first; `plot` is of `tradeoff`."""
    drawn = page.figure(plot, "Each candidate beside its parent, on this machine.") if plot else ""
    blocks = [
        page.section("Candidates", page.table(table)),
        page.section("Accuracy and latency", drawn),
        page.section("How it was measured", page.facts(facts)),
    ]
    page.write(path, title, lead, blocks)


def explanation_report(
    path: Path,
    *,
    title: str,
    facts: Document,
    importance: Sequence[Document],
    curves: Mapping[str, Document] | None = None,
    lead: str = "",
) -> None:
    """The report of what a version looks at.

    Args:
        importance: The most important first: `feature`, `importance`, and `error` if it is known.
        curves: By column `{"values": [...], "lines": {class: [...]}}`: partial dependence.
    """
    top = importance[:40]
    errors = [row.get("error") for row in top]
    bars = ""
    if top:
        svg = drawing.bars(
            "importance",
            [str(row["feature"]) for row in top],
            [row["importance"] for row in top],
            [float(one or 0.0) for one in errors] if any(map(_known, errors)) else None,
        )
        bars = page.figure(svg, "What is lost when the column is shuffled; lines: spread.")
    dependence = [
        page.figure(
            drawing.dependence(name, curve["values"], curve["lines"]), f"Mean answer by {name}"
        )
        for name, curve in (curves or {}).items()
    ]
    blocks = [
        page.section("Importance", bars, page.table(importance[:_ROWS]) if importance else ""),
        page.section("Partial dependence", page.plots(dependence)),
        page.section("What was asked", page.facts(facts)),
    ]
    page.write(path, title, lead, blocks)


def headline(metrics: Document) -> dict[str, float]:
    """The numbers that go on top."""
    return {name: metrics[name] for name in _FIRST if _known(metrics.get(name))}


def _known(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(metrics: Document) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if _known(value)}


def _cut(rows: int) -> str:
    if rows <= _ROWS:
        return ""
    return page.paragraph(f"The first {_ROWS:,} of {rows:,} rows.", "note")


def measured(metrics: Document, points: Points | None = None) -> list[str]:
    """The sections of a document of metrics."""
    found = [_confusion(metrics.get("confusion") or {}), _classes(metrics.get("per_class") or {})]
    known = metrics.get("calibration") or {}
    if any(value is not None for value in known.get("predicted", ())):
        svg = drawing.calibration(known["predicted"], known["observed"], known["rows"])
        text = "Above the line the model is too modest, below too sure; large points are many rows."
        found.append(page.section("Calibration", page.figure(svg, text)))
    if points is not None and len(points[0]):
        plots = [
            page.figure(drawing.predictions(*points), "On the line: predicted as it is."),
            page.figure(drawing.residuals(*points), "What is left should have no shape."),
        ]
        found.append(page.section("Residuals", page.plots(plots)))
    rest = {name: value for name, value in _numbers(metrics).items() if name not in _FIRST}
    return [*found, page.section("Further metrics", page.facts(rest)) if rest else ""]


def _confusion(found: Document) -> str:
    """Rows are the truth, columns what was answered."""
    labels, counts = list(found.get("labels", ())), list(found.get("counts", ()))
    if not labels or not counts:
        return ""
    if len(labels) > _IN_FULL:
        return page.section(
            "Classes that were mistaken most", page.table(_mistaken(labels, counts))
        )
    head = "".join(f"<th>{page.shown(label, 16)}</th>" for label in labels)
    lines = [
        f"<tr><th>{page.shown(label, 24)}</th>{''.join(_heat(n, sum(row)) for n in row)}</tr>"
        for label, row in zip(labels, counts, strict=True)
    ]
    note = page.paragraph(
        "A row for each true class, a column for each answer; the stronger its colour, the "
        "larger a share of its row.",
        "note",
    )
    heat = (
        f'<table class="heat"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )
    return page.section("Confusion", note, heat)


def _heat(count: float, rows: float) -> str:
    level = round(10 * count / rows) if rows else 0
    # A single mistake among thousands is a mistake: it is not drawn as none.
    level = max(level, 1) if count else 0
    return f'<td class="h{level}">{escape(page.cell(count))}</td>'


def _mistaken(labels: Sequence[Any], counts: Sequence[Sequence[float]]) -> list[Document]:
    pairs: list[Document] = [
        {"truth": str(labels[t]), "answer": str(labels[a]), "rows": counts[t][a]}
        for t in range(len(labels))
        for a in range(len(labels))
        if t != a and counts[t][a]
    ]
    return sorted(pairs, key=lambda pair: -float(pair["rows"]))[:_WORST]


def _classes(found: Mapping[str, Document]) -> str:
    rows = [{"class": label, **one} for label, one in list(found.items())[:_PER_CLASS]]
    return page.section("Classes", page.table(rows)) if rows else ""
