"""A network of convolutions, over pictures or over arrays that are some."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from pydantic import Field

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.recipes.pictures import only_column, pictures
from aiaas_server.jobs.recipes.network_inputs import read_inputs
from aiaas_server.jobs.recipes.recipe import (
    Array,
    Exported,
    Fitted,
    Recipe,
    TaskKind,
    Training,
    Watch,
)
from aiaas_server.jobs.recipes.torch_network import Network, export_onnx, run_in_parts, trained
from aiaas_server.jobs.recipes.torch_training import NetworkParams
from aiaas_server.jobs.table import Table
from aiaas_server.tasks.pixels import ImageInput

_PLANES: Final = (1, 3, 4)  # what a dimension of colours has; any other is one of places
Shape = tuple[int, int, int]


class CnnParams(NetworkParams):
    """Parameters of the network."""

    channels: list[Annotated[int, Field(ge=1, le=2048)]] = Field(
        default=[16, 32],
        min_length=1,
        max_length=8,
        description="Of each 3 by 3 convolution; each is followed by a halving of the picture.",
    )
    dense: int = Field(
        default=64, ge=1, le=16_384, description="Width of the layer between them and the classes."
    )
    size: int = Field(
        default=64, ge=8, le=512, description="Side in pixels that pictures are brought to."
    )


class CnnClassifier(Recipe[CnnParams]):
    """Softmax over the classes of pictures."""

    name: ClassVar[str] = "cnn-classifier"
    title: ClassVar[str] = "Convolutional network"
    description: ClassVar[str] = "Convolutions with ReLU over one column of pictures or arrays"
    task: ClassVar[TaskKind] = "classification"
    kinds: ClassVar[frozenset[ColumnKind]] = frozenset({"array", "image"})
    extra: ClassVar[str] = "torch"
    modules: ClassVar[tuple[str, ...]] = ("torch", "onnxscript")
    parallel: ClassVar[bool] = True
    resumes: ClassVar[bool] = True
    params = CnnParams

    def fit(self, params: CnnParams, data: Training, watch: Watch) -> Fitted:
        """See `Recipe`."""
        name = only_column(data.features, ("array", "image"), "arrays or pictures")
        if data.features.kind(name) == "array":
            return _of_arrays(params, data, watch)
        return _of_pictures(params, data, watch, name)


def _of_arrays(params: CnnParams, data: Training, watch: Watch) -> Fitted:
    inputs = read_inputs(data.features)
    column = inputs.columns[0]
    shape, planes_last = _planes(column.name, column.shape)
    build = _builder(params, shape, len(data.classes), planes_last)
    network, unit = trained(build, params, data, watch, inputs.scaled, _places(shape))
    return Network(inputs, network, unit, data.classes)


def _of_pictures(params: CnnParams, data: Training, watch: Watch, name: str) -> Fitted:
    settings = ImageInput(size=(params.size, params.size), scale=1.0)
    build = _builder(params, (3, params.size, params.size), len(data.classes), None)

    def read(table: Table) -> Array:
        return pictures(table, name, settings)

    places = _places((3, params.size, params.size))
    network, _ = trained(build, params, data, watch, read, places)
    return PictureNetwork(network, data.classes, name, settings)


def _builder(params: CnnParams, shape: Shape, classes: int, planes_last: bool | None) -> Any:
    smallest = min(shape[1:]) >> len(params.channels)
    if not smallest:
        raise InvalidInput(
            f"{len(params.channels)} convolutions halve a picture of {shape[1]} by {shape[2]} to "
            "nothing; give fewer 'channels' or larger pictures"
        )
    widths = tuple(params.channels)
    return partial(layers, shape, planes_last, widths, params.dense, classes, params.dropout)


def _places(shape: Shape) -> int:
    return shape[1] * shape[2] // 4  # layers behind the first see fewer


def _planes(name: str, shape: tuple[int, ...]) -> tuple[Shape, bool]:
    """Planes, height and width of an array; and whether the planes come last in it."""
    if len(shape) == 2:
        return (1, shape[0], shape[1]), False
    if len(shape) == 3 and shape[2] in _PLANES:
        return (shape[2], shape[0], shape[1]), True
    if len(shape) == 3 and shape[0] in _PLANES:
        return (shape[0], shape[1], shape[2]), False
    raise InvalidInput(
        f"column '{name}': expected arrays of shape (height, width), (height, width, planes) or "
        f"(planes, height, width) with 1, 3 or 4 planes, got {shape}"
    )


def layers(
    shape: Shape,
    planes_last: bool | None,
    channels: tuple[int, ...],
    dense: int,
    outputs: int,
    dropout: float,
) -> Any:
    """The network, to logits `(rows, outputs)`.

    Args:
        shape: Planes, height, width.
        planes_last: Of the flat, scaled rows that come in; None where pixels `(rows, 3, height,
            width)` from 0 to 255 do.
    """
    import torch
    from torch import nn

    class Planes(nn.Module):  # type: ignore[misc]
        def forward(self, rows: Any) -> Any:
            if planes_last is None:
                return (rows.to(torch.float32) - 127.5) / 64.0
            if not planes_last:
                return rows.reshape(-1, *shape)
            return rows.reshape(-1, shape[1], shape[2], shape[0]).permute(0, 3, 1, 2)

    parts: list[Any] = [Planes()]
    planes, height, width = shape
    for size in channels:
        parts += [nn.Conv2d(planes, size, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        planes, height, width = size, height // 2, width // 2
    parts += [nn.Flatten(), nn.Linear(planes * height * width, dense), nn.ReLU()]
    parts += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*parts, nn.Linear(dense, outputs))


class PictureNetwork(Fitted):
    """A network over one column of encoded pictures."""

    def __init__(
        self, network: Any, classes: tuple[str, ...], name: str, settings: ImageInput
    ) -> None:
        import torch

        self._network = torch.nn.Sequential(network, torch.nn.Softmax(dim=-1)).eval()
        self._classes, self._name, self._settings = classes, name, settings

    def answer(self, features: Table) -> Array:
        """See `Fitted`."""
        return run_in_parts(self._network, self._pixels, features)

    def export(self, directory: Path) -> Exported:
        """See `Fitted`."""
        assert self._settings.size is not None, "the recipe says how large"
        example = np.zeros((2, 3, *self._settings.size), np.float32)
        export_onnx(self._network, example, directory / "model.onnx", "image", "probabilities")
        return Exported(picture_card(self._settings, self._classes))

    def _pixels(self, table: Table) -> Array:
        return pictures(table, self._name, self._settings).astype(np.float32)


def picture_card(settings: ImageInput, classes: tuple[str, ...]) -> dict[str, Any]:
    """The card of a graph from `image` to `probabilities`."""
    return {
        "task": "image-classification",
        "labels": list(classes),
        "preprocessing": settings.model_dump(mode="json", exclude_defaults=True),
        "postprocessing": {"output": "probabilities"},
    }
