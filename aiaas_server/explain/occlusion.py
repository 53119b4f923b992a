"""What can be taken out of a text and of a picture: words, and cells of a grid. Pure.

Taking out is what both have in place of a background: a word is left out of the text, a cell is
painted with the picture's mean colour. The parts are then the features of a game, see `shapley`:
with a budget for one permutation or more, contributions are Shapley values and add up to the
prediction; below, each part is taken out alone (`occlusion`), where they need not: two words that
mean the same each seem to add nothing.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

PAIRS: Final = 10
"""Permutations, with their reverses, for which the parts are few enough."""
LARGEST_GRID, SMALLEST_GRID = 14, 2
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f\U00020000-\U0003ffff"
# Scripts without spaces, a character each; any other run of letters and digits is one word.
_word = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+(?:['’-][^\W{_ALONE}]+)*")


class Span(NamedTuple):
    """Characters of a text, from `start` to before `end`."""

    start: int
    end: int


def words(text: str) -> list[Span]:
    """The words; of Chinese, Japanese and Thai, which have no spaces, the characters."""
    return [Span(*found.span()) for found in _word.finditer(text)]


def spans(text: str, most: int) -> list[Span]:
    """The words, or where they are more than `most`, as many stretches of neighbouring words."""
    found = words(text)
    if len(found) <= most:
        return found
    parts = [part for part in np.array_split(np.arange(len(found)), most) if len(part)]
    return [Span(found[part[0]].start, found[part[-1]].end) for part in parts]


def left_over(text: str, parts: list[Span], coalition: npt.NDArray[np.bool_]) -> str:
    """The text without the parts that are no members; what stood behind each goes with it."""
    begins = [part.start for part in parts] + [len(text)]
    kept = [text[begins[at] : begins[at + 1]] for at in np.flatnonzero(coalition)]
    return (text[: begins[0]] + "".join(kept)).strip()


def most_parts(rows: int, pairs: int = PAIRS) -> int:
    """So many parts that `pairs` permutations of them fit into `rows` rows; at least 2."""
    return max(rows // (2 * pairs) + 1, 2)


class Grid(NamedTuple):
    """Cells of a picture, row by row; `(x, y, width, height)` in pixels."""

    rows: int
    columns: int
    boxes: list[tuple[int, int, int, int]]


def grid(width: int, height: int, rows: int) -> Grid:
    """Cells for so many rows of the model: as square as a grid of equally many sides can be.

    Args:
        rows: That may be asked for; the grid has up to 14 cells a side.
    """
    side = min(LARGEST_GRID, max(int(most_parts(rows) ** 0.5), SMALLEST_GRID))
    down, across = min(side, height), min(side, width)
    ys = np.linspace(0, height, down + 1).round().astype(int).tolist()
    xs = np.linspace(0, width, across + 1).round().astype(int).tolist()
    boxes = [(x, y, right - x, lower - y) for y, lower in pairwise(ys) for x, right in pairwise(xs)]
    return Grid(down, across, boxes)


def painted(pixels: Pixels, cells: Grid, coalition: npt.NDArray[np.bool_]) -> Pixels:
    """The picture with its mean colour in the cells that are no members; a new array."""
    found = pixels.copy()
    colour = mean_colour(pixels)
    for at in np.flatnonzero(~coalition):
        x, y, width, height = cells.boxes[at]
        found[y : y + height, x : x + width] = colour
    return found


def mean_colour(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """`(3,)`."""
    mean = np.rint(pixels.reshape(-1, pixels.shape[-1]).mean(axis=0))
    return np.asarray(mean, np.uint8)
