"""The training examples make bundles that serve, and tell the accuracy they have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client import Client


def card_of(folder: Path) -> Any:
    return json.loads((folder / "1" / "model.json").read_text("utf-8"))


def test_records_are_trained_exported_and_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tabular = pytest.importorskip("train_tabular", reason="scikit-learn is not installed")
    matrix = train_tabular.build(tmp_path / "tumours")
    accuracy = card_of(tmp_path / "tumours")["metrics"]["accuracy"]
    assert accuracy > 0.9
    assert np.trace(matrix) / matrix.sum() == pytest.approx(accuracy, abs=1e-4)
    train_tabular.plot(matrix, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    assert "held-out accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_digits_are_trained_and_read_from_pictures(tmp_path: Path) -> None:
    train_digits = pytest.importorskip("train_digits")
    assert train_digits.build(tmp_path / "digits") > 0.93


@pytest.mark.slow
def test_sentiment_is_trained_and_served(tmp_path: Path) -> None:
    train_sentiment = pytest.importorskip("train_sentiment")
    accuracy = train_sentiment.build(tmp_path / "sentiment")
    assert accuracy > 0.83
    assert card_of(tmp_path / "sentiment")["metrics"]["accuracy"] == round(accuracy, 4)
    with Client.local(tmp_path) as client:
        model = client.text_classification("sentiment")
        good = model.predict("质量很好，非常喜欢")
        assert (good.label, good.score) == ("positive", pytest.approx(0.96, abs=0.03))
        bad = model.predict("太差了，不推荐购买")
        assert (bad.label, bad.score) == ("negative", pytest.approx(0.98, abs=0.03))
        assert model.predict("这是一个正面的评论").label == "positive"
        assert model.predict("这是一个负面的评论").label == "negative"


def test_the_english_head_is_the_logistic_regression_it_was_trained_as() -> None:
    english = pytest.importorskip("train_sentiment_english")
    rng = np.random.default_rng(0)
    true = rng.normal(0, 4, 6)
    vectors = rng.normal(0, 1, (4000, 6)).astype(np.float32)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-(vectors @ true + 0.5)))).astype(np.int64)
    weights, bias = english.train(vectors, labels)
    assert np.corrcoef(weights, true)[0, 1] > 0.99
    assert bias == pytest.approx(0.5, abs=0.3)
    # At the optimum the residuals neither lean to a side nor follow a column, but for the decay.
    residuals = labels - 1 / (1 + np.exp(-(vectors @ weights + bias)))
    assert residuals.sum() == pytest.approx(0, abs=1e-2)
    np.testing.assert_allclose(vectors.T @ residuals, 0.2 * weights, atol=1e-2)


def test_the_probe_sentences_are_not_trained_on() -> None:
    train_sentiment = pytest.importorskip("train_sentiment")
    bad, good = train_sentiment.templates()
    assert not train_sentiment.PROBES & {*bad, *good}
    assert not {*bad} & {*good}
