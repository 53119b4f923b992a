"""From a map of where text is to the slanted rectangles around its lines.

Source: Liao et al. 2020, *Real-time Scene Text Detection with Differentiable Binarization*: the
network's map holds shrunken lines; each connected part above a threshold is a line, and its
smallest rectangle, grown by area over circumference times a ratio, is the line's box.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aiaas_server.tasks.task import Floats

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Rectangle(NamedTuple):
    """A slanted rectangle: its middle, the unit vector along its width, width and height."""

    middle: Points
    along: Points
    width: float
    height: float

    @property
    def across(self) -> Points:
        """The unit vector along its height."""
        return np.array([-self.along[1], self.along[0]])

    def corners(self) -> Points:
        """`(4, 2)` x, y, clockwise from the upper left."""
        half, rise = self.along * (self.width / 2), self.across * (self.height / 2)
        around = np.array([-half - rise, half - rise, half + rise, -half + rise]) + self.middle
        return clockwise(around)

    def grown(self, distance: float) -> Rectangle:
        """The same with every side moved outwards."""
        return self._replace(width=self.width + 2 * distance, height=self.height + 2 * distance)


def find_regions(
    scores: Floats,
    *,
    threshold: float,
    least_score: float,
    grow: float,
    smallest: float = 3.0,
    at_most: int = 1000,
) -> list[Points]:
    """Corners `(4, 2)` of each line's box, in the map's pixels, clockwise from the upper left.

    Args:
        scores: `(height, width)`, 0 to 1.
        threshold: Of a pixel.
        least_score: Of the mean over a rectangle.
        grow: Area over circumference times this is added on every side.
        smallest: Rectangles whose shorter side is less are noise.
        at_most: The largest parts are looked at, no more than these.
    """
    found = []
    for points in _parts(_widened(scores > threshold), smallest, at_most):
        rectangle = smallest_rectangle(points)
        if min(rectangle.width, rectangle.height) < smallest:
            continue
        if mean_inside(scores, rectangle) < least_score:
            continue
        around = 2 * (rectangle.width + rectangle.height)
        grown = rectangle.grown(rectangle.width * rectangle.height * grow / around)
        if min(grown.width, grown.height) >= smallest + 2:
            found.append(grown.corners())
    return found


def smallest_rectangle(points: Points) -> Rectangle:
    """The rectangle of least area around points `(n, 2)`; one side lies on their hull."""
    corners = hull(points)
    if len(corners) == 1:
        return Rectangle(corners[0], np.array([1.0, 0.0]), 0.0, 0.0)
    edges = np.roll(corners, -1, axis=0) - corners
    along = edges / np.linalg.norm(edges, axis=1, keepdims=True)  # (edges, 2)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    u, v = along @ corners.T, across @ corners.T  # (edges, corners)
    low = np.stack([u.min(axis=1), v.min(axis=1)], axis=1)
    high = np.stack([u.max(axis=1), v.max(axis=1)], axis=1)
    sides = high - low
    best = int((sides[:, 0] * sides[:, 1]).argmin())
    middle = (low[best] + high[best]) / 2
    centre = along[best] * middle[0] + across[best] * middle[1]
    return Rectangle(centre, along[best], float(sides[best, 0]), float(sides[best, 1]))


def hull(points: Points) -> Points:
    """The convex hull of points `(n, 2)`, in order around it.

    Source: Andrew 1979, the monotone chain.
    """
    ordered = sorted({(float(x), float(y)) for x, y in points})
    if len(ordered) < 3:
        return np.array(ordered)
    halves: list[tuple[float, float]] = []
    for sequence in (ordered, ordered[::-1]):
        half: list[tuple[float, float]] = []
        for point in sequence:
            while len(half) > 1 and _turn(half[-2], half[-1], point) <= 0:
                half.pop()
            half.append(point)
        halves += half[:-1]
    return np.array(halves)


def mean_inside(scores: Floats, rectangle: Rectangle) -> float:
    """Mean of the pixels whose middles lie in the rectangle; 0 when there are none."""
    corners = rectangle.corners()
    limit = np.array(scores.shape[::-1]) - 1
    x1, y1 = np.clip(np.floor(corners.min(axis=0)), 0, limit).astype(int)
    x2, y2 = np.clip(np.ceil(corners.max(axis=0)), 0, limit).astype(int)
    y, x = np.mgrid[y1 : y2 + 1, x1 : x2 + 1]
    u = (x - rectangle.middle[0]) * rectangle.along[0] + (
        y - rectangle.middle[1]
    ) * rectangle.along[1]
    v = (x - rectangle.middle[0]) * rectangle.across[0] + (
        y - rectangle.middle[1]
    ) * rectangle.across[1]
    near = 1e-6
    inside = (np.abs(u) <= rectangle.width / 2 + near) & (np.abs(v) <= rectangle.height / 2 + near)
    window = scores[y1 : y2 + 1, x1 : x2 + 1]
    return float(window[inside].mean()) if inside.any() else 0.0


def clockwise(corners: Points) -> Points:
    """Four corners from the upper left on: the left two by height, then the right two."""
    left, right = np.split(corners[np.argsort(corners[:, 0], kind="stable")], 2)
    upper_left, lower_left = left[np.argsort(left[:, 1], kind="stable")]
    upper_right, lower_right = right[np.argsort(right[:, 1], kind="stable")]
    return np.array([upper_left, upper_right, lower_right, lower_left])


def _widened(mask: Mask) -> Mask:
    """Every pixel also marks its right, lower and lower right neighbours: joins hairline gaps."""
    wide = mask.copy()
    wide[1:] |= mask[:-1]
    wide[:, 1:] |= wide[:, :-1].copy()
    return wide


def _parts(mask: Mask, smallest: float, at_most: int) -> Iterator[Points]:
    """Outline points `(n, 2)` x, y of each connected part, the largest parts first."""
    rows, starts, ends = _runs(mask)
    if not len(rows):
        return
    names = _connect(rows, starts, ends, mask.shape[1])
    order = np.argsort(names, kind="stable")
    names, rows, starts, ends = names[order], rows[order], starts[order], ends[order]
    sizes = ends - starts
    # Of each row of a part only its outermost pixels can lie on the hull.
    edge = np.flatnonzero(np.r_[True, (names[1:] != names[:-1]) | (rows[1:] != rows[:-1])])
    outer = np.r_[edge[1:], len(names)] - 1
    sizes = np.add.reduceat(sizes, edge)
    names, rows, starts, ends = names[edge], rows[edge], starts[edge], ends[outer]
    first = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    last = np.r_[first[1:], len(names)]
    size = np.add.reduceat(sizes, first)
    tall = last - first
    wide = np.maximum.reduceat(ends, first) - np.minimum.reduceat(starts, first)
    enough = np.flatnonzero((np.maximum(tall, wide) >= smallest) & (size > smallest))
    for part in enough[np.argsort(-size[enough], kind="stable")[:at_most]]:
        span = slice(first[part], last[part])
        x = np.concatenate([starts[span], ends[span] - 1])
        yield np.stack([x, np.tile(rows[span], 2)], axis=1).astype(np.float64)


def _runs(mask: Mask) -> tuple[Ints, Ints, Ints]:
    """Rows, starts and ends (exclusive) of the horizontal runs of True, row by row."""
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    return rows, starts, np.nonzero(steps == -1)[1]


def _connect(rows: Ints, starts: Ints, ends: Ints, width: int) -> Ints:
    """A number for each run, equal where runs touch, corners included.

    Every run looks up its neighbours in the next row; then the lowest number spreads along them.
    """
    line = width + 2  # keys of one row never reach the next
    low, high = rows * line + starts, rows * line + ends
    begin = np.searchsorted(high, low + line, side="left")
    stop = np.searchsorted(low, high + line, side="right")
    counts = np.maximum(stop - begin, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    offset = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts)
    lower = np.repeat(begin, counts) + offset
    names = np.arange(len(rows))
    while True:
        a, b = names[upper], names[lower]
        if (a == b).all():
            return names
        np.minimum.at(names, np.maximum(a, b), np.minimum(a, b))
        while (names[names] != names).any():
            names = names[names]


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
