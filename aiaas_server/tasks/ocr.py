"""Pictures to text: lines with their words, places and scores, by three models of one server.

The detector (the card's own model) marks where text is, the orientation classifier tells lines that
stand on their heads, the recogniser reads each line. The crops of a picture run together, in
batches of like widths.

Source: Du et al. 2020, *PP-OCR: A Practical Ultra Lightweight OCR System*.

A card:

    {"task": "ocr", "assets": {"characters.txt": "..."},
     "preprocessing": {"scale": 0.00392156862745098, "mean": [0.5, 0.5, 0.5],
                       "std": [0.5, 0.5, 0.5], "channels": "BGR"},
     "postprocessing": {"orientation": {"model": "pp-ocr-orientation", "input": "x"},
                        "recogniser": {"model": "pp-ocr-recogniser", "input": "x"},
                        "characters": "characters.txt"}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from aiaas_client.protocol.predictions import OcrLine, OcrText, Prediction
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.card import Assets, Card
from aiaas_server.core.errors import InferenceFailed, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Run

from .ctc import greedy
from .images import Pixels, decode_image
from .pixels import ImageInput, normalise, resized
from .step_model import StepModel
from .task import TaskSettings, need, read_settings
from .text_regions import Points, clockwise, find_regions

GRID = 32  # the detector's sides are multiples of this
ORIENTATION_SIZE = (48, 192)
LINE_HEIGHT = 48
LEAST_WIDTH = 320
WIDEST_LINE = 4800
TOGETHER = 8  # lines of like widths that are read in one run
UPSIDE_DOWN = 0.9

Share = Annotated[float, Field(ge=0, le=1)]


class OcrParams(Params):
    """`threshold`: the least score of a line; by default the card's."""

    threshold: Share | None = None


class OcrSettings(TaskSettings):
    """How text is found and read.

    Attributes:
        recogniser: Model that reads a line: `(n, 3, 48, width)` -> `(n, steps, signs)`.
        orientation: Model that tells 0 from 180 degrees; without it no line is turned.
        characters: Asset with the recogniser's signs, one a line; the blank before them and the
            space after them are not listed.
        pixel_threshold: Of the detector's map.
        region_threshold: Mean of the map over a line.
        grow: How far a region reaches beyond the map's part; see `text_regions`.
        threshold: Lines read with a lower score are left out.
        shorter_side: The picture is enlarged to at least this.
        longest_side: And never made larger than this; larger ones are made smaller.
        slimmest: Slimmer pictures than 1 : this are padded.
    """

    recogniser: StepModel
    orientation: StepModel | None = None
    characters: str
    pixel_threshold: Share = 0.3
    region_threshold: Share = 0.5
    grow: Annotated[float, Field(ge=0, le=5)] = 1.6
    threshold: Share = 0.5
    shorter_side: Annotated[int, Field(ge=GRID, le=4096)] = 736
    longest_side: Annotated[int, Field(ge=GRID, le=8192)] = 2000
    slimmest: Annotated[float, Field(ge=1)] = 8.0


class Ocr:
    """Three models a picture."""

    input: PayloadKind = "image"
    predictions: tuple[type[Prediction], ...] = (OcrText,)
    params: type[Params] = OcrParams

    def __init__(
        self,
        input_name: str,
        characters: tuple[str, ...],
        picture: ImageInput,
        settings: OcrSettings,
    ) -> None:
        self.input_name = input_name
        self.signs = ("", *characters, " ")  # the blank comes first
        self.picture = picture
        self.settings = settings

    async def predict(self, payload: Any, params: OcrParams, run: Run) -> OcrText:
        pixels, tensor, scale = await run.thread(self._open, payload)
        outputs = await run({self.input_name: tensor})
        (scores,) = outputs.values()  # (1, 1, H, W)
        boxes = await run.thread(self._regions, scores[0, 0], pixels, scale)
        crops = await run.thread(lambda: [straightened(pixels, box) for box in boxes])
        crops = await self._turned(crops, run)
        read = await self._read(crops, run)
        least = self.settings.threshold if params.threshold is None else params.threshold
        lines = [
            OcrLine(text=text, score=score, box=tuple((float(x), float(y)) for x, y in box))
            for box, (text, score) in zip(boxes, read, strict=True)
            if text and score >= least
        ]
        rows = in_reading_order(lines)
        return OcrText(
            text="\n".join(" ".join(line.text for line in row) for row in rows),
            lines=tuple(line for row in rows for line in row),
            width=pixels.shape[1],
            height=pixels.shape[0],
        )

    def _open(self, payload: Any) -> tuple[Pixels, Array, tuple[float, float]]:
        """The picture, the detector's tensor, and the tensor's pixels for one of the picture."""
        pixels = decode_image(payload, max_pixels=self.picture.max_pixels)
        padded = _padded(pixels, self.settings.slimmest)
        height, width = padded.shape[:2]
        factor = max(1.0, self.settings.shorter_side / min(height, width))
        factor = min(factor, max(1.0, 2 * self.settings.longest_side / max(height, width)))
        if max(height, width) > self.settings.longest_side:
            factor = self.settings.longest_side / max(height, width)
        size = (_on_grid(height * factor), _on_grid(width * factor))
        values = normalise(resized(padded, size, self.picture.filter), self.picture)
        tensor = np.ascontiguousarray(values.transpose(2, 0, 1)[None])
        return pixels, tensor, (size[1] / width, size[0] / height)

    def _regions(self, scores: Array, pixels: Pixels, scale: tuple[float, float]) -> list[Points]:
        found = find_regions(
            scores.astype(np.float32),
            threshold=self.settings.pixel_threshold,
            least_score=self.settings.region_threshold,
            grow=self.settings.grow,
        )
        limit = np.array([pixels.shape[1] - 1, pixels.shape[0] - 1])
        boxes = [np.clip(np.round(box / scale), 0, limit) for box in found]
        return [clockwise(box) for box in boxes if _sides(box).min() > 3]

    async def _turned(self, crops: list[Pixels], run: Run) -> list[Pixels]:
        step = self.settings.orientation
        if step is None or not crops:
            return crops
        tensor = await run.thread(self._lines, crops, ORIENTATION_SIZE[1])
        outputs = await run.model(step.model, step.version)({step.input: tensor})
        (scores,) = outputs.values()  # (n, 2): upright, upside down
        return [
            np.ascontiguousarray(crop[::-1, ::-1]) if score > UPSIDE_DOWN else crop
            for crop, score in zip(crops, scores[:, 1], strict=True)
        ]

    async def _read(self, crops: list[Pixels], run: Run) -> list[tuple[str, float]]:
        read = [("", 0.0)] * len(crops)
        step = self.settings.recogniser
        order = sorted(range(len(crops)), key=lambda i: _line_width(crops[i]))
        for begin in range(0, len(order), TOGETHER):
            group = order[begin : begin + TOGETHER]
            widest = max(LEAST_WIDTH, *(_line_width(crops[i]) for i in group))
            tensor = await run.thread(self._lines, [crops[i] for i in group], widest)
            outputs = await run.model(step.model, step.version)({step.input: tensor})
            (scores,) = outputs.values()  # (n, steps, signs)
            texts = await run.thread(self._texts, scores)
            for index, text in zip(group, texts, strict=True):
                read[index] = text
        return read

    def _texts(self, scores: Array) -> list[tuple[str, float]]:
        return [self._text(probabilities) for probabilities in scores]

    def _text(self, probabilities: Array) -> tuple[str, float]:
        if probabilities.shape[1] != len(self.signs):
            raise InferenceFailed(
                f"the recogniser tells {probabilities.shape[1]} signs apart, "
                f"the characters are {len(self.signs)} with blank and space"
            )
        decoded = greedy(probabilities)
        return "".join(self.signs[sign] for sign in decoded.signs), decoded.score

    def _lines(self, crops: Sequence[Pixels], width: int) -> npt.NDArray[np.float32]:
        """Lines as one batch `(n, 3, 48, width)`; grey fills what a short line leaves."""
        batch = np.zeros((len(crops), 3, LINE_HEIGHT, width), np.float32)
        for row, crop in zip(batch, crops, strict=True):
            inner = min(width, _line_width(crop))
            small = resized(crop, (LINE_HEIGHT, inner), self.picture.filter)
            row[:, :, :inner] = normalise(small, self.picture).transpose(2, 0, 1)
        return batch


def open_task(card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]) -> Ocr:
    """The task of one version; see `core.task.OpenTask`."""
    need("PIL.Image")
    picture = read_settings(ImageInput, card.preprocessing, "preprocessing")
    settings = read_settings(OcrSettings, card.postprocessing, "postprocessing")
    if len(signature.inputs) != 1 or len(signature.inputs[0].shape) != 4:
        raise LoadFailed(f"model '{signature.model}': a text detector takes one picture")
    text = assets.read_text(settings.characters).removesuffix("\n")
    # Not splitlines and no strip: some of the signs are spaces and separators themselves.
    return Ocr(signature.inputs[0].name, tuple(text.split("\n")), picture, settings)


def straightened(pixels: Pixels, box: Points) -> Pixels:
    """The picture inside a box `(4, 2)` as an upright rectangle; tall ones are laid on the side."""
    from PIL import Image

    width, height = (max(1, int(side)) for side in _sides(box))
    upper_left, upper_right, lower_right, lower_left = box
    corners = [*upper_left, *lower_left, *lower_right, *upper_right]
    crop = Image.fromarray(pixels).transform(
        (width, height), Image.Transform.QUAD, [float(c) for c in corners], Image.Resampling.BICUBIC
    )
    values = np.asarray(crop)
    return np.ascontiguousarray(np.rot90(values)) if height >= 1.5 * width else values


def in_reading_order(lines: Sequence[OcrLine]) -> list[list[OcrLine]]:
    """Rows from top to bottom, each from left to right.

    A line belongs to the row above it when their middles differ by less than half their height.
    """
    rows: list[list[OcrLine]] = []
    for line in sorted(lines, key=_middle):
        first = rows[-1][0] if rows else None
        if first is not None and _middle(line) - _middle(first) < min(
            _height(line) / 2, _height(first) / 2
        ):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: min(x for x, _ in line.box)) for row in rows]


def _middle(line: OcrLine) -> float:
    return sum(y for _, y in line.box) / 4


def _height(line: OcrLine) -> float:
    (_, y1), (_, y2), (_, y3), (_, y4) = line.box
    return (y3 - y2 + y4 - y1) / 2


def _sides(box: Points) -> Points:
    """The longer of the two widths and of the two heights."""
    edges = np.linalg.norm(np.roll(box, -1, axis=0) - box, axis=1)
    return np.array([max(edges[0], edges[2]), max(edges[1], edges[3])])


def _line_width(crop: Pixels) -> int:
    height, width = crop.shape[:2]
    return min(WIDEST_LINE, max(1, math.ceil(LINE_HEIGHT * int(width) / int(height))))


def _on_grid(side: float) -> int:
    return max(GRID, round(int(side) / GRID) * GRID)


def _padded(pixels: Pixels, slimmest: float) -> Pixels:
    """The picture with black below or beside it, so that it is not slimmer than 1 : `slimmest`."""
    height, width = pixels.shape[:2]
    below = max(0, math.ceil(width / slimmest) - height)
    beside = max(0, math.ceil(height / slimmest) - width)
    if not below and not beside:
        return pixels
    return np.pad(pixels, ((0, below), (0, beside), (0, 0)))
