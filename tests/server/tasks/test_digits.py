"""Digits: any picture of one becomes what the network was trained to see."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aiaas_server.core.errors import InvalidInput, LoadFailed

CARD = {"task": "digits", "postprocessing": {"activation": "softmax"}}


def png(picture: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(picture, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def stroke(side: int = 28, ink: int = 255, ground: int = 0) -> Any:
    """A vertical stroke, left of the middle."""
    picture = np.full((side, side), ground, np.uint8)
    picture[side // 4 : side * 3 // 4, side // 4 : side // 4 + max(side // 10, 1)] = ink
    return picture


def tensor_of(opened: Any, picture: Any) -> Any:
    (tensor,) = opened.task.preprocess(png(picture), opened.task.params()).tensors.values()
    return tensor


def test_the_network_names_one_of_ten(open_bundle: Any, onnx_models: Any) -> None:
    found = open_bundle(onnx_models.mlp(), CARD).predict(png(stroke()), top_k=3)
    assert found.label in "0123456789"
    assert len(found.scores) == 3
    assert list(found.scores.values()) == sorted(found.scores.values(), reverse=True)


def test_pixels_arrive_scaled_and_flat(open_bundle: Any, onnx_models: Any) -> None:
    tensor = tensor_of(open_bundle(onnx_models.mlp(), CARD), stroke())
    assert tensor.shape == (1, 784)
    assert np.allclose(tensor.reshape(28, 28), stroke() / 255)


def test_black_on_white_is_turned(open_bundle: Any, onnx_models: Any) -> None:
    opened = open_bundle(onnx_models.mlp(), CARD)
    turned = tensor_of(opened, stroke(ink=0, ground=255))
    assert np.allclose(turned, tensor_of(opened, stroke()), atol=1e-6)


def test_mean_and_deviation_are_applied(open_bundle: Any, onnx_models: Any) -> None:
    settings = {"mean": 0.1307, "std": 0.3081}
    opened = open_bundle(onnx_models.mlp(), {**CARD, "preprocessing": settings})
    tensor = tensor_of(opened, stroke())
    assert tensor.max() == pytest.approx((1 - 0.1307) / 0.3081)
    assert tensor.min() == pytest.approx(-0.1307 / 0.3081)


def test_a_digit_anywhere_in_a_large_picture_is_brought_to_the_middle(
    open_bundle: Any, onnx_models: Any
) -> None:
    opened = open_bundle(onnx_models.mlp(), {**CARD, "preprocessing": {"box": 20}})
    picture = np.zeros((300, 400), np.uint8)
    picture[10:110, 20:120] = 255
    square = tensor_of(opened, picture).reshape(28, 28)
    rows, columns = np.nonzero(square > 0.5)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 23, 4, 23)


def test_an_empty_picture_is_told(open_bundle: Any, onnx_models: Any) -> None:
    opened = open_bundle(onnx_models.mlp(), {**CARD, "preprocessing": {"box": 20}})
    with pytest.raises(InvalidInput, match="the picture is empty"):
        opened.predict(png(np.zeros((28, 28))))


def test_a_picture_that_is_none_is_told(open_bundle: Any, onnx_models: Any) -> None:
    with pytest.raises(InvalidInput, match="PNG"):
        open_bundle(onnx_models.mlp(), CARD).predict(b"not a picture")


def test_an_input_that_is_no_square_is_refused_at_load(open_bundle: Any, onnx_models: Any) -> None:
    with pytest.raises(LoadFailed, match="no square grey picture"):
        open_bundle(onnx_models.scale(dims=["batch", 10]), CARD)
