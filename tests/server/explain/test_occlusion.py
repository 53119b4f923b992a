"""What is taken out of texts and pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.explain.occlusion import (
    grid,
    left_over,
    most_parts,
    painted,
    spans,
    words,
)


def shown(text: str, most: int = 1000) -> list[str]:
    return [text[span.start : span.end] for span in spans(text, most)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A good film!", ["A", "good", "film"]),
        ("don't re-enter", ["don't", "re-enter"]),
        ("这部电影很好 really", ["这", "部", "电", "影", "很", "好", "really"]),
        ("とても良い", ["と", "て", "も", "良", "い"]),
        ("좋은 영화", ["좋은", "영화"]),
        ("… — !", []),
        ("naïve café 42", ["naïve", "café", "42"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert shown(text) == expected


def test_many_words_are_told_as_stretches() -> None:
    assert shown("a b c d e f g", 3) == ["a b c", "d e", "f g"]
    assert shown("a b", 3) == ["a", "b"]


@given(st.text(max_size=60), st.integers(1, 8), st.data())
def test_what_is_left_over_is_what_was_there(text: str, most: int, data: st.DataObject) -> None:
    parts = spans(text, most)
    assert len(parts) <= most or len(parts) == len(words(text))
    assert left_over(text, parts, np.ones(len(parts), bool)) == text.strip()
    members = data.draw(st.lists(st.booleans(), min_size=len(parts), max_size=len(parts)))
    left = left_over(text, parts, np.array(members, bool))
    assert len(left) <= len(text)
    for member, part in zip(members, parts, strict=True):
        assert not member or text[part.start : part.end] in left


def test_a_word_goes_with_what_follows_it() -> None:
    text = 'It is "not" good, is it?'
    parts = words(text)
    assert left_over(text, parts, np.array([1, 1, 0, 1, 0, 0], bool)) == 'It is "good,'
    assert left_over(text, parts, np.zeros(6, bool)) == ""


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 5000))
def test_the_cells_of_a_grid_cover_the_picture_once(width: int, height: int, rows: int) -> None:
    cells = grid(width, height, rows)
    covered = np.zeros((height, width), int)
    for x, y, w, h in cells.boxes:
        covered[y : y + h, x : x + w] += 1
    assert (covered == 1).all()
    assert len(cells.boxes) == cells.rows * cells.columns <= max(most_parts(rows), 4)


def test_cells_that_are_taken_out_have_the_mean_colour() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = 100
    cells = grid(4, 4, 100)
    made = painted(pixels, cells, np.array([True, False, True, True]))
    assert cells.boxes[1] == (2, 0, 2, 2)
    assert (made[:2, 2:] == 50).all()
    assert (made[:2, :2] == 100).all()
    assert not made[2:].any()
    assert pixels[0, 3, 0] == 100  # the picture itself is as it was
