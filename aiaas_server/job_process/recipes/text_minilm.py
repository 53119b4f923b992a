"""Texts by what they mean: a head on all-MiniLM-L6-v2, an encoder of English sentences.

Source: Reimers and Gurevych 2019, *Sentence-BERT*.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from aiaas_server.job_process.recipes.packaged import packaged
from aiaas_server.job_process.recipes.texts import TextParams, TextRecipe, answered, exported
from aiaas_server.jobs.recipes.recipe import Array, Exported, Fitted, Training, Watch
from aiaas_server.jobs.table import Table
from aiaas_server.tasks.text import PARTS, TextSettings, TokenizerEncoder
from aiaas_server.zoo import files

if TYPE_CHECKING:
    from aiaas_server.job_process.served import Served

_MODEL: Final = "minilm"
_TOKENIZER: Final = "tokenizer.json"
_VECTOR: Final = "sentence_embedding"
_WIDTH: Final = 384
_ROWS_AT_ONCE: Final = 16
_SETTINGS: Final = TextSettings(max_tokens=128, long_text="truncate")


class TextMinilm(TextRecipe[TextParams]):
    """A head on sentence vectors."""

    name: ClassVar[str] = "text-minilm"
    title: ClassVar[str] = "Texts by meaning"
    description: ClassVar[str] = "A head on MiniLM, for English and few examples"
    extra: ClassVar[str] = "tasks,train"
    modules: ClassVar[tuple[str, ...]] = ("sklearn", "onnx", "tokenizers")
    params = TextParams

    def fit_texts(
        self, params: TextParams, texts: list[str], data: Training, watch: Watch, name: str
    ) -> Fitted:
        """See `TextRecipe`."""
        from aiaas_server.job_process.recipes.heads import fit_head
        from aiaas_server.job_process.served import served  # and with it onnxruntime

        place = watch.scratch / "encoder"
        place.mkdir(exist_ok=True)
        encoder = _encoder()
        (place / "model.onnx").write_bytes(encoder.SerializeToString())

        def embed(some: list[str], told: Callable[[int], object] = lambda rows: None) -> Array:
            with served(place, data.threads) as session:
                return _embedded(some, session, told)

        watch.phase("embedding")
        vectors = embed(texts, lambda done: watch.progress(done, len(texts), "rows"))
        watch.phase("training")
        head = fit_head(vectors, data.target, 10 * params.strength, data.weights)
        return _Minilm(embed, head, data.classes, name)


class _Minilm(Fitted):
    def __init__(
        self, embed: Callable[[list[str]], Array], head: Any, classes: tuple[str, ...], name: str
    ) -> None:
        self._embed, self._head, self._classes, self._name = embed, head, classes, name

    def answer(self, features: Table) -> Array:
        """See `Fitted`."""
        return answered(features, self._name, len(self._classes), self._answer)

    def _answer(self, texts: list[str]) -> Array:
        found: Array = self._head.probabilities(self._embed(texts))
        return found

    def export(self, directory: Path) -> Exported:
        """See `Fitted`."""
        from aiaas_server.job_process.recipes.heads import join

        model = join(_encoder(), _VECTOR, self._head)
        (directory / _TOKENIZER).write_bytes(packaged(files.MINILM_TOKENIZER, _MODEL))
        # What the mask hides changes nothing.
        batching = {"pad": {name: {"axis": 1} for name in PARTS}}
        assets = {_TOKENIZER: files.MINILM_TOKENIZER.sha256}
        found = exported(
            directory, model, self._classes, _SETTINGS, batching=batching, assets=assets
        )
        return found._replace(tolerance=1e-3)


def _encoder() -> Any:
    """The graph from tokens to vectors of length 1: the mean over the tokens that count."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from aiaas_server.job_process.recipes.heads import set_output

    model = onnx.load_from_string(packaged(files.MINILM, _MODEL))
    node = helper.make_node
    model.graph.node.extend(
        [
            node("Cast", ["attention_mask"], ["head_mask"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["head_mask", "head_last"], ["head_column"]),  # (batch, sequence, 1)
            node("Mul", ["last_hidden_state", "head_column"], ["head_kept"]),
            node("ReduceSum", ["head_kept", "head_tokens"], ["head_sum"], keepdims=0),
            node("LpNormalization", ["head_sum"], [_VECTOR], axis=-1, p=2),
        ]
    )
    axes = {"head_tokens": np.array([1]), "head_last": np.array([2])}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in axes.items())
    set_output(model, _VECTOR, _WIDTH)
    return model


def _embedded(texts: list[str], session: Served, told: Callable[[int], object]) -> Array:
    """`(texts, width)` float32; texts of like length run together."""
    definition = packaged(files.MINILM_TOKENIZER, _MODEL).decode("utf-8")
    encoder = TokenizerEncoder(_SETTINGS, definition, PARTS)
    vectors = np.empty((len(texts), _WIDTH), np.float32)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), _ROWS_AT_ONCE):
        some = order[start : start + _ROWS_AT_ONCE]
        tensors = encoder.encode([texts[index] for index in some]).tensors
        vectors[some] = session.infer(tensors)[_VECTOR]
        told(start + len(some))
    return vectors
