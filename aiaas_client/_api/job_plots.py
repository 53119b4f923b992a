"""Pictures of what a job tells: learning curves, and what it found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from aiaas_client._api.plots import new_figure
from aiaas_client._errors import InputError
from aiaas_client.protocol.jobs import Job, Progress

MOST_CELLS = 15  # classes of a confusion matrix whose counts are written into it
MOST_BARS = 20
LOSSES = ("loss", "mse", "mae", "rmse", "error")  # what falls where a model gets better

Draw = Callable[[Any], None]  # on axes
Curves = dict[str, tuple[list[int], list[float]]]  # steps and values by metric


def draw_job(job: Job, title: str, history: Sequence[Progress], figure: Any = None) -> Any:
    """Draw whatever of it a job told: what falls and what rises as it learns, the confusion
    matrix, differences with their intervals, candidates by latency, the importance of columns.

    Args:
        history: Its progress; what has no metrics is left out.
        figure: A matplotlib figure to draw on; a new one by default.
    Returns:
        The figure.
    Raises:
        InputError: There is nothing to be drawn.
        ConfigurationError: matplotlib is not installed.
    """
    parts = [*_learning(history), *_found(job)]
    if not parts:
        raise InputError(f"job {job.id} ({job.state}) has told of no metrics that can be drawn")
    if figure is None:
        figure = new_figure()
    for draw, axes in zip(parts, figure.subplots(1, len(parts), squeeze=False)[0], strict=True):
        draw(axes)
    figure.suptitle(f"{title}: {job.state}")
    return figure


def _learning(history: Sequence[Progress]) -> Iterator[Draw]:
    curves = _curves(history)
    unit = next((one.unit for one in history if one.metrics and one.unit), "step")
    for falls in (True, False):
        chosen = {name: curve for name, curve in curves.items() if _is_loss(name) is falls}
        if chosen:
            yield partial(_draw_curves, chosen, unit)


def _found(job: Job) -> Iterator[Draw]:
    """What its result is drawn as."""
    result = job.result
    if result is None:
        return
    confusion = result.details.get("confusion") or result.metrics.get("confusion")
    if confusion:
        yield partial(_draw_confusion, confusion)
    metric = job.spec.get("metric") or "accuracy"
    columns: set[str] = {name for row in result.table for name in row}
    if {"metric", "difference", "low", "high"} <= columns:
        for falls in (False, True):  # apart: a loss may differ by far more than a share ever can
            rows = [row for row in result.table if _is_loss(row["metric"]) is falls]
            if any(row.get("low") is not None for row in rows):
                yield partial(_draw_differences, rows)
    elif {"candidate", "p50_ms"} <= columns:
        metric = metric if metric in columns else "r2"
        rows = [row for row in result.table if row.get("p50_ms") and row.get(metric) is not None]
        if rows:
            yield partial(_draw_candidates, rows, metric)
    elif {"feature", "importance"} <= columns:
        yield partial(_draw_importance, result.table)


def _curves(history: Sequence[Progress]) -> Curves:
    """By metric; where several phases tell of metrics, by phase as well."""
    phases = {one.phase for one in history if one.metrics}
    found: Curves = {}
    for one in history:
        for name, value in one.metrics.items():
            key = f"{one.phase}: {name}" if len(phases) > 1 else name
            steps, values = found.setdefault(key, ([], []))
            steps.append(one.step)
            values.append(value)
    return found


def _is_loss(name: str) -> bool:
    return name.lower().endswith(LOSSES)


def _draw_curves(curves: Curves, unit: str, axes: Any) -> None:
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, marker="." if len(steps) < 50 else None, label=name)
    axes.set_xlabel(unit)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")


def _draw_confusion(confusion: dict[str, Any], axes: Any) -> None:
    """Truth downwards, predictions to the right; colours are shares of the truth."""
    labels, counts = confusion.get("labels") or [], confusion.get("counts") or []
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_title("confusion")
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    if len(labels) > MOST_CELLS:
        return
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            colour = "white" if shares[row][column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)


def _draw_differences(table: Sequence[dict[str, Any]], axes: Any) -> None:
    """A bar from end to end of each interval; what does not cross the line is no chance."""
    rows = [row for row in table if row.get("low") is not None and row.get("high") is not None]
    for at, row in enumerate(rows[::-1]):
        axes.plot([row["low"], row["high"]], [at, at], color="tab:blue", lw=3, alpha=0.5)
        axes.plot([row["difference"]], [at], "o", color="tab:blue")
    axes.axvline(0.0, color="tab:gray", lw=1)
    axes.set_yticks(range(len(rows)), [str(row["metric"]) for row in rows[::-1]])
    better = "less" if _is_loss(rows[0]["metric"]) else "more"
    axes.set_title(f"difference ({better} is better)")


def _draw_candidates(rows: Sequence[dict[str, Any]], metric: str, axes: Any) -> None:
    """To the left is faster, upwards is better."""
    for row in rows:
        axes.plot([row["p50_ms"]], [row[metric]], "o", label=str(row["candidate"]))
    axes.set_xlabel("latency of one row, ms (half of the calls are faster)")
    axes.set_ylabel(metric)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")


def _draw_importance(table: Sequence[dict[str, Any]], axes: Any) -> None:
    rows = sorted(table, key=lambda row: row["importance"])[-MOST_BARS:]
    axes.barh([str(row["feature"]) for row in rows], [row["importance"] for row in rows])
    axes.set_title("importance")
    axes.tick_params(axis="y", labelsize="small")
