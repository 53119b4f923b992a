"""Metrics are scikit-learn's; what is not defined is None; unknown truths are wrong answers."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aiaas_server.job_process.metrics import classification_metrics, regression_metrics

NAMES = ["ant", "bee", "cat", "dog"]


def cases() -> st.SearchStrategy[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[str]]]:
    """Truth, probabilities with ties among them, and classes; some truths have no class."""

    def of(classes: int, rows: int) -> st.SearchStrategy[Any]:
        truth = hnp.arrays(np.int64, rows, elements=st.integers(0, 3))
        weights = hnp.arrays(np.int64, (rows, classes), elements=st.integers(1, 9))
        return st.tuples(truth, weights, st.just(NAMES[:classes]))

    drawn = st.tuples(st.integers(2, 4), st.integers(1, 40)).flatmap(lambda pair: of(*pair))
    return drawn.map(
        lambda found: (
            np.array(NAMES, object)[found[0]],
            found[1] / found[1].sum(axis=1, keepdims=True),
            found[2],
        )
    )


@settings(max_examples=25, deadline=None)
@given(cases())
def test_labels_are_measured_as_scikit_learn_does(case: Any) -> None:
    """Accuracy, the macro means, each class and the confusion matrix."""
    import sklearn.metrics

    judge: Any = sklearn.metrics
    truth, scores, classes = case
    found = classification_metrics(truth, scores, classes)
    predicted = np.array(classes, object)[np.argmax(scores, axis=1)]
    assert found["accuracy"] == pytest.approx(judge.accuracy_score(truth, predicted))
    p, r, f, _ = judge.precision_recall_fscore_support(
        truth, predicted, average="macro", zero_division=0
    )
    assert [found[k] for k in ("precision", "recall", "f1")] == pytest.approx([p, r, f])
    labels = found["confusion"]["labels"]
    matrix = judge.confusion_matrix(truth, predicted, labels=labels)
    assert found["confusion"]["counts"] == matrix.tolist()
    one = judge.precision_recall_fscore_support(
        truth, predicted, labels=labels, average=None, zero_division=np.nan
    )
    for row, label in enumerate(labels):
        told = found["per_class"][label]
        expected = [None if np.isnan(part[row]) else pytest.approx(part[row]) for part in one[:3]]
        assert [told["precision"], told["recall"], told["f1"]] == expected
        assert told["rows"] == one[3][row]
    json.dumps(found, allow_nan=False)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_probabilities_are_measured_as_scikit_learn_does(case: Any) -> None:
    """ROC AUC, log loss and calibration, wherever the judge has a value for them."""
    from sklearn import metrics as judge
    from sklearn.calibration import calibration_curve

    truth, scores, classes = case
    found = classification_metrics(truth, scores, classes)
    areas = []
    for column, label in enumerate(classes):
        if 0 < np.sum(truth == label) < len(truth):
            areas.append(judge.roc_auc_score(truth == label, scores[:, column]))
    if len(classes) == 2 and set(truth) == set(classes):
        areas = [judge.roc_auc_score(truth == classes[1], scores[:, 1])]
    assert found["roc_auc"] == (pytest.approx(np.mean(areas)) if areas else None)
    if set(truth) <= set(classes):
        loss = judge.log_loss(truth, y_proba=scores, labels=classes)
        assert found["log_loss"] == pytest.approx(loss)
    right = np.array(classes, object)[np.argmax(scores, axis=1)] == truth
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed, predicted = calibration_curve(right, scores.max(axis=1), n_bins=10)
    told = found["calibration"]
    assert [x for x in told["observed"] if x is not None] == pytest.approx(list(observed))
    assert [x for x in told["predicted"] if x is not None] == pytest.approx(list(predicted))
    weights = np.array([rows for rows in told["rows"] if rows]) / len(truth)
    assert told["error"] == pytest.approx(float(np.sum(weights * abs(observed - predicted))))


def test_many_classes_one_against_rest() -> None:
    """The macro mean is the judge's own one-against-rest."""
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(3)
    scores = random.dirichlet(np.ones(4), 200)
    truth = np.array(NAMES, object)[random.integers(0, 4, 200)]
    expected = roc_auc_score(truth, scores, multi_class="ovr", labels=NAMES)
    assert classification_metrics(truth, scores, NAMES)["roc_auc"] == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 30).flatmap(
        lambda rows: hnp.arrays(
            np.float64, (2, rows), elements=st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
        )
    )
)
def test_numbers_are_measured_as_scikit_learn_does(both: Any) -> None:
    """MSE, RMSE, MAE and R²; R² of a constant truth is not defined."""
    from sklearn import metrics as judge

    truth, values = both
    found = regression_metrics(truth, values)
    assert found["mse"] == pytest.approx(judge.mean_squared_error(truth, values))
    assert found["rmse"] == pytest.approx(judge.root_mean_squared_error(truth, values))
    assert found["mae"] == pytest.approx(judge.mean_absolute_error(truth, values))
    if np.var(truth) > 1e-9:
        assert found["r2"] == pytest.approx(judge.r2_score(truth, values))
    if len(set(truth)) == 1:
        assert found["r2"] is None


def test_what_is_not_defined_is_none() -> None:
    """No rows, one class only, scores that are no probabilities, numbers beyond all bounds."""
    none = classification_metrics(np.array([], object), np.empty((0, 2)), ["a", "b"])
    assert none["accuracy"] is none["f1"] is none["roc_auc"] is none["log_loss"] is None
    one = classification_metrics(np.array(["a", "a"], object), np.array([[1.0, 0], [1, 0]]), "ab")
    assert one["roc_auc"] is None
    assert one["accuracy"] == 1.0
    assert one["per_class"]["b"] == {"precision": None, "recall": None, "f1": None, "rows": 0}
    margins = np.array([[-2.0, 2.0], [1.0, -1.0]])
    told = classification_metrics(np.array(["b", "a"], object), margins, ["a", "b"])
    assert told["roc_auc"] == 1.0
    assert told["log_loss"] is None
    assert told["calibration"] is None
    assert regression_metrics(np.array([]), np.array([]))["mse"] is None
    huge = regression_metrics(np.array([1.0, 2.0]), np.array([1e300, -1e300]))
    assert huge["mse"] is None
    assert huge["r2"] is None
    assert huge["mae"] == pytest.approx(1e300)


def test_a_truth_without_a_class_is_a_wrong_answer() -> None:
    """It has its own line, lowers the accuracy, and costs the log loss of probability 0."""
    truth = np.array(["a", "z"], object)
    found = classification_metrics(truth, np.array([[1.0, 0.0], [0.9, 0.1]]), ["a", "b"])
    assert found["accuracy"] == 0.5
    assert found["confusion"]["labels"] == ["a", "b", "z"]
    assert found["per_class"]["z"]["recall"] == 0.0
    assert found["log_loss"] == pytest.approx(-np.log(np.finfo(float).eps) / 2)
