"""The packaged models give the answers that were verified for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from zoo import digits, efficientnet, minilm, photographs, repository

from aiaas_server.zoo.packages import PackagedFile, fetch


@pytest.fixture(scope="module")
def models() -> Path:
    return repository.prepare(report=lambda line: None)


def open_model(models: Path, name: str) -> onnxruntime.InferenceSession:
    path = models / name / "1" / "model.onnx"
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("photograph", "index", "label", "score"),
    [
        pytest.param(photographs.COFFEE, 967, "espresso", 0.951, id="coffee"),
        pytest.param(photographs.CAMERA, 872, "tripod", 0.937, id="camera"),
        pytest.param(photographs.CHINA, 698, "palace", 0.315, id="china"),
        pytest.param(photographs.FLOWER, 985, "daisy", 0.364, id="flower"),
        pytest.param(photographs.CHELSEA, 282, "tiger cat", 0.386, id="chelsea"),
    ],
)
def test_efficientnet_names_the_photographs(
    models: Path, photograph: PackagedFile, index: int, label: str, score: float
) -> None:
    pixels = efficientnet.preprocess(photograph.path)[None]
    (probabilities,) = open_model(models, "efficientnet-lite0").run(None, {"image": pixels})
    assert probabilities[0].argmax() == index
    assert efficientnet.labels()[index].split(",")[0] == label
    assert probabilities[0, index] == pytest.approx(score, abs=0.005)


@pytest.mark.slow
def test_minilm_finds_like_sentences_alike(models: Path) -> None:
    sentences = [
        "A cat sits on the mat.",
        "A kitten is resting on a rug.",
        "The stock market fell sharply today.",
    ]
    inputs = minilm.encode(minilm.tokenizer(), sentences)
    (hidden,) = open_model(models, "minilm").run(None, inputs)
    vectors = minilm.pool(hidden, inputs["attention_mask"])
    assert vectors[0] @ vectors[1] == pytest.approx(0.6539, abs=5e-4)
    assert vectors[0] @ vectors[2] == pytest.approx(0.0897, abs=5e-4)


@pytest.mark.slow
def test_the_digits_network_reads_digits_it_was_not_trained_on(models: Path) -> None:
    _, held_out = digits.load()
    (logits,) = open_model(models, "digits").run(None, {"image": held_out.images})
    assert (logits.argmax(1) == held_out.labels).mean() > 0.93


@pytest.mark.slow
def test_what_is_in_the_cache_is_not_fetched_again(models: Path) -> None:
    assert list(fetch([*efficientnet.FILES, *minilm.FILES])) == []
    said: list[str] = []
    assert repository.prepare(report=said.append) == models
    assert said == []


def test_shifting_keeps_the_ink() -> None:
    square = np.zeros((1, 784), np.float32)
    square[0, 14 * 28 + 14] = 1
    moved = digits.shifted(digits.Digits(square, np.array([7])), 20, np.random.default_rng(0))
    assert moved.images.shape == (20, 784)
    assert moved.images.sum(1).tolist() == [1.0] * 20
    assert set(moved.labels) == {7}
