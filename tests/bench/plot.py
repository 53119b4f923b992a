"""Throughput and p99 against connections, from what `--json` wrote: `plot.py OUT.png FILE...`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot, ticker

Curves = dict[str, list[dict[str, Any]]]


def read(files: Iterable[Path]) -> Curves:
    """The points of every server; a server that is in several files is taken from the last."""
    curves: Curves = {}
    for file in files:
        found: Curves = {}
        for point in json.loads(file.read_text("utf-8"))["curves"]:
            found.setdefault(point["server"], []).append(point)
        curves.update(found)
    return curves


def draw(curves: Curves, path: Path) -> None:
    """Two pictures beside each other, both axes logarithmic."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), dpi=80)
    for name, points in curves.items():
        own = name.startswith("aiaas")
        style: dict[str, Any] = {
            "label": name,
            "marker": "o" if own else "s",
            "markersize": 5 if own else 4,
            "linewidth": 2.2 if own else 1.2,
            "linestyle": "--" if name.startswith("bare") else "-",
        }
        connections = [point["connections"] for point in points]
        left.plot(connections, [point["rate"] for point in points], **style)
        right.plot(connections, [point["p99"] * 1e3 for point in points], **style)
    every = sorted({point["connections"] for points in curves.values() for point in points})
    for axes, title in ((left, "requests a second"), (right, "p99, milliseconds")):
        axes.set(title=title, xscale="log", yscale="log", xlabel="connections")
        axes.set_xticks(every, [str(count) for count in every])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.grid(visible=True, alpha=0.3)
    figure.suptitle("784-32-10 network, one row a request, one server process", fontsize=10)
    lines, names = left.get_legend_handles_labels()
    figure.legend(lines, names, loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06 * -(-len(names) // 4), 1, 1))
    figure.savefig(path)


if __name__ == "__main__":
    draw(read(Path(name) for name in sys.argv[2:]), Path(sys.argv[1]))
