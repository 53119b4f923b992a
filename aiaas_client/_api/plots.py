"""`Monitoring`: how a model does, and pictures of it; matplotlib is loaded when one is drawn."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiaas_client._errors import ConfigurationError
from aiaas_client.protocol.monitoring import MonitoringDocument, VersionMonitoring

MOST_FEATURES = 20
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
            figure = new_figure()
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


def new_figure() -> Any:
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
