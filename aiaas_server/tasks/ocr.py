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
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import InferenceFailed, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Run
from aiaas_server.tasks.ctc import greedy
from aiaas_server.tasks.images import Pixels, decode_image
from aiaas_server.tasks.pixels import Filter, ImageInput, normalise, resized
from aiaas_server.tasks.step_model import StepModel
from aiaas_server.tasks.task import Share, TaskSettings, need
from aiaas_server.tasks.text_regions import Points, clockwise, find_regions

GRID = 32  # the detector's sides are multiples of this
ORIENTATION_SIZE = (48, 192)
LINE_HEIGHT = 48
LEAST_WIDTH = 320
WIDEST_LINE = 4800
TOGETHER = 8  # lines of like widths that are read in one run
UPSIDE_DOWN = 0.9
LARGE_LINE = 1 << 20  # bytes of a crop that is made smaller before the others are cut out
REACH = 3  # pixels beside a crop that its smoothing looks at


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
        crops = await run.thread(self._crops, pixels, boxes)
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
        height, width = _padded_size(pixels, self.settings.slimmest)
        factor = max(1.0, self.settings.shorter_side / min(height, width))
        factor = min(factor, max(1.0, 2 * self.settings.longest_side / max(height, width)))
        if max(height, width) > self.settings.longest_side:
            factor = self.settings.longest_side / max(height, width)
        size = (_on_grid(height * factor), _on_grid(width * factor))
        scale = (size[1] / width, size[0] / height)
        values = normalise(_on_canvas(pixels, size, scale, self.picture.filter), self.picture)
        return pixels, np.ascontiguousarray(values.transpose(2, 0, 1)[None]), scale

    def _crops(self, pixels: Pixels, boxes: Sequence[Points]) -> list[Pixels]:
        """The lines, none larger than they are read: a large picture may have a thousand."""
        crops = []
        for box in boxes:
            crop = straightened(pixels, box)
            if crop.size > LARGE_LINE:
                crop = resized(crop, (LINE_HEIGHT, _line_width(crop)), self.picture.filter)
            crops.append(crop)
        return crops

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
    left, upper = np.maximum(box.min(axis=0).astype(int) - REACH, 0)
    right, lower = box.max(axis=0).astype(int) + REACH + 1
    around = np.ascontiguousarray(pixels[upper:lower, left:right])
    upper_left, upper_right, lower_right, lower_left = box - [left, upper]
    corners = [*upper_left, *lower_left, *lower_right, *upper_right]
    crop = Image.fromarray(around).transform(
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


def _padded_size(pixels: Pixels, slimmest: float) -> tuple[int, int]:
    """Height and width of the picture once it is no slimmer than 1 : `slimmest`."""
    height, width = pixels.shape[:2]
    return (
        max(height, math.ceil(width / slimmest)),
        max(width, math.ceil(height / slimmest)),
    )


def _on_canvas(
    pixels: Pixels, size: tuple[int, int], scale: tuple[float, float], filter: Filter
) -> Pixels:
    """The picture resized into the upper left of a black one of the given size."""
    height, width = pixels.shape[:2]
    inner = (
        min(size[0], max(1, round(height * scale[1]))),
        min(size[1], max(1, round(width * scale[0]))),
    )
    small = resized(pixels, inner, filter)
    if inner == size:
        return small
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[: inner[0], : inner[1]] = small
    return canvas
