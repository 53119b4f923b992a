"""Faces by three small networks, each looking closer at what the one before let through.

P-Net scans the picture at many sizes, R-Net looks at 24 x 24 crops of what it found, O-Net at
48 x 48 ones and marks eyes, nose and mouth. P-Net is the card's own model, the others are models of
the same server. All three read pictures with x as the first axis.

Source: Zhang et al. 2016, *Joint Face Detection and Alignment using Multi-task Cascaded
Convolutional Networks*. As there, boxes count pixels from 1 and include their last pixel.

A card:

    {"task": "object-detection", "labels": ["face"],
     "postprocessing": {"boxes": "cascade",
                        "refine": {"model": "faces-rnet", "input": "input_2"},
                        "output": {"model": "faces-onet", "input": "input_3"}}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from aiaas_client.protocol.predictions import Box, Detections, Prediction
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Card, read_settings
from aiaas_server.core.errors import InferenceFailed, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Run
from aiaas_server.tasks.boxes import FloatArray, Indices, suppress
from aiaas_server.tasks.detection import DetectionParams
from aiaas_server.tasks.images import MAX_PIXELS, Pixels, decode_image, scaled
from aiaas_server.tasks.step_model import StepModel
from aiaas_server.tasks.task import TaskSettings

CELL = 12  # pixels that one answer of P-Net looks at
STRIDE = 2
POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
# A picture of noise passes thousands of candidates on; the best are enough.
MOST_CANDIDATES = 1000

OpenShare = Annotated[float, Field(gt=0, lt=1)]


class CascadeSettings(TaskSettings):
    """How the cascade looks.

    Attributes:
        refine: R-Net.
        output: O-Net.
        smallest: Side of the smallest face, in pixels.
        longest_side: A larger picture is made smaller first; that bounds the work.
        factor: From one size of the picture to the next.
        thresholds: Least scores after P-Net, R-Net and O-Net.
    """

    boxes: Literal["cascade"] = "cascade"
    refine: StepModel
    output: StepModel
    smallest: Annotated[int, Field(ge=CELL, le=1000)] = 20
    longest_side: Annotated[int, Field(ge=64, le=8192)] = 1600
    factor: OpenShare = 0.709
    thresholds: tuple[OpenShare, OpenShare, OpenShare] = (0.6, 0.7, 0.7)
    max_pixels: Annotated[int, Field(ge=1)] = MAX_PIXELS


class FaceCascade:
    """Three models a picture."""

    input: PayloadKind = "image"
    predictions: tuple[type[Prediction], ...] = (Detections,)
    params: type[Params] = DetectionParams

    def __init__(self, input_name: str, label: str, settings: CascadeSettings) -> None:
        self.input_name = input_name
        self.label = label
        self.settings = settings

    async def predict(self, payload: Any, params: DetectionParams, run: Run) -> Detections:
        picture, factor = await run.thread(self._open, payload)
        proposed = await self._propose(picture, run)
        refined = await self._refine(picture, proposed, run)
        boxes, points, scores = await self._mark(picture, refined, run)
        height, width = (round(side / factor) for side in picture.shape[:2])
        last = self.settings.thresholds[2]
        least = last if params.threshold is None else params.threshold
        chosen = np.flatnonzero(scores > max(least, last))[: params.top_k or 1000]
        found = [
            self._box(boxes[i] / factor, points[i] / factor, float(scores[i]), (width, height))
            for i in chosen
        ]
        return Detections(boxes=tuple(found), width=width, height=height)

    def _open(self, payload: Any) -> tuple[Pixels, float]:
        pixels = decode_image(payload, max_pixels=self.settings.max_pixels)
        factor = min(1.0, self.settings.longest_side / max(pixels.shape[:2]))
        if factor == 1:
            return pixels, factor
        size = tuple(max(1, round(side * factor)) for side in pixels.shape[:2])
        return _resized(pixels, (size[0], size[1])), factor

    async def _propose(self, picture: Pixels, run: Run) -> FloatArray:
        """Squares `(n, 4)` where P-Net sees a face."""
        every: list[FloatArray] = []
        for scale in self._scales(picture):
            tensor = await run.thread(_scaled, picture, scale)
            outputs = _by_width(await run({self.input_name: tensor}), 2, 4)
            scores, moves = outputs[2][0], outputs[4][0]
            every.append(await run.thread(_proposals, scores, moves, scale, self.settings))
        return await run.thread(_merged, every)

    async def _refine(self, picture: Pixels, boxes: FloatArray, run: Run) -> FloatArray:
        """Squares `(n, 4)` that R-Net let through, moved to where it sees the face."""
        if not len(boxes):
            return boxes
        step = self.settings.refine
        crops = await run.thread(_crops, picture, boxes, 24)
        answer = await run.model(step.model, step.version)({step.input: crops})
        outputs = _by_width(answer, 2, 4)
        least = self.settings.thresholds[1]
        return await run.thread(_refined, boxes, outputs[2][:, 1], outputs[4], least)

    async def _mark(
        self, picture: Pixels, boxes: FloatArray, run: Run
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Boxes `(n, 4)`, points `(n, 5, 2)` and scores `(n,)` of O-Net, best first."""
        if not len(boxes):
            return boxes, np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32)
        step = self.settings.output
        boxes = np.trunc(boxes)
        crops = await run.thread(_crops, picture, boxes, 48)
        answer = await run.model(step.model, step.version)({step.input: crops})
        outputs = _by_width(answer, 2, 4, 10)
        scores = outputs[2][:, 1]
        sides = _sides(boxes) + 1
        points = outputs[10].reshape(-1, 2, 5).transpose(0, 2, 1)  # (n, 5, x and y)
        points = points * sides[:, None, :2] + boxes[:, None, :2] - 1
        moved = boxes + outputs[4] * sides
        kept = np.flatnonzero(scores > self.settings.thresholds[2])
        kept = kept[_suppress(moved[kept], scores[kept], 0.7, over="smaller")]
        return moved[kept], points[kept], scores[kept]

    def _scales(self, picture: Pixels) -> Iterator[float]:
        scale = CELL / self.settings.smallest
        while min(picture.shape[:2]) * scale >= CELL:
            yield scale
            scale *= self.settings.factor

    def _box(self, box: FloatArray, points: FloatArray, score: float, size: tuple[int, int]) -> Box:
        x1, y1, x2, y2 = np.clip(box.astype(float), 0, [*size, *size]).round(1).tolist()
        named = {
            name: (float(x), float(y))
            for name, (x, y) in zip(POINTS, points.astype(float).round(1).tolist(), strict=True)
        }
        return Box(label=self.label, score=score, x1=x1, y1=y1, x2=x2, y2=y2, points=named)


def open_cascade(card: Card, signature: Signature) -> FaceCascade:
    """The task of a card whose boxes are a `cascade`.

    Raises:
        LoadFailed: The card or the first model is not of this kind.
    """
    settings = read_settings(CascadeSettings, card.postprocessing, "postprocessing")
    widths = sorted(output.shape[-1] for output in signature.outputs)
    if widths != [2, 4] or len(signature.inputs) != 1:
        raise LoadFailed(
            f"postprocessing: a cascade begins with outputs of 2 scores and 4 moves, got {widths}"
        )
    if isinstance(card.labels, str) or len(card.labels) != 1:
        raise LoadFailed("labels: a cascade finds one kind of thing, so the card names one label")
    return FaceCascade(signature.inputs[0].name, card.labels[0], settings)


def _proposals(
    scores: FloatArray, moves: FloatArray, scale: float, settings: CascadeSettings
) -> FloatArray:
    """P-Net's answer at one scale as rows of box, score and moves: `(n, 9)`."""
    column, row = np.nonzero(scores[:, :, 1] >= settings.thresholds[0])
    found = scores[column, row, 1]
    corner = np.stack([column, row], axis=1) * STRIDE + 1
    boxes = np.trunc(np.concatenate([corner, corner + CELL - 1], axis=1) / scale)
    rows = np.column_stack([boxes, found, moves[column, row]]).astype(np.float32)
    return rows[_suppress(rows[:, :4], rows[:, 4], 0.5)]


def _merged(every: list[FloatArray]) -> FloatArray:
    """The proposals of all scales as squares, moved to where P-Net sees the face."""
    candidates = np.concatenate([*every, np.zeros((0, 9), np.float32)])
    kept = _suppress(candidates[:, :4], candidates[:, 4], 0.7)
    boxes, moves = candidates[kept, :4], candidates[kept, 5:]
    return _squares(boxes + moves * _sides(boxes))


def _refined(boxes: FloatArray, scores: FloatArray, moves: FloatArray, least: float) -> FloatArray:
    passed = np.flatnonzero(scores > least)
    kept = passed[_suppress(boxes[passed], scores[passed], 0.7)]
    return _squares(boxes[kept] + moves[kept] * (_sides(boxes[kept]) + 1))


def _suppress(
    boxes: FloatArray, scores: FloatArray, limit: float, over: Literal["union", "smaller"] = "union"
) -> Indices:
    best = np.argsort(-scores, kind="stable")[: 2 * MOST_CANDIDATES]
    edges = boxes[best] + np.array([0, 0, 1, 1], np.float32)  # the last pixel is inside
    kept = suppress(edges, scores[best], limit, over=over, at_most=MOST_CANDIDATES)
    chosen: Indices = best[kept]
    return chosen


def _sides(boxes: FloatArray) -> FloatArray:
    """Width, height, width, height of each box: `(n, 4)`."""
    sides: FloatArray = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return sides


def _squares(boxes: FloatArray) -> FloatArray:
    """The squares around the boxes' middles with their longer side, whole pixels."""
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)
    corner = (boxes[:, :2] + boxes[:, 2:]) / 2 - side / 2
    squares: FloatArray = np.trunc(np.concatenate([corner, corner + side], axis=1))
    return squares.astype(np.float32)


def _scaled(picture: Pixels, scale: float) -> npt.NDArray[np.float32]:
    """The whole picture as P-Net's batch of one: `(1, width, height, 3)`."""
    size = (int(np.ceil(picture.shape[0] * scale)), int(np.ceil(picture.shape[1] * scale)))
    return _values(_resized(picture, size)[None])


def _crops(picture: Pixels, boxes: FloatArray, side: int) -> npt.NDArray[np.float32]:
    """The picture inside each square, black where it lies outside: `(n, side, side, 3)`.

    Squares that are empty, or far larger than the picture, are no faces and stay black.
    """
    from PIL import Image

    whole = Image.fromarray(picture)
    parts = np.zeros((len(boxes), side, side, 3), np.uint8)
    widest = 2 * max(picture.shape[:2])
    usable = (np.abs(boxes) <= 2 * widest).all(axis=1)  # nor what is no number at all
    for index in np.flatnonzero(usable):
        x1, y1, x2, y2 = boxes[index].astype(int).tolist()
        if x1 <= x2 <= x1 + widest and y1 <= y2 <= y1 + widest:
            crop = np.asarray(whole.crop((x1 - 1, y1 - 1, x2, y2)))
            parts[index] = _resized(crop, (side, side))
    return _values(parts)


def _values(pictures: Pixels) -> npt.NDArray[np.float32]:
    """`(n, height, width, 3)` uint8 as the networks read them: x first, -1 to 1."""
    turned = pictures.transpose(0, 2, 1, 3).astype(np.float32)
    values: npt.NDArray[np.float32] = (turned - np.float32(127.5)) / np.float32(128)
    return values


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Averaging where it becomes smaller, interpolating where it grows."""
    from PIL import Image

    shrinks = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    return scaled(pixels, size, Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)


def _by_width(outputs: Mapping[str, Array], *widths: int) -> dict[int, Array]:
    """The outputs by their last dimension, which tells scores, moves and points apart.

    Raises:
        InferenceFailed: One is missing.
    """
    found = {array.shape[-1]: array for array in outputs.values()}
    for width in widths:
        if width not in found:
            raise InferenceFailed(
                f"a step of the cascade has no output of width {width}: {sorted(found)}"
            )
    return found
