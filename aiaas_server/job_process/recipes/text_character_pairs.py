"""Texts by their characters and character pairs: small, quick, and good at Chinese."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from pydantic import Field

from aiaas_server.job_process.recipes.texts import (
    TextParams,
    TextRecipe,
    answered,
    averaged,
    exported,
    shares,
    windows_of,
)
from aiaas_server.jobs.recipes.recipe import Array, Exported, Fitted, Training, Watch
from aiaas_server.jobs.table import Table
from aiaas_server.tasks.text import HashedEncoder, TextSettings

_INPUT: Final = "input_ids"
_NGRAMS: Final = (1, 2)


class CharacterPairParams(TextParams):
    """Parameters of the table."""

    buckets: int = Field(
        default=65_536,
        ge=256,
        le=1 << 22,
        description="Rows of the table that characters and pairs are hashed into.",
    )
    lowercase: bool = Field(default=True, description="Whether A and a are the same.")


class TextCharacterPairs(TextRecipe[CharacterPairParams]):
    """A weight for each hashed character and pair."""

    name: ClassVar[str] = "text-character-pairs"
    title: ClassVar[str] = "Texts by character pairs"
    description: ClassVar[str] = "Any language, Chinese above all; small and quick"
    params = CharacterPairParams

    def fit_texts(
        self,
        params: CharacterPairParams,
        texts: list[str],
        data: Training,
        watch: Watch,
        name: str,
    ) -> Fitted:
        """See `TextRecipe`."""
        from aiaas_server.job_process.recipes.heads import fit_head

        settings = TextSettings(
            features="hashed",
            buckets=params.buckets,
            ngrams=_NGRAMS,
            max_tokens=4096,
            lowercase=params.lowercase,
        )
        encoder = HashedEncoder(settings, _INPUT)
        watch.phase("reading")
        found = windows_of(encoder, texts)
        watch.phase("training")
        weights = shares(found.owners, data.weights)
        features = _counted(found.ids, params.buckets)
        head = fit_head(features, data.target[found.owners], params.strength, weights)
        return _Pairs(encoder, settings, head, data.classes, name)


class _Pairs(Fitted):
    def __init__(
        self,
        encoder: HashedEncoder,
        settings: TextSettings,
        head: Any,
        classes: tuple[str, ...],
        name: str,
    ) -> None:
        self._encoder, self._settings, self._head = encoder, settings, head
        self._classes, self._name = classes, name

    def answer(self, features: Table) -> Array:
        """See `Fitted`."""
        return answered(features, self._name, len(self._classes), self._answer)

    def _answer(self, texts: list[str]) -> Array:
        found = windows_of(self._encoder, texts)
        scores = self._head.probabilities(_counted(found.ids, self._settings.buckets))
        return averaged(scores, found.owners)

    def export(self, directory: Path) -> Exported:
        """See `Fitted`."""
        table = self._head.weights.copy()
        table[0] = 0.0  # padding
        model = _graph(table, self._head.bias)
        # 0 counts for nothing in the graph, so rows of different length may share a batch.
        pad = {"pad": {_INPUT: {"axis": 1}}}
        return exported(directory, model, self._classes, self._settings, batching=pad)


def _counted(rows: list[Array], buckets: int) -> Any:
    """`(rows, buckets)` sparse: each id of a row counts 1 by the root of their number."""
    from scipy.sparse import csr_matrix

    sizes = np.array([len(row) for row in rows])
    values = np.repeat(1.0 / np.sqrt(np.maximum(sizes, 1)), sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return csr_matrix((values, np.concatenate(rows), starts), (len(rows), buckets))


def _graph(table: Array, bias: Array) -> bytes:
    """`input_ids` int64 `(batch, length)`, 0 is padding -> `probabilities` `(batch, classes)`.

    The rows of the ids are summed and divided by the root of the count of ids that are not 0.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    node, value = helper.make_node, helper.make_tensor_value_info
    constants = {
        "table": table,
        "bias": bias,
        "zero": np.int64(0),
        "one": np.float32(1),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        node("Gather", ["table", _INPUT], ["rows"]),  # (batch, length, classes)
        node("ReduceSum", ["rows", "axis"], ["sums"], keepdims=0),
        node("Equal", [_INPUT, "zero"], ["padded"]),
        node("Not", ["padded"], ["real"]),
        node("Cast", ["real"], ["ones"], to=TensorProto.FLOAT),
        node("ReduceSum", ["ones", "axis"], ["counted"], keepdims=1),
        node("Max", ["counted", "one"], ["count"]),
        node("Sqrt", ["count"], ["root"]),
        node("Div", ["sums", "root"], ["scaled"]),
        node("Add", ["scaled", "bias"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "text-character-pairs",
        [value(_INPUT, TensorProto.INT64, ["batch", "length"])],
        [value("probabilities", TensorProto.FLOAT, ["batch", table.shape[1]])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
