"""Plots as SVG texts: equal input gives equal bytes, and texts stay texts.

Colours are attributes, not styles, so that a page's policy may forbid inline styles and its style
sheet may still turn light to dark. Names of columns and labels are never read as formulas.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aiaas_server.job_process.page import number, plain

Array = np.ndarray[Any, Any]

INK, SOFT, LINE = "#1c2330", "#5b6472", "#dfe3ea"
COLOURS: Final = ("#2f6fde", "#d9822b", "#2e9e6b", "#8a5cd1")
_SVG: Final = "http://www.w3.org/2000/svg"
_LINK: Final = "{http://www.w3.org/1999/xlink}href"
_POINTS: Final = 1500  # of a cloud
_STEPS: Final = 1000  # of a curve
_SHORT: Final = 28  # characters of a name beside an axis
_SETTINGS: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.grid": True,
    "axes.labelcolor": SOFT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}


class _Sheet:
    """A plot that is being drawn; `svg` once it is."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), layout="constrained")
        self.axes: Axes = self.figure.subplots()
        self.svg = ""


@contextmanager
def _sheet(name: str, *, width: float = 5.4, height: float = 3.3) -> Iterator[_Sheet]:
    """A sheet to draw on.

    Args:
        name: Tells its marks from those of other plots on one page.
        width, height: In inches.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever the machine's own settings say
        mpl.rcParams.update(_SETTINGS)
        mpl.rcParams["svg.hashsalt"] = name
        # Its own font lacks many scripts, and only measures here: the reader's fonts draw.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        sheet = _Sheet(width, height)
        yield sheet
        drawn = io.StringIO()
        sheet.figure.savefig(
            drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    sheet.svg = _cleaned(drawn.getvalue(), name)


def _cleaned(svg: str, name: str) -> str:
    """The picture without prologue, styles and addresses; marks named after the plot."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _clean(element, name)
    root.attrib.update({"stroke-linejoin": "round", "font-family": "system-ui, sans-serif"})
    root.attrib.update({"role": "img"})
    root.attrib.pop("version", None)
    return ElementTree.tostring(root, "unicode")


def _clean(element: ElementTree.Element, name: str) -> None:
    attributes = element.attrib
    for item in attributes.pop("style", "").split(";"):
        key, _, value = item.strip().partition(": ")
        if value and key != "font-family":
            attributes[key] = value
    mark = attributes.pop("id", "")
    if mark and element.tag != f"{{{_SVG}}}g":
        attributes["id"] = f"{name}-{mark}"
    if _LINK in attributes:
        attributes["href"] = f"#{name}-{attributes.pop(_LINK)[1:]}"
    if clip := attributes.get("clip-path"):
        attributes["clip-path"] = clip.replace("#", f"#{name}-")


def _short(text: object) -> str:
    return plain(text, _SHORT)


def curves(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Learning curves: by measure a plot of training and validation over the steps.

    Args:
        history: One document a step with `step` (its place, if it has none) and numbers; those
            called `validation_x` or `val_x` are drawn beside `x` or `training_x`.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for at, entry in enumerate(history, 1):
        for name, value in entry.items():
            known = isinstance(value, int | float) and not isinstance(value, bool)
            if name in ("step", "epoch", "fold", "total", "rate", "left") or not known:
                continue
            side, measure = _side(name)
            step = float(entry.get("step", entry.get("epoch", at)))
            if np.isfinite(value):
                found.setdefault(measure, {}).setdefault(side, []).append((step, float(value)))
    return {measure: _curve(measure, lines) for measure, lines in found.items()}


def _side(name: str) -> tuple[str, str]:
    for side, prefixes in (
        ("validation", ("validation_", "val_")),
        ("training", ("training_", "train_")),
    ):
        for prefix in prefixes:
            if name.startswith(prefix) and name != prefix:
                return side, name.removeprefix(prefix)
    return "training", name


def _curve(measure: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    with _sheet(f"curve-{_mark(measure)}") as sheet:
        axes = sheet.axes
        for side in sorted(lines):
            points = np.array(lines[side])
            points = points[:: max(1, len(points) // _STEPS)]
            style = "o-" if len(points) < 25 else "-"
            axes.plot(
                *points.T, style, color=COLOURS[side == "validation"], label=side, lw=1.8, ms=3.5
            )
        axes.set_title(_short(measure.replace("_", " ")))
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if "validation" in lines:
            axes.legend()
    return sheet.svg


def _mark(text: str) -> str:
    """A text as part of the name of a mark: hostile ones become harmless."""
    return "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in text[:32])


def calibration(
    predicted: Sequence[float | None], observed: Sequence[float | None], rows: Sequence[int]
) -> str:
    """How often the answer was right against how sure the model was, by bins; both 0 to 1.

    Args:
        rows: In each bin: many make a large point.
    """
    points = _pairs(predicted, observed)
    counts = np.array([n for n, one in zip(rows, predicted, strict=True) if one is not None])
    with _sheet("calibration") as sheet:
        axes = sheet.axes
        axes.plot([0, 1], [0, 1], "--", color=SOFT, lw=1, label="ideal")
        axes.plot(points[:, 0], points[:, 1], "-", color=COLOURS[0], lw=1.4, label="model")
        sizes = 12 + 150 * counts / max(counts.max(initial=1), 1)
        axes.scatter(points[:, 0], points[:, 1], s=sizes, color=COLOURS[0], zorder=3)
        axes.set(xlim=(0, 1.04), ylim=(0, 1.04), xlabel="predicted probability", ylabel="observed")
        axes.set_title("calibration")
        axes.legend(loc="upper left")
    return sheet.svg


def _pairs(first: Sequence[float | None], second: Sequence[float | None]) -> Array:
    """`[points, 2]`, of which both are known."""
    both = [
        (x, y)
        for x, y in zip(first, second, strict=True)
        if x is not None and y is not None and np.isfinite(x) and np.isfinite(y)
    ]
    return np.array(both, np.float64).reshape(-1, 2)


def _thinned(points: Array) -> Array:
    """At most so many of them, evenly: the same ones each time."""
    return points[:: -(-len(points) // _POINTS)] if len(points) > _POINTS else points


def predictions(truth: Sequence[float | None], values: Sequence[float | None]) -> str:
    """Predicted against true values."""
    points = _thinned(_pairs(truth, values))
    with _sheet("predictions") as sheet:
        axes = sheet.axes
        if len(points):
            ends = [points.min(), points.max()]
            axes.plot(ends, ends, "--", color=SOFT, lw=1)
        axes.scatter(points[:, 0], points[:, 1], s=10, color=COLOURS[0], alpha=0.55, linewidths=0)
        axes.set(xlabel="truth", ylabel="predicted")
        axes.set_title("predicted against true")
    return sheet.svg


def residuals(truth: Sequence[float | None], values: Sequence[float | None]) -> str:
    """What is left: truth less prediction, over the prediction."""
    points = _thinned(_pairs(truth, values))
    with _sheet("residuals") as sheet:
        axes = sheet.axes
        axes.axhline(0, color=SOFT, lw=1, ls="--")
        axes.scatter(
            points[:, 1],
            points[:, 0] - points[:, 1],
            s=10,
            color=COLOURS[1],
            alpha=0.55,
            linewidths=0,
        )
        axes.set(xlabel="predicted", ylabel="truth less predicted")
        axes.set_title("residuals")
    return sheet.svg


def bars(
    title: str, names: Sequence[str], values: Sequence[float], errors: Sequence[float] | None = None
) -> str:
    """Horizontal bars, the first on top."""
    places = np.arange(len(names))
    with _sheet(f"bars-{_mark(title)}", height=0.9 + 0.27 * max(len(names), 2)) as sheet:
        axes = sheet.axes
        axes.barh(
            places, values, xerr=errors, color=COLOURS[0], ecolor=SOFT, height=0.65, capsize=2
        )
        axes.set_yticks(places, [_short(name) for name in names])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        axes.set_title(_short(title))
    return sheet.svg


def intervals(
    names: Sequence[str], values: Sequence[float], bounds: Sequence[tuple[float, float]]
) -> str:
    """Differences with their confidence intervals; a line at no difference."""
    places = np.arange(len(names))
    reach = np.abs(np.array(bounds, np.float64).reshape(-1, 2).T - np.array(values, np.float64))
    with _sheet("intervals", height=1.0 + 0.34 * max(len(names), 2)) as sheet:
        axes = sheet.axes
        axes.axvline(0, color=SOFT, lw=1, ls="--")
        axes.errorbar(
            values, places, xerr=reach, fmt="o", color=COLOURS[0], ms=5, capsize=3, lw=1.6
        )
        axes.set_yticks(places, [_short(name) for name in names])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title("difference, second less first")
    return sheet.svg


def dependence(name: str, places: Sequence[Any], lines: Mapping[str, Sequence[float]]) -> str:
    """How the answer goes with one column: a line a class, bars for texts.

    Args:
        places: Numbers, or texts.
        lines: By class the mean answer at each place; at most four are drawn.
    """
    of_numbers = all(isinstance(one, int | float) for one in places)
    with _sheet(f"dependence-{_mark(name)}", height=2.8) as sheet:
        axes = sheet.axes
        where = [float(one) for one in places] if of_numbers else list(range(len(places)))
        for colour, (label, values) in zip(COLOURS, lines.items(), strict=False):
            style = "-" if of_numbers and len(where) > 25 else "o-" if of_numbers else "o"
            axes.plot(where, values, style, color=colour, lw=1.8, ms=4, label=_short(label))
        if not of_numbers:
            axes.set_xticks(where, [plain(one, 12) for one in places], rotation=30, ha="right")
            axes.margins(x=0.15)
        axes.set_title(_short(name))
        if len(lines) > 1:
            axes.legend(fontsize=8)
    return sheet.svg


def histogram(title: str, edges: Sequence[float], counts: Sequence[float]) -> str:
    """Rows by bins; `edges` has one more than `counts`."""
    with _sheet(f"histogram-{_mark(title)}", height=2.6) as sheet:
        axes = sheet.axes
        axes.bar(
            edges[:-1], counts, width=np.diff(edges), align="edge", color=COLOURS[0], alpha=0.85
        )
        axes.set(ylabel="rows")
        axes.set_title(_short(title))
        axes.grid(axis="x", visible=False)
    return sheet.svg


def tradeoff(metric: str, points: Sequence[tuple[str, float, float]], floor: float | None) -> str:
    """Accuracy against latency, a point a candidate; the first is the parent.

    Args:
        points: Name, milliseconds, metric.
        floor: What the gate asks for, a line.
    """
    with _sheet("tradeoff", height=3.6) as sheet:
        axes = sheet.axes
        for at, (name, latency, value) in enumerate(points):
            colour = SOFT if at == 0 else COLOURS[(at - 1) % len(COLOURS)]
            axes.scatter(
                [latency], [value], s=70, color=colour, marker="D" if at == 0 else "o", zorder=3,
                label=f"{_short(name)}: {number(latency)} ms, {number(value)}",
            )  # fmt: skip
        if floor is not None:
            axes.axhline(floor, color=COLOURS[1], lw=1, ls="--", label=f"gate: {number(floor)}")
        axes.margins(0.15)
        axes.set(
            xlabel="latency of one row, ms (half of the calls are faster)", ylabel=_short(metric)
        )
        axes.set_xlim(left=0)
        axes.set_title("the better, the higher and the further left")
        sheet.figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return sheet.svg
