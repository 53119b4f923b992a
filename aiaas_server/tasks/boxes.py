"""Boxes as arrays: overlap, non-maximum suppression, and decoding of what detectors put out.

A box is `x1, y1, x2, y2`; x grows to the right, y downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]


class Found(NamedTuple):
    """Boxes `(n, 4)`, scores `(n,)` and class numbers `(n,)`, best first."""

    boxes: FloatArray
    scores: FloatArray
    classes: Indices


def areas(boxes: FloatArray) -> FloatArray:
    """`(n,)`; a box turned inside out has none."""
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    product: FloatArray = sides[:, 0] * sides[:, 1]
    return product


def overlaps(
    box: FloatArray, others: FloatArray, *, over: Literal["union", "smaller"] = "union"
) -> FloatArray:
    """Area that `box` shares with each of `others`, as a part of their union or of the smaller."""
    corner = np.maximum(box[:2], others[:, :2])
    opposite = np.minimum(box[2:], others[:, 2:])
    shared = areas(np.concatenate([corner, opposite], axis=1))
    own, theirs = areas(box[None])[0], areas(others)
    whole = np.minimum(own, theirs) if over == "smaller" else own + theirs - shared
    parts: FloatArray = shared / np.maximum(whole, 1e-9)
    return parts


def suppress(
    boxes: FloatArray,
    scores: FloatArray,
    limit: float,
    *,
    groups: Indices | None = None,
    over: Literal["union", "smaller"] = "union",
    at_most: int = 0,
) -> Indices:
    """Indices of the boxes to keep, best score first: non-maximum suppression.

    Args:
        boxes: `(n, 4)`.
        scores: `(n,)`.
        limit: A box that overlaps a better one by more than this is dropped.
        groups: `(n,)`; only boxes of one group suppress one another. None: all do.
        over: What the overlap is a part of.
        at_most: Stop at so many; 0 keeps all.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order) and not (at_most and len(kept) == at_most):
        best, rest = int(order[0]), order[1:]
        kept.append(best)
        near = overlaps(boxes[best], boxes[rest], over=over) > limit
        if groups is not None:
            near &= groups[rest] == groups[best]
        order = rest[~near]
    return np.array(kept, np.int64)


def select(
    boxes: FloatArray,
    scores: FloatArray,
    *,
    threshold: float,
    limit: float,
    at_most: int,
    per_class: bool,
) -> Found:
    """The boxes above the threshold after suppression, each with its best class.

    Args:
        boxes: `(n, 4)`.
        scores: `(n, classes)`.
    """
    classes = scores.argmax(axis=1)
    best = scores[np.arange(len(scores)), classes]
    above = np.flatnonzero(best > threshold)
    # A flood of boxes is cut before the quadratic part: the best thousand decide.
    above = above[np.argsort(-best[above], kind="stable")[:1000]]
    groups = classes[above] if per_class else None
    kept = above[suppress(boxes[above], best[above], limit, groups=groups, at_most=at_most)]
    return Found(boxes[kept], best[kept], classes[kept])


def centres(size: tuple[int, int], stride: int) -> FloatArray:
    """Middle of every cell of a grid over `size` (height, width), row by row: `(cells, 2)` x, y."""
    rows, columns = (-(-side // stride) for side in size)
    y, x = np.mgrid[:rows, :columns]
    return (np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32) + np.float32(0.5)) * stride


def from_distributions(distributions: FloatArray, size: tuple[int, int], stride: int) -> FloatArray:
    """Boxes `(cells, 4)` from each cell's four distributions of distances.

    Args:
        distributions: `(cells, 4 * bins)` unnormalised: left, top, right, bottom.
        size: Height and width of the model's input, pixels.
        stride: Pixels a cell.
    Source: Li et al. 2020, *Generalized Focal Loss*: softmax over the bins, expected bin, times
    the stride, is the distance from the cell's centre.
    """
    bins = distributions.shape[1] // 4
    logits = distributions.reshape(-1, 4, bins)
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    distances = weights @ np.arange(bins, dtype=np.float32) * stride  # (cells, 4)
    middle = centres(size, stride)
    return np.concatenate([middle - distances[:, :2], middle + distances[:, 2:]], axis=1)


def from_centres(boxes: FloatArray) -> FloatArray:
    """`(n, 4)` of centre x, centre y, width, height as corners."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def strides_of(cells: Sequence[int], size: tuple[int, int]) -> list[int]:
    """The stride of each level of a pyramid from its number of cells.

    Raises:
        ValueError: No power of two gives a grid of that many cells.
    """
    found = []
    for count in cells:
        fitting = [2**k for k in range(2, 9) if len(centres(size, 2**k)) == count]
        if not fitting:
            raise ValueError(f"no grid over {size[0]} x {size[1]} has {count} cells")
        found.append(fitting[0])
    return found
