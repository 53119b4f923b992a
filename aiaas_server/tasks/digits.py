"""Handwritten digits: a picture of one digit to its label.

Payload: an image. Made grey, turned to white on black where that is asked for, the digit fitted
into the middle, normalised, and laid out as the model's input: `(n, 784)`, `(n, 1, 28, 28)` or any
other square.

Example card (784-32-10):

    {"task": "digits", "preprocessing": {"scale": 255, "mean": 0, "std": 1},
     "postprocessing": {"activation": "softmax"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt, prod
from typing import Any, Literal

import numpy as np
from pydantic import Field

from aiaas_client.protocol.predictions import Classification
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Prepared
from aiaas_server.tasks.images import Pixels, decode_image, scaled
from aiaas_server.tasks.scores import Activation, activated, classification
from aiaas_server.tasks.task import (
    TaskSettings,
    check_label_count,
    input_spec,
    need,
    output_spec,
    read_labels,
)

TEN = tuple("0123456789")
# A picture is first made smaller to this many sides of the model's: none of a digit is lost there.
SIDES_MORE = 64


class Preprocessing(TaskSettings):
    """From a picture to the model's input: `(grey / scale - mean) / std`.

    Attributes:
        polarity: What the model saw in training; `auto` turns a picture whose border is lighter
            than its middle, so that both kinds are white on black.
        box: Side of the square that the digit is fitted into, in the model's pixels; 0 leaves the
            picture as it is, only resized.
        threshold: Share of full brightness from which a pixel belongs to the digit.
    """

    input: str = ""
    scale: float = Field(default=255.0, gt=0)
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    polarity: Literal["as-is", "invert", "auto"] = "auto"
    box: int = Field(default=0, ge=0)
    threshold: float = Field(default=0.2, ge=0, le=1)


class Postprocessing(TaskSettings):
    """`output` names the scores of the ten digits."""

    output: str = ""
    activation: Activation = "softmax"


class DigitParams(Params):
    """`top_k`: how many digits `scores` has; all by default."""

    top_k: int | None = Field(default=None, ge=1)


class Digits:
    """The task of one version."""

    input: PayloadKind = "image"
    predictions: tuple[type[Classification], ...] = (Classification,)
    params = DigitParams
    costs = True

    def __init__(
        self, card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
    ) -> None:
        need("PIL.Image")
        self._pre = read_settings(Preprocessing, card.preprocessing, "preprocessing")
        self._post = read_settings(Postprocessing, card.postprocessing, "postprocessing")
        self.labels = read_labels(card, assets) or TEN
        self._input = input_spec(signature, self._pre.input)
        self._output = output_spec(signature, self._post.output)
        check_label_count(self.labels, self._output)
        pixels = prod(self._input.shape[1:])
        self._side = isqrt(max(pixels, 0))
        if pixels < 1 or self._side**2 != pixels or self._pre.box > self._side:
            raise LoadFailed(
                f"digits: input '{self._input.name}' of shape {self._input.shape} "
                "is no square grey picture that holds the box"
            )

    def preprocess(self, payload: Any, params: DigitParams) -> Prepared:
        """One row."""
        pixels = _within(decode_image(payload), SIDES_MORE * self._side)
        grey = self._white_on_black(_grey(pixels))
        picture = self._fitted(grey) if self._pre.box else _resized(grey, self._side, self._side)
        values = (picture / self._pre.scale - self._pre.mean) / self._pre.std
        tensor = values.astype(np.float32).reshape(1, *self._input.shape[1:])
        return Prepared({self._input.name: tensor}, 1, None, (self._output.name,))

    def postprocess(
        self, tensors: Mapping[str, Array], prepared: Prepared, params: DigitParams
    ) -> Classification:
        """The best digit."""
        scores = activated(tensors[self._output.name], self._post.activation)[0]
        return classification(scores, self.labels, params.top_k)

    def _white_on_black(self, grey: Array) -> Array:
        turn = self._pre.polarity == "invert"
        if self._pre.polarity == "auto":
            border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
            turn = bool(np.median(border) > 127)
        return 255 - grey if turn else grey

    def _fitted(self, grey: Array) -> Array:
        """The digit's bounding box, scaled into the middle of an empty picture."""
        ink = grey > self._pre.threshold * 255
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        if not len(rows):
            raise InvalidInput("the picture is empty; one digit on a plain ground is accepted")
        digit = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        factor = self._pre.box / max(digit.shape)
        height, width = (max(round(size * factor), 1) for size in digit.shape)
        picture = np.zeros((self._side, self._side), np.float32)
        top, left = (self._side - height) // 2, (self._side - width) // 2
        picture[top : top + height, left : left + width] = _resized(digit, height, width)
        return picture


def _within(pixels: Pixels, longest: int) -> Pixels:
    """The picture, made smaller where a side is longer than this."""
    height, width = pixels.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return pixels
    from PIL import Image

    size = max(1, round(height * factor)), max(1, round(width * factor))
    return scaled(pixels, size, Image.Resampling.BOX)


def _grey(pixels: Array) -> Array:
    """`(height, width, 3)` to `(height, width)`, by the usual weights; float32."""
    grey: Array = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return grey


def _resized(grey: Array, height: int, width: int) -> Array:
    if grey.shape == (height, width):
        return grey
    from PIL import Image

    picture = Image.fromarray(grey.astype(np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)


open_task = Digits
