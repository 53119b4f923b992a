"""Pictures to labels: one picture in, the best labels with their scores out.

A card:

    {"task": "image-classification", "labels": "labels.json",
     "preprocessing": {"resize": "shorter", "shorter_side": 256, "filter": "bicubic",
                       "scale": 1, "mean": [127, 127, 127], "std": [128, 128, 128]},
     "postprocessing": {"activation": "none", "top_k": 5}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from aiaas_client.protocol.predictions import ImageClassification, Label, Prediction
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Prepared
from aiaas_server.tasks.images import decode_image
from aiaas_server.tasks.pixels import ImageInput, ImageTensor
from aiaas_server.tasks.scores import Activation, activated, best_first
from aiaas_server.tasks.task import (
    TaskSettings,
    check_label_count,
    input_spec,
    need,
    output_spec,
    read_labels,
)

TopK = Annotated[int, Field(ge=1, le=1000)]


class ClassificationParams(Params):
    """`top_k`: how many labels to answer; by default what the card says."""

    top_k: TopK | None = None


class LabelOutput(TaskSettings):
    """What the model's output is and how much of it is answered.

    Attributes:
        output: Its name; empty is the model's first.
        activation: What it still needs to become probabilities.
        top_k: Labels answered when the caller does not say.
    """

    output: str = ""
    activation: Activation = "none"
    top_k: TopK = 5


class ImageClassifier:
    """One run a picture."""

    input: PayloadKind = "image"
    predictions: tuple[type[Prediction], ...] = (ImageClassification,)
    params: type[Params] = ClassificationParams
    costs = True

    def __init__(
        self, tensor: ImageTensor, output: str, labels: tuple[str, ...], settings: LabelOutput
    ) -> None:
        self.tensor = tensor
        self.output = output
        self.labels = labels
        self.settings = settings

    def preprocess(self, payload: Any, params: ClassificationParams) -> Prepared:
        pixels = decode_image(payload, max_pixels=self.tensor.settings.max_pixels)
        values, _ = self.tensor(pixels)
        return Prepared({self.tensor.spec.name: values}, outputs=(self.output,))

    def postprocess(
        self, tensors: Mapping[str, Array], prepared: Prepared, params: ClassificationParams
    ) -> ImageClassification:
        scores = activated(tensors[self.output].reshape(-1), self.settings.activation)
        top = [
            Label(label=self.labels[index], score=float(scores[index]), index=index)
            for index in best_first(scores, params.top_k or self.settings.top_k)
        ]
        return ImageClassification(label=top[0].label, score=top[0].score, top=tuple(top))


def open_task(
    card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
) -> ImageClassifier:
    """The task of one version; see `core.task.OpenTask`."""
    need("PIL.Image")
    picture = read_settings(ImageInput, card.preprocessing, "preprocessing")
    settings = read_settings(LabelOutput, card.postprocessing, "postprocessing")
    output = output_spec(signature, settings.output)
    labels = read_labels(card, assets)
    if not labels:
        raise LoadFailed(f"labels: the card names none, output '{output.name}' needs them")
    check_label_count(labels, output)
    tensor = ImageTensor(picture, input_spec(signature, picture.input))
    return ImageClassifier(tensor, output.name, labels, settings)
