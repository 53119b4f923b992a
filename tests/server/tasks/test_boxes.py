"""Overlap, suppression and the decoding of detectors' outputs, checked against small sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.tasks.boxes import (
    centres,
    from_centres,
    from_distributions,
    overlaps,
    select,
    strides_of,
    suppress,
)


def floats(values: object) -> np.ndarray:
    return np.array(values, np.float32)


def test_overlap_over_union_and_over_the_smaller() -> None:
    box, others = (
        floats([0, 0, 4, 4]),
        floats([[0, 0, 4, 4], [2, 0, 6, 4], [1, 1, 2, 2], [9, 9, 10, 10]]),
    )
    assert overlaps(box, others).tolist() == pytest.approx([1, 8 / 24, 1 / 16, 0])
    assert overlaps(box, others, over="smaller").tolist() == pytest.approx([1, 0.5, 1, 0])


def test_the_best_of_overlapping_boxes_stays() -> None:
    boxes = floats([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]])
    scores = floats([0.8, 0.9, 0.7])
    assert suppress(boxes, scores, 0.5).tolist() == [1, 2]
    assert suppress(boxes, scores, 0.9).tolist() == [1, 0, 2]
    assert suppress(boxes, scores, 0.5, groups=np.array([0, 1, 0])).tolist() == [1, 0, 2]
    assert suppress(boxes, scores, 0.5, at_most=1).tolist() == [1]
    assert suppress(boxes[:0], scores[:0], 0.5).tolist() == []


boxes_and_scores = st.lists(
    st.tuples(*[st.integers(0, 20)] * 4, st.integers(0, 100)), min_size=1, max_size=12
)


@given(boxes_and_scores, st.sampled_from([0.1, 0.5, 0.9]))
def test_kept_boxes_never_overlap_and_dropped_ones_overlap_a_better(
    items: list[tuple[int, ...]], limit: float
) -> None:
    boxes = floats([[x, y, x + w + 1, y + h + 1] for x, y, w, h, _ in items])
    scores = floats([s for *_, s in items])
    kept = suppress(boxes, scores, limit).tolist()
    for place, index in enumerate(kept):
        assert (overlaps(boxes[index], boxes[kept[:place]]) <= limit).all()
    for index in set(range(len(items))) - set(kept):
        better = [k for k in kept if scores[k] >= scores[index]]
        assert (overlaps(boxes[index], boxes[better]) > limit).any()


def test_select_answers_the_best_class_of_each_box() -> None:
    boxes = floats([[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10]])
    scores = floats([[0.1, 0.9], [0.8, 0.2], [0.3, 0.2]])
    found = select(boxes, scores, threshold=0.4, limit=0.5, at_most=10, per_class=True)
    assert found.classes.tolist() == [1, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    found = select(boxes, scores, threshold=0.2, limit=0.5, at_most=10, per_class=False)
    assert found.boxes.tolist() == boxes[[0, 2]].tolist()


def test_cells_are_numbered_row_by_row() -> None:
    assert centres((16, 24), 8).tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_a_sure_distribution_is_its_bin_times_the_stride() -> None:
    bins = np.full((1, 4, 8), -1e4, np.float32)
    for side, distance in enumerate([1, 0, 2, 3]):
        bins[0, side, distance] = 0
    boxes = from_distributions(bins.reshape(1, 32), (16, 16), 16)
    assert boxes.tolist() == [[8 - 16, 8, 8 + 32, 8 + 48]]
    undecided = from_distributions(np.zeros((1, 32), np.float32), (16, 16), 16)
    assert undecided.tolist() == [[8 - 56, 8 - 56, 8 + 56, 8 + 56]]


def test_centre_and_size_become_corners() -> None:
    assert from_centres(floats([[10, 20, 4, 6]])).tolist() == [[8, 17, 12, 23]]


def test_strides_follow_from_the_number_of_cells() -> None:
    assert strides_of([7600, 1900, 475, 130], (800, 608)) == [8, 16, 32, 64]
    with pytest.raises(ValueError, match="no grid over 800 x 608 has 7601 cells"):
        strides_of([7601], (800, 608))
