"""What a task answers: one type a kind of prediction, the same on the server and in the SDK.

The JSON of a prediction is its fields. `read_prediction` turns the JSON object of a known task into
its type, and that of an unknown one (a third party's) into a `Record`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
)

from aiaas_client.protocol import pictures
from aiaas_client.protocol.tensors import Array


def _bytes_of_base64(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None


def _base64_of_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


# Bytes in Python, base64 text in JSON.
Base64 = Annotated[
    bytes,
    BeforeValidator(_bytes_of_base64),
    PlainSerializer(_base64_of_bytes, return_type=str, when_used="json"),
]


class Prediction(BaseModel):
    """Root of all predictions; frozen, and unknown fields of a newer server are ignored.

    Coordinates are pixels of the picture that was sent, x to the right, y down; times are seconds;
    scores are between 0 and 1 unless a docstring says otherwise.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", protected_namespaces=(), ser_json_inf_nan="constants"
    )
    __slots__ = ("_asked",)  # beside the fields: two equal predictions of two requests are equal

    @property
    def request_id(self) -> str:
        """The id of the request that it answers, for `client.feedback`; "" where there is none."""
        found: tuple[str, int] = getattr(self, "_asked", ("", 0))
        return found[0]

    @property
    def request_row(self) -> int:
        """Which item of that request it answers, from 0."""
        found: tuple[str, int] = getattr(self, "_asked", ("", 0))
        return found[1]

    def answering(self, request_id: str, row: int) -> Self:
        """The same, which knows from now on what it answers."""
        object.__setattr__(self, "_asked", (request_id, row))
        return self


class Label(Prediction):
    """One label with its score; `index` is its place in the card's list of labels, -1 if untold."""

    label: str
    score: float
    index: int = -1


class Classification(Prediction):
    """The best label and the scores of all (or the `top_k` best), best first."""

    label: str
    score: float
    scores: dict[str, float] = {}


class ImageClassification(Prediction):
    """The best label and the `top_k` best, best first (labels of large sets may repeat)."""

    label: str
    score: float
    top: tuple[Label, ...] = ()

    def draw(self, image: Any) -> Any:
        """A copy of the picture (PIL image, path, bytes or array) with the labels written on it."""
        lines = [f"{found.label} {found.score:.2f}" for found in self.top[:5]]
        return _draw(image, [], lines or [f"{self.label} {self.score:.2f}"])


class Embedding(Prediction):
    """A text as a vector of length 1; `tokens` counts what the model read."""

    vector: tuple[float, ...]
    tokens: int = 0

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The vector as float32, `(dimensions,)`."""
        return np.asarray(self.vector, dtype or np.float32)


class Similarity(Prediction):
    """Cosine similarity of every text with every other, -1 to 1: `matrix[i][j]`."""

    matrix: tuple[tuple[float, ...], ...]
    tokens: int = 0

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The matrix as float32, `(texts, texts)`."""
        return np.asarray(self.matrix, dtype or np.float32)


class Ranked(Prediction):
    """One document of a ranking; `index` is its place among the documents sent, `score` -1 to 1."""

    index: int
    text: str
    score: float


class Ranking(Prediction):
    """Documents by their cosine similarity with the query, best first."""

    ranking: tuple[Ranked, ...]
    tokens: int = 0


class Box(Prediction):
    """A found object: `(x1, y1)` is the upper left corner, `(x2, y2)` the lower right, in pixels.

    Attributes:
        points: Named points inside the box, such as the eyes of a face: `(x, y)` in pixels.
    """

    label: str
    score: float
    x1: float
    y1: float
    x2: float
    y2: float
    points: dict[str, tuple[float, float]] = {}

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """The four corners, clockwise from the upper left."""
        return ((self.x1, self.y1), (self.x2, self.y1), (self.x2, self.y2), (self.x1, self.y2))


class Detections(Prediction):
    """What was found in a picture of `width` x `height` pixels, best first."""

    boxes: tuple[Box, ...]
    width: int
    height: int

    def draw(self, image: Any) -> Any:
        """A copy of the picture (PIL image, path, bytes or array) with boxes and labels on it."""
        picture = _draw(image, [(b.corners, f"{b.label} {b.score:.2f}") for b in self.boxes])
        return _dotted(picture, [point for box in self.boxes for point in box.points.values()])


class OcrLine(Prediction):
    """A line of text and the four corners around it, in pixels, clockwise from the upper left."""

    text: str
    score: float
    box: tuple[tuple[float, float], ...]


class OcrText(Prediction):
    """All text of a picture of `width` x `height` pixels, in reading order."""

    text: str
    lines: tuple[OcrLine, ...]
    width: int
    height: int

    def draw(self, image: Any) -> Any:
        """The picture (PIL image, path, bytes or array) with its lines outlined, beside their text.

        The answer is twice as wide: what was read stands in the right half where it stood.
        """
        outlined = _draw(image, [(line.box, "") for line in self.lines])
        return _beside(outlined, [(line.box, line.text) for line in self.lines])


class Segment(Prediction):
    """A stretch of a recording, in seconds from its start; `score` is the highest inside it."""

    start: float
    end: float
    score: float = 1.0
    label: str = "speech"


class Segments(Prediction):
    """Where in a recording of `duration` seconds something was heard.

    Attributes:
        scores: One a frame, `frame` seconds apart.
        state: Opaque; sent back in `params` with the next piece of the same stream.
    """

    segments: tuple[Segment, ...]
    duration: float
    scores: tuple[float, ...] = ()
    frame: float = 0.0
    state: str = ""


class Speech(Prediction):
    """Spoken text: a WAV file (base64 in JSON) of `duration` seconds at `sample_rate` Hz."""

    audio: Base64
    sample_rate: int
    duration: float

    def save(self, path: str | Path) -> Path:
        """Write the WAV file."""
        path = Path(path)
        path.write_bytes(self.audio)
        return path


class FileType(Prediction):
    """What kind of file some bytes are: `label` "png", `mime` "image/png"."""

    label: str
    mime: str
    score: float
    group: str = ""
    description: str = ""


class Regression(Prediction):
    """A predicted number in the unit of the training data; all by name if there are several."""

    value: float
    values: dict[str, float] = {}


class SpokenSegment(Segment):
    """A stretch of a recording and what was said in it, its `label`.

    Attributes:
        tokens: Behind the text, where the model writes tokens.
        avg_logprob: Mean log-probability of one of them.
        no_speech_prob: How probable it is that nobody spoke.
    """

    # Not shown: the reader of a transcript wants its text.
    tokens: tuple[int, ...] = Field(default=(), repr=False)
    avg_logprob: float = Field(default=0.0, repr=False)
    no_speech_prob: float = Field(default=0.0, repr=False)

    @property
    def text(self) -> str:
        """What was said."""
        return self.label


class Transcript(Prediction):
    """What was said in a recording of `duration` seconds, and when."""

    text: str
    duration: float
    segments: tuple[SpokenSegment, ...] = ()
    language: str = ""


class GeneratedText(Prediction):
    """Text written by the model; `finish_reason` is "stop" or "length"."""

    text: str
    tokens: int = 0
    score: float = 0.0
    finish_reason: str = "stop"


class Record(Prediction):
    """The prediction of a task that this library does not know: its fields as they came."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


# Task name -> its prediction. A task with several (they differ in their fields) lists them all.
PREDICTIONS: Mapping[str, tuple[type[Prediction], ...]] = {
    "text-classification": (Classification,),
    "text-embedding": (Embedding, Similarity, Ranking),
    "image-classification": (ImageClassification,),
    "object-detection": (Detections,),
    "ocr": (OcrText,),
    "voice-activity": (Segments,),
    "keyword-spotting": (Segments,),
    "text-to-speech": (Speech,),
    "file-type": (FileType,),
    "tabular-classification": (Classification,),
    "tabular-regression": (Regression,),
    "digits": (Classification,),
    "automatic-speech-recognition": (Transcript,),
    "text-to-text": (GeneratedText,),
    "text-generation": (GeneratedText,),
}


def read_prediction(task: str, data: Any) -> Prediction:
    """A prediction from its JSON object.

    Raises:
        ValueError: The object is not a prediction of that task (pydantic's ValidationError).
    """
    kinds = PREDICTIONS.get(task, (Record,))
    if len(kinds) == 1:
        return kinds[0].model_validate(data)
    kind = next((k for k in kinds if isinstance(data, dict) and data.keys() & _own(k)), kinds[0])
    return kind.model_validate(data)


def _own(kind: type[Prediction]) -> set[str]:
    return {name for name, field in kind.model_fields.items() if field.is_required()}


def json_schema_of(task: str) -> dict[str, Any]:
    """The JSON schema of a task's predictions."""
    kinds = PREDICTIONS.get(task, (Record,))
    if len(kinds) == 1:
        return kinds[0].model_json_schema()
    adapter: TypeAdapter[Any] = TypeAdapter(reduce(or_, kinds))
    return adapter.json_schema()


Shape = tuple[Iterable[tuple[float, float]], str]
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#17becf")


def _draw(image: Any, shapes: list[Shape], lines: Iterable[str] = ()) -> Any:
    try:
        from PIL import ImageDraw
    except ImportError:
        raise ImportError('drawing needs pillow: pip install "aiaas-client[tasks]"') from None
    picture = picture_of(image)
    pen = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 300))
    size = max(12, round(max(picture.size) / 45))
    colours: dict[str, str] = {}
    for corners, text in shapes:
        colour = colours.setdefault(text.rpartition(" ")[0], COLOURS[len(colours) % len(COLOURS)])
        points = [(float(x), float(y)) for x, y in corners]
        pen.line([*points, points[0]], fill=colour, width=width)
        if text:
            _write(pen, (points[0][0], max(points[0][1] - size - 4, 0)), text, size, colour)
    for row, text in enumerate(lines):
        _write(pen, (4, 4 + row * (size + 6)), text, size, "#202020")
    return picture


def _dotted(picture: Any, points: Iterable[tuple[float, float]]) -> Any:
    from PIL import ImageDraw

    pen = ImageDraw.Draw(picture)
    radius = max(2, round(max(picture.size) / 250))
    for x, y in points:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[2])
    return picture


def _beside(picture: Any, lines: Iterable[Shape]) -> Any:
    """The picture, and to its right the lines on white, each as high as its box."""
    from PIL import Image, ImageDraw

    width, height = picture.size
    both = Image.new("RGB", (2 * width, height), "white")
    both.paste(picture, (0, 0))
    pen = ImageDraw.Draw(both)
    for corners, text in lines:
        (x1, y1), (x2, y2), _, (x4, y4) = corners
        size = 0.75 * ((x4 - x1) ** 2 + (y4 - y1) ** 2) ** 0.5
        long = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        font, text = _font(pen, text, size, long)
        pen.text((width + min(x1, x4), min(y1, y2)), text, fill="black", font=font)
    return both


def _font(pen: Any, text: str, size: float, width: float) -> tuple[Any, str]:
    """A font of at most `size` in which the text is at most `width` wide, and what it can write."""
    from PIL import ImageFont

    font = ImageFont.load_default(max(6, size))
    try:
        length = pen.textlength(text, font=font)
    except UnicodeEncodeError:  # a build of pillow without a font for this script
        text = text.encode("ascii", "replace").decode("ascii")
        length = pen.textlength(text, font=font)
    fitting = max(6, min(size, size * width / max(length, 1)))
    return ImageFont.load_default(fitting), text


def picture_of(image: Any) -> Any:
    """A pillow picture, upright and RGB, of bytes, a path, a picture or an array; a copy."""
    import io

    from PIL import Image

    if isinstance(image, bytes | bytearray | memoryview):
        image = Image.open(io.BytesIO(image))
    elif isinstance(image, str | Path):
        image = Image.open(image)
    elif not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image))
    turned = pictures.upright(image)
    return pictures.flat_rgb(turned, deep=pictures.is_deep(image))  # always a copy


def _write(pen: Any, at: tuple[float, float], text: str, size: int, colour: str) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    try:
        box = pen.textbbox(at, text, font=font)
    except UnicodeEncodeError:  # a build of pillow without a font for this script
        text = text.encode("ascii", "replace").decode("ascii")
        box = pen.textbbox(at, text, font=font)
    pen.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), fill=colour)
    pen.text(at, text, fill="white", font=font)
