"""Pictures by few examples: a logistic regression on what EfficientNet-Lite0 sees in them.

Source: Tan and Le 2019, *EfficientNet*; Donahue et al. 2014, *DeCAF* (features that transfer).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from pydantic import Field

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_server.job_process.recipes.cnn import picture_card
from aiaas_server.job_process.recipes.packaged import packaged
from aiaas_server.job_process.recipes.pictures import only_column, pictures
from aiaas_server.jobs.recipes.network_inputs import batches
from aiaas_server.jobs.recipes.recipe import (
    Array,
    Exported,
    Fitted,
    Params,
    Recipe,
    TaskKind,
    Training,
    Watch,
)
from aiaas_server.jobs.table import Table
from aiaas_server.tasks.pixels import ImageInput

_MODEL: Final = "efficientnet-lite0"
_WIDTH: Final = 1280
_ROWS_AT_ONCE: Final = 16
_SETTINGS: Final = ImageInput(
    size=(224, 224),
    resize="shorter",
    shorter_side=256,
    filter="bicubic",
    scale=1.0,
    mean=(127, 127, 127),
    std=(128, 128, 128),
)


class ImageTransferParams(Params):
    """Parameters of the head."""

    strength: float = Field(
        default=1.0,
        gt=0.0,
        le=1e6,
        description="The larger, the closer the head follows the examples (C of scikit-learn).",
    )


class ImageTransfer(Recipe[ImageTransferParams]):
    """A head for own classes."""

    name: ClassVar[str] = "image-transfer"
    title: ClassVar[str] = "Pictures, from few examples"
    description: ClassVar[str] = "A head on EfficientNet-Lite0, which was trained on ImageNet"
    task: ClassVar[TaskKind] = "classification"
    kinds: ClassVar[frozenset[ColumnKind]] = frozenset({"image"})
    modules: ClassVar[tuple[str, ...]] = ("sklearn", "onnx", "PIL")
    params = ImageTransferParams

    def fit(self, params: ImageTransferParams, data: Training, watch: Watch) -> Fitted:
        """See `Recipe`."""
        from aiaas_server.job_process.recipes.heads import fit_head

        name = only_column(data.features, ("image",), "pictures")
        place = watch.scratch / "encoder"
        place.mkdir(exist_ok=True)
        encoder, features = _encoder()
        (place / "model.onnx").write_bytes(encoder.SerializeToString())

        def embed(table: Table, told: Callable[[int], object] = lambda rows: None) -> Array:
            return _embedded(table, name, place, data.threads, told)

        watch.phase("embedding")
        rows = data.features.rows
        vectors = embed(data.features, lambda done: watch.progress(done, rows, "rows"))
        watch.phase("training")
        head = fit_head(vectors, data.target, params.strength, data.weights)
        return _Transferred(embed, head, features, data.classes)


class _Transferred(Fitted):
    def __init__(
        self, embed: Callable[[Table], Array], head: Any, features: str, classes: tuple[str, ...]
    ) -> None:
        self._embed, self._head, self._features = embed, head, features
        self._classes = classes

    def answer(self, features: Table) -> Array:
        """See `Fitted`."""
        found: Array = self._head.probabilities(self._embed(features))
        return found

    def export(self, directory: Path) -> Exported:
        """See `Fitted`."""
        from aiaas_server.job_process.recipes.heads import join

        encoder, features = _encoder()
        (directory / "model.onnx").write_bytes(join(encoder, features, self._head))
        return Exported(picture_card(_SETTINGS, self._classes), tolerance=1e-3)


def _encoder() -> tuple[Any, str]:
    """The graph from `image` to what lies before its own classes, and the name of that."""
    import onnx

    from aiaas_server.job_process.recipes.heads import set_output
    from aiaas_server.zoo import efficientnet, files

    packaged(files.EFFICIENTNET, _MODEL)
    model = onnx.load_from_string(efficientnet.build())
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    features = str(gemm.input[0])
    own = {gemm.input[1], gemm.input[2]}
    del model.graph.node[-2:]  # its own classes: Gemm and Softmax
    kept = [weight for weight in model.graph.initializer if weight.name not in own]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    set_output(model, features, _WIDTH)
    return model, features


def _embedded(
    table: Table, name: str, place: Path, threads: int, told: Callable[[int], object]
) -> Array:
    mean, std = np.float32(_SETTINGS.mean[0]), np.float32(_SETTINGS.std[0])
    found = np.empty((table.rows, _WIDTH), np.float32)
    from aiaas_server.job_process.served import served  # and with it onnxruntime

    with served(place, threads) as encoder:
        for part in batches(table.rows, _ROWS_AT_ONCE):
            some = table.take(part)
            pixels = (pictures(some, name, _SETTINGS) - mean) / std
            found[part] = next(iter(encoder.infer({"image": pixels}).values()))
            told(part.start + some.rows)
    return found
