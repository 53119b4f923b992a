"""Connected parts, smallest rectangles and reading order, on drawings whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from aiaas_client.protocol.predictions import OcrLine
from aiaas_server.tasks.ctc import greedy
from aiaas_server.tasks.ocr import in_reading_order, straightened
from aiaas_server.tasks.text_regions import (
    _connect,
    _runs,
    clockwise,
    find_regions,
    hull,
    mean_inside,
    smallest_rectangle,
)


def drawn(*polygons: list[tuple[float, float]], size: tuple[int, int] = (200, 120)) -> np.ndarray:
    image = Image.new("L", size)
    for polygon in polygons:
        ImageDraw.Draw(image).polygon(polygon, fill=255)
    return np.asarray(image).astype(np.float32) / 255


def regions(scores: np.ndarray, grow: float = 0.0) -> list[list[list[float]]]:
    found = find_regions(scores, threshold=0.3, least_score=0.5, grow=grow)
    return [corners.round().tolist() for corners in found]


def test_a_bar_is_found_where_it_was_drawn() -> None:
    bar = drawn([(20, 30), (80, 30), (80, 45), (20, 45)])
    # One pixel wider to the right and below: the mask is widened to join hairline gaps.
    assert regions(bar) == [[[20, 30], [81, 30], [81, 46], [20, 46]]]
    area, around = 61 * 16, 2 * (61 + 16)
    out = round(area * 1.6 / around)
    ((upper_left, _, lower_right, _),) = regions(bar, grow=1.6)
    assert upper_left == pytest.approx([20 - out, 30 - out], abs=1)
    assert lower_right == pytest.approx([81 + out, 46 + out], abs=1)


def test_bars_apart_are_two_and_noise_is_none() -> None:
    bars = drawn([(5, 5), (60, 5), (60, 15), (5, 15)], [(5, 40), (160, 40), (160, 60), (5, 60)])
    bars[100, 100] = 1
    assert len(regions(bars)) == 2
    assert regions(np.zeros((64, 64), np.float32)) == []
    assert regions(bars * 0.4) == []  # above the pixels' threshold, below the regions'


def test_a_slanted_bar_keeps_its_slant() -> None:
    corners = [(20.0, 20.0), (150.0, 60.0), (144.0, 79.0), (14.0, 39.0)]
    ((a, b, c, d),) = regions(drawn(corners))
    for found, expected in zip((a, b, c, d), corners, strict=True):
        assert found == pytest.approx(list(expected), abs=3)


def test_the_mean_is_over_the_rectangle_only() -> None:
    scores = np.zeros((20, 20), np.float32)
    scores[5:15, 5:15] = 0.8
    square = smallest_rectangle(np.array([[5, 5], [14, 5], [14, 14], [5, 14]], float))
    assert mean_inside(scores, square) == pytest.approx(0.8)
    assert mean_inside(scores, square.grown(5)) == pytest.approx(0.8 * 100 / 400, rel=0.3)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=30))
def test_the_smallest_rectangle_holds_every_point(points: list[tuple[int, int]]) -> None:
    array = np.array(points, float)
    rectangle = smallest_rectangle(array)
    offset = array - rectangle.middle
    assert (np.abs(offset @ rectangle.along) <= rectangle.width / 2 + 1e-6).all()
    assert (np.abs(offset @ rectangle.across) <= rectangle.height / 2 + 1e-6).all()
    straight = np.ptp(array[:, 0]) * np.ptp(array[:, 1])
    assert rectangle.width * rectangle.height <= straight + 1e-6


def flooded(mask: np.ndarray) -> int:
    """Number of parts of a mask, counted the slow way."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    count = 0
    while left:
        count += 1
        edge = [left.pop()]
        while edge:
            y, x = edge.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
    return count


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.9))
def test_parts_are_counted_as_a_flood_counts_them(seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((12, 17)) < density
    rows, starts, ends = _runs(mask)
    names = _connect(rows, starts, ends, mask.shape[1])
    assert len(set(names.tolist())) == flooded(mask)


def test_corners_go_clockwise_from_the_upper_left() -> None:
    corners = np.array([[9, 9], [0, 1], [10, 0], [1, 10]], float)
    assert clockwise(corners).tolist() == [[0, 1], [10, 0], [9, 9], [1, 10]]


def test_the_hull_leaves_inner_points_out() -> None:
    points = np.array([[0, 0], [4, 0], [4, 4], [0, 4], [2, 2], [2, 0]], float)
    assert sorted(hull(points).tolist()) == [[0, 0], [0, 4], [4, 0], [4, 4]]


def test_a_crop_is_straightened_and_tall_ones_are_laid_down() -> None:
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[10:20, 10:50] = 200
    box = np.array([[10, 10], [50, 10], [50, 20], [10, 20]], float)
    assert straightened(pixels, box).shape == (10, 40, 3)
    assert (straightened(pixels, box) == 200).all()
    tall = np.array([[10, 10], [20, 10], [20, 50], [10, 50]], float)
    assert straightened(pixels, tall).shape == (10, 40, 3)


def line(text: str, x: float, y: float, height: float = 10) -> OcrLine:
    box = ((x, y), (x + 30, y), (x + 30, y + height), (x, y + height))
    return OcrLine(text=text, score=1.0, box=box)


def test_text_is_read_by_rows_then_from_left_to_right() -> None:
    lines = [line("world", 50, 1), line("end", 0, 40), line("hello", 0, 3), line("the", 50, 20)]
    rows = in_reading_order(lines)
    assert [[item.text for item in row] for row in rows] == [["hello", "world"], ["the"], ["end"]]


def test_ctc_merges_runs_and_drops_blanks() -> None:
    order = [0, 1, 1, 0, 1, 2, 2, 0]
    probabilities = np.full((8, 3), 0.1, np.float32)
    probabilities[range(8), order] = 0.8
    decoded = greedy(probabilities)
    assert decoded.signs == (1, 1, 2)
    assert decoded.steps == (1, 4, 5)
    assert decoded.score == pytest.approx(0.8)
    assert greedy(probabilities[:1]).signs == ()
    assert greedy(probabilities[:1]).score == 0
    assert greedy(probabilities, blank=2).signs == (0, 1, 0, 1, 0)
