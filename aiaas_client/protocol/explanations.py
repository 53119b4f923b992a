"""The documents of `POST /v1/models/{m}:explain`: what a prediction stands on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from aiaas_client.protocol.documents import Asked, Told
from aiaas_client.protocol.management import JsonObject


class ExplainParameters(Asked):
    """The `parameters` of an explain call.

    Attributes:
        output: The class, by label or index, or the index of the value, that is explained; by
            default what the version predicts.
        samples: Most rows that the model may be asked for each instance; where it is None, enough
            for small errors, as far as the deadline allows.
        seed: Equal seeds and samples give equal explanations, if the deadline ends neither.
        background: Records or rows of numbers to compare with; by default those that the version
            brings along.
    """

    output: str | int | None = None
    samples: Annotated[int, Field(ge=2, le=10_000_000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    background: Annotated[list[Any], Field(min_length=1, max_length=1000)] | None = None


class ExplainRequest(Asked):
    """The body: `instances` as in a predict call."""

    instances: Annotated[list[Any], Field(min_length=1, max_length=64)]
    parameters: ExplainParameters = ExplainParameters()


class Contribution(Told):
    """What one feature, word or cell of a picture adds to the prediction.

    Attributes:
        feature: The column's name, the word, or `row,column` of the cell.
        value: What stood there.
        contribution: Added to `base`, all of them give the prediction.
        error: Standard error of `contribution`; 0 where it is exact.
        start, end: Of a word: characters of the text.
        box: Of a cell: x, y, width and height in pixels.
    """

    feature: str
    value: Any = None
    contribution: float
    error: float = 0.0
    start: int | None = None
    end: int | None = None
    box: list[int] | None = None


class ExplanationDocument(Told):
    """The explanation of one instance.

    Attributes:
        method: `exact` Shapley values, `permutation` sampling of them, or `occlusion`.
        output: What is explained: a label, or an index.
        prediction, base: Of the instance, and of the background (or of the empty text or picture).
        samples: Rows that the model was asked.
        complete: False where the deadline ended it early; the errors say how far it came.
        size: Of a picture: width and height, pixels.
    """

    method: Literal["exact", "permutation", "occlusion"]
    output: str | int
    prediction: float
    base: float
    contributions: list[Contribution]
    samples: int = 0
    seed: int = 0
    complete: bool = True
    background: str = ""
    size: list[int] | None = None


class ExplainAnswer(Told):
    """The answer: an explanation for each instance, in order."""

    model_name: str = ""
    model_version: str = ""
    explanations: list[ExplanationDocument] = []
    parameters: JsonObject = {}
