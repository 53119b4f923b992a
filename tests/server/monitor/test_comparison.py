"""When two answers are alike."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from aiaas_server.monitor.comparison import compare

NAN, INF = float("nan"), float("inf")


def floats(*values, dtype=np.float32):
    return np.array(values, dtype)


def texts(*values):
    return np.array(values, object)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (floats(1, 2), floats(1.0001, 2)),
        (floats(0), floats(1e-6)),
        (floats(NAN, INF, -INF), floats(NAN, INF, -INF)),
        (floats(1, dtype=np.float16), floats(1, dtype=np.float32)),
        (floats(1, dtype=ml_dtypes.bfloat16), floats(1, dtype=ml_dtypes.bfloat16)),
        (np.array([1, 2]), np.array([1, 2])),
        (np.array([True]), np.array([True])),
        (texts("a", b"b"), texts(b"a", "b")),
        (floats(), floats()),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)),
    ],
)
def test_alike(ours, theirs):
    found = compare({"y": ours}, {"y": theirs, "more": ours})
    assert found.agrees
    assert found.within
    assert found.text == ""


@pytest.mark.parametrize(
    ("ours", "theirs", "text", "largest"),
    [
        (floats(1, 2), floats(1, 2.5), "output 'y' differs by up to 0.5", 0.5),
        (floats(NAN, 1), floats(0, 1), "output 'y' differs by up to 0", 0.0),
        (floats(INF), floats(-INF), "output 'y' differs by up to 0", 0.0),
        (floats(1), floats(INF), "output 'y' differs by up to 0", 0.0),
        (np.array([1, 2]), np.array([1, 3]), "output 'y' differs in 1 of 2 elements", 0.0),
        (texts("a", "b"), texts("a", "c"), "output 'y' differs in 1 of 2 elements", 0.0),
        (floats(1), floats(1, 2), "output 'y' has shape [2], not [1]", 0.0),
        (floats(1), np.array([1]), "output 'y' has another datatype", 0.0),
        (texts("a"), floats(1), "output 'y' has another datatype", 0.0),
    ],
)
def test_unlike(ours, theirs, text, largest):
    found = compare({"y": ours}, {"y": theirs})
    assert not found.agrees
    assert not found.within
    assert found.text == text
    assert found.largest == pytest.approx(largest)


def test_a_missing_output_is_a_difference():
    assert compare({"y": floats(1)}, {}).text == "output 'y' is missing"


def test_scores_agree_where_they_name_the_same_labels():
    ours = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]], np.float32)
    theirs = np.array([[0.3, 0.7], [0.9, 0.1], [0.6, 0.4]], np.float32)
    found = compare({"y": ours}, {"y": theirs}, {"y"})
    assert (found.agrees, found.within, found.labels, found.same_labels) == (False, False, 3, 2)
    assert found.text == "output 'y' names another label in 1 of 3 rows"
    found = compare({"y": ours[:2]}, {"y": theirs[:2]}, {"y"})
    assert (found.agrees, found.within, found.same_labels) == (True, False, 2)
    assert found.largest == pytest.approx(0.2)


def test_labels_do_not_excuse_what_is_no_score():
    scores = np.array([[0.1, 0.9]], np.float32)
    found = compare(
        {"y": scores, "n": np.array([1])}, {"y": scores, "n": np.array([2])}, {"y", "n"}
    )
    assert not found.agrees


def test_labels_decide_and_the_probabilities_beside_them_do_not():
    ours = {"label": np.array([1, 0]), "p": np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)}
    theirs = {"label": np.array([1, 0]), "p": np.array([[0.4, 0.6], [0.6, 0.4]], np.float32)}
    found = compare(ours, theirs)
    assert (found.agrees, found.within) == (True, False)
    assert found.largest == pytest.approx(0.3)
    found = compare(ours, {**theirs, "label": np.array([1, 1])})
    assert not found.agrees
    assert found.text == "output 'label' differs in 1 of 2 elements"
    assert compare({**ours, "label": texts("b", "a")}, {**theirs, "label": texts("b", "a")}).agrees
    assert not compare(ours, {"label": ours["label"]}).agrees  # callers miss what they read


def test_rows_that_look_like_probabilities_are_scores():
    ours = np.array([[0.1, 0.9], [0.8, 0.2]], np.float16)
    theirs = np.array([[0.4, 0.6], [0.6, 0.4]], np.float32)
    assert compare({"p": ours}, {"p": theirs}).agrees
    assert not compare({"p": ours}, {"p": theirs[::-1]}).agrees
    assert not compare({"p": ours}, {"p": theirs * 2}).agrees
    assert not compare({"p": ours[:, :1]}, {"p": theirs[:, :1]}).agrees
    assert compare({"p": ours[None]}, {"p": theirs[None]}).labels == 2


def test_a_row_of_nan_names_no_label():
    ours = np.array([[0.9, 0.1]], np.float32)
    assert not compare({"p": ours}, {"p": np.full_like(ours, NAN)}, {"p"}).agrees


def test_numbers_beside_scores_do_not_decide():
    scores, numbers = np.array([[0.1, 0.9]], np.float32), floats(1, 2)
    assert compare({"n": numbers, "p": scores}, {"n": numbers + 1, "p": scores}).agrees
    assert not compare({"n": numbers}, {"n": numbers + 1}).agrees


@pytest.mark.parametrize("at", [0, 5, 299_999, 599_999])
def test_a_difference_anywhere_in_a_large_tensor_is_found(at):
    ours = np.zeros((2, 300_000), np.float32)
    theirs = ours.copy()
    theirs.reshape(-1)[at] = 3
    found = compare({"y": ours}, {"y": theirs})
    assert (found.within, found.largest) == (False, 3.0)


@pytest.mark.parametrize("seed", range(20))
def test_noise_below_the_tolerance_agrees_and_above_does_not(seed):
    rng = np.random.default_rng(seed)
    ours = rng.normal(0, 10, (7, 11)).astype(np.float32)
    noise = rng.choice([-1, 1], ours.shape)
    assert compare({"y": ours}, {"y": (ours * (1 + 5e-4 * noise)).astype(np.float32)}).within
    assert not compare({"y": ours}, {"y": (ours * (1 + 5e-3 * noise)).astype(np.float32)}).within
