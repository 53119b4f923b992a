"""Pictures to boxes: what is where, in the picture's own pixels.

`postprocessing.boxes` says what the model puts out:

* `distributions`: PicoDet and its kin: for each level of a pyramid scores `(cells, classes)` and
  distributions of distances `(cells, 4 * bins)`;
* `yolo`: one tensor `(4 + classes, candidates)`, centre x, centre y, width, height, then scores
  (YOLOv8 and later, exported without suppression);
* `boxes`: ready boxes `(n, 4)` xyxy in the input's pixels, scores `(n,)` and class numbers `(n,)`,
  as torchvision's detectors give; their names, in this order, in `outputs`;
* `cascade`: P-Net, R-Net and O-Net, three models (see `face_cascade`).

A card:

    {"task": "object-detection", "labels": ["text", "title", "figure"],
     "preprocessing": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
     "postprocessing": {"boxes": "distributions", "threshold": 0.4, "overlap": 0.5}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from aiaas_client.protocol.predictions import Box, Detections, Prediction
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import InferenceFailed, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import AnyTask, Params, PayloadKind, Prepared
from aiaas_server.tasks.boxes import Found, from_centres, from_distributions, select, strides_of
from aiaas_server.tasks.detection import DetectionParams
from aiaas_server.tasks.face_cascade import open_cascade
from aiaas_server.tasks.images import decode_image
from aiaas_server.tasks.pixels import ImageInput, ImageTensor, Transform
from aiaas_server.tasks.task import Share, TaskSettings, input_spec, need, output_spec, read_labels


class BoxOutput(TaskSettings):
    """What the model's outputs are and which boxes are answered.

    Attributes:
        boxes: See the module.
        threshold: Boxes with a lower score are dropped.
        overlap: A box that overlaps a better one by more of their union is dropped.
        per_class: Only boxes of the same class suppress one another.
        top_k: The most boxes answered.
        outputs: Names of the three outputs of `boxes`.
    """

    boxes: Literal["distributions", "yolo", "boxes"] = "distributions"
    threshold: Share = 0.4
    overlap: Share = 0.5
    per_class: bool = True
    top_k: Annotated[int, Field(ge=1, le=1000)] = 100
    outputs: tuple[str, ...] = ("boxes", "scores", "labels")


# Outputs of one picture -> its boxes in the tensor's pixels, scores and classes.
Decoder = Callable[[Mapping[str, Array], float, int], Found]


class ObjectDetector:
    """One run a picture."""

    input: PayloadKind = "image"
    predictions: tuple[type[Prediction], ...] = (Detections,)
    params: type[Params] = DetectionParams
    costs = True

    def __init__(
        self,
        tensor: ImageTensor,
        decode: Decoder,
        labels: tuple[str, ...],
        settings: BoxOutput,
    ) -> None:
        self.tensor = tensor
        self.decode = decode
        self.labels = labels
        self.settings = settings

    def preprocess(self, payload: Any, params: DetectionParams) -> Prepared:
        pixels = decode_image(payload, max_pixels=self.tensor.settings.max_pixels)
        values, transform = self.tensor(pixels)
        return Prepared({self.tensor.spec.name: values}, context=transform)

    def postprocess(
        self, tensors: Mapping[str, Array], prepared: Prepared, params: DetectionParams
    ) -> Detections:
        threshold = self.settings.threshold if params.threshold is None else params.threshold
        found = self.decode(tensors, threshold, params.top_k or self.settings.top_k)
        transform: Transform = prepared.context
        corners = transform.to_picture(found.boxes)
        boxes = [
            self._box(box, float(score), int(number))
            for box, score, number in zip(corners, found.scores, found.classes, strict=True)
        ]
        return Detections(boxes=tuple(boxes), width=transform.width, height=transform.height)

    def _box(self, box: Array, score: float, number: int) -> Box:
        if not 0 <= number < len(self.labels):
            raise InferenceFailed(
                f"the model answered class {number}, the card has {len(self.labels)} labels"
            )
        x1, y1, x2, y2 = (round(float(side), 1) for side in box)
        return Box(label=self.labels[number], score=score, x1=x1, y1=y1, x2=x2, y2=y2)


def open_task(
    card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
) -> AnyTask:
    """The task of one version; see `core.task.OpenTask`."""
    need("PIL.Image")
    if card.postprocessing.get("boxes") == "cascade":
        return open_cascade(card, signature)
    picture = read_settings(ImageInput, card.preprocessing, "preprocessing")
    settings = read_settings(BoxOutput, card.postprocessing, "postprocessing")
    labels = read_labels(card, assets)
    if not labels:
        raise LoadFailed("labels: the card names none, boxes need them")
    tensor = ImageTensor(picture, input_spec(signature, picture.input))
    if settings.boxes == "distributions":
        decode = _distributions(signature, tensor.size, labels, settings)
    elif settings.boxes == "yolo":
        decode = _yolo(signature, labels, settings)
    else:
        decode = _ready(signature, settings)
    return ObjectDetector(tensor, decode, labels, settings)


def _distributions(
    signature: Signature, size: tuple[int, int], labels: tuple[str, ...], settings: BoxOutput
) -> Decoder:
    """Outputs in the order of the graph: the scores of every level, then its distributions."""
    outputs = signature.outputs
    levels = len(outputs) // 2
    scores, distributions = outputs[:levels], outputs[levels:]
    if not levels or len(outputs) % 2:
        raise LoadFailed(
            "postprocessing: expected scores and distributions in pairs, got "
            f"{len(outputs)} outputs"
        )
    for output in scores:
        if output.shape[-1] != len(labels):
            raise LoadFailed(
                f"labels: the card names {len(labels)}, output '{output.name}' has "
                f"{output.shape[-1]}"
            )
    try:
        strides = strides_of([output.shape[-2] for output in scores], size)
    except ValueError as error:
        raise LoadFailed(f"postprocessing: {error}") from None

    def decode(tensors: Mapping[str, Array], threshold: float, top_k: int) -> Found:
        classes = [tensors[output.name].reshape(-1, len(labels)) for output in scores]
        boxes = [
            from_distributions(tensors[o.name].reshape(-1, o.shape[-1]), size, stride)
            for o, stride in zip(distributions, strides, strict=True)
        ]
        return select(
            np.concatenate(boxes).astype(np.float32),
            np.concatenate(classes),
            threshold=threshold,
            limit=settings.overlap,
            at_most=top_k,
            per_class=settings.per_class,
        )

    return decode


def _yolo(signature: Signature, labels: tuple[str, ...], settings: BoxOutput) -> Decoder:
    output = output_spec(signature, "")
    rows = output.shape[1] if len(output.shape) == 3 else -1
    if rows != 4 + len(labels):
        raise LoadFailed(
            f"labels: the card names {len(labels)}, output '{output.name}' has {rows - 4} beside "
            f"the box's four: shape {output.shape}"
        )

    def decode(tensors: Mapping[str, Array], threshold: float, top_k: int) -> Found:
        candidates = tensors[output.name].reshape(rows, -1).T  # (candidates, 4 + classes)
        return select(
            from_centres(candidates[:, :4]),
            candidates[:, 4:],
            threshold=threshold,
            limit=settings.overlap,
            at_most=top_k,
            per_class=settings.per_class,
        )

    return decode


def _ready(signature: Signature, settings: BoxOutput) -> Decoder:
    if len(settings.outputs) != 3:
        raise LoadFailed(f"postprocessing.outputs: expected three names, got {settings.outputs}")
    boxes, scores, classes = (output_spec(signature, name).name for name in settings.outputs)

    def decode(tensors: Mapping[str, Array], threshold: float, top_k: int) -> Found:
        values = tensors[scores].reshape(-1)
        above = np.flatnonzero(values >= threshold)
        order = above[np.argsort(-values[above], kind="stable")[:top_k]]
        corners = tensors[boxes].reshape(-1, 4).astype(np.float32)
        return Found(corners[order], values[order], tensors[classes].reshape(-1)[order])

    return decode
