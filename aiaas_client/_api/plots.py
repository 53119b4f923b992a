"""Pictures of how models and jobs do; matplotlib is loaded when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiaas_client._errors import ConfigurationError, InputError
from aiaas_client.protocol.jobs import Job, Progress
from aiaas_client.protocol.monitoring import MonitoringDocument, VersionMonitoring

MOST_FEATURES = 20
MOST_CELLS = 15  # classes of a confusion matrix whose counts are written into it
LOSSES = ("loss", "mse", "mae", "rmse", "error")  # what falls where a model gets better
_COLOURS = {"drifted": "tab:red", "warning": "tab:orange", "ok": "tab:green"}


class Monitoring(MonitoringDocument):
    """Every version of a model that was called within a window, and how it did."""

    def version(self, number: int) -> VersionMonitoring:
        """One version.

        Raises:
            KeyError: it was not called within the window, and has no reference.
        """
        for one in self.versions:
            if one.version == number:
                return one
        raise KeyError(f"model '{self.model}': nothing is known of version {number}")

    def plot(self, figure: Any = None) -> Any:
        """Draw rate, errors, latency, and how far each feature is from its reference.

        Args:
            figure: A matplotlib figure to draw on; a new one by default.
        Returns:
            The figure.
        Raises:
            ConfigurationError: matplotlib is not installed.
        """
        if figure is None:
            figure = _new_figure()
        begin = min([self.at - self.window, *(p.at for one in self.versions for p in one.series)])
        rate, failed, latency, drift = figure.subplots(2, 2).flatten()
        for one in self.versions:
            times = [datetime.fromtimestamp(point.at, UTC) for point in one.series]
            label = f"version {one.version}"
            style = {"label": label, "marker": "."}
            rate.plot(times, [point.requests / point.seconds for point in one.series], **style)
            failed.plot(times, [100 * _share_failed(point) for point in one.series], **style)
            p50 = [1e3 * point.p50 for point in one.series]
            p99 = [1e3 * point.p99 for point in one.series]
            (line,) = latency.plot(times, p50, ".-", label=f"{label}, p50")
            latency.plot(times, p99, ".--", color=line.get_color(), label=f"{label}, p99")
        for axes, title in ((rate, "requests/s"), (failed, "failed, %"), (latency, "latency, ms")):
            axes.set_title(title)
            axes.set_ylim(bottom=0)
            axes.set_xlim(*(datetime.fromtimestamp(t, UTC) for t in (begin, self.at)))
            axes.tick_params(axis="x", rotation=30)
            if self.versions:
                axes.legend(fontsize="small")
        self._plot_drift(drift)
        figure.suptitle(f"{self.model}, last {_span(self.window)}")
        return figure

    def _plot_drift(self, axes: Any) -> None:
        """A bar for each feature of the newest version that has a reference, the worst on top."""
        judged = [one for one in self.versions if one.drift is not None and one.drift.features]
        axes.set_title("drift: no reference yet")
        if not judged:
            axes.set_axis_off()
            return
        newest = judged[-1]
        assert newest.drift is not None
        features = newest.drift.features[:MOST_FEATURES][::-1]
        colours = [_COLOURS.get(one.verdict, "tab:gray") for one in features]
        axes.barh([one.name for one in features], [one.psi for one in features], color=colours)
        axes.tick_params(axis="y", labelsize="x-small")
        axes.set_title(f"drift of version {newest.version}: {newest.drift.verdict}")


def _new_figure() -> Any:
    """An empty figure; it is shown where notebooks and windows are, since pyplot knows it.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot as plt
    except ModuleNotFoundError:
        raise ConfigurationError(
            "plots need matplotlib: pip install 'aiaas-client[plot]'"
        ) from None
    return plt.figure(figsize=(11, 7), layout="constrained")


def _share_failed(point: Any) -> float:
    return point.failed / point.requests if point.requests else 0.0


def _span(seconds: int) -> str:
    return f"{seconds // 3600} h" if seconds >= 3600 else f"{seconds // 60} min"


def draw_job(job: Job, title: str, history: Sequence[Progress], figure: Any = None) -> Any:
    """Draw what falls, what rises, and the confusion matrix: whatever of them a job told.

    Args:
        history: Its progress; what has no metrics is left out.
        figure: A matplotlib figure to draw on; a new one by default.
    Returns:
        The figure.
    Raises:
        InputError: There is nothing to be drawn.
        ConfigurationError: matplotlib is not installed.
    """
    curves = _curves(history)
    falling = {name: curve for name, curve in curves.items() if _is_loss(name)}
    rising = {name: curve for name, curve in curves.items() if name not in falling}
    confusion = {} if job.result is None else job.result.metrics.get("confusion") or {}
    parts = [part for part in (falling, rising, confusion) if part]
    if not parts:
        raise InputError(f"job {job.id} ({job.state}) has told of no metrics that can be drawn")
    if figure is None:
        figure = _new_figure()
    for part, axes in zip(parts, figure.subplots(1, len(parts), squeeze=False)[0], strict=True):
        if part is confusion:
            _plot_confusion(axes, confusion)
            continue
        for name, (steps, values) in part.items():
            axes.plot(steps, values, marker="." if len(steps) < 50 else None, label=name)
        axes.set_xlabel(next((one.unit for one in history if one.metrics and one.unit), "step"))
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(f"{title}: {job.state}")
    return figure


def _curves(history: Sequence[Progress]) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values by metric; where several phases tell of metrics, by phase as well."""
    phases = {one.phase for one in history if one.metrics}
    found: dict[str, tuple[list[int], list[float]]] = {}
    for one in history:
        for name, value in one.metrics.items():
            key = f"{one.phase}: {name}" if len(phases) > 1 else name
            steps, values = found.setdefault(key, ([], []))
            steps.append(one.step)
            values.append(value)
    return found


def _is_loss(name: str) -> bool:
    return any(name.lower().replace(" ", "_").split("_")[-1].endswith(one) for one in LOSSES)


def _plot_confusion(axes: Any, confusion: dict[str, Any]) -> None:
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
