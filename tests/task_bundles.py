"""Tiny models with cards: a repository of every kind of task that needs no real weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.graphs import model, value

WORDS = ["[PAD]", "[UNK]", "good", "bad", "film", "tea"]
# What each word adds. Columns: negative, positive.
MOODS = [[0, 0], [0, 0], [0, 2], [2, 0], [0, 0], [0, 0]]
# Two dimensions: mood and drink.
MEANINGS = [[0, 0], [0, 0], [1, 0], [-1, 0], [0.5, 0], [0, 1]]


def tokenizer(words: Sequence[str] = WORDS) -> bytes:
    """A word-level `tokenizer.json` of these words, made by the library itself."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made.to_str().encode()


def table_model(table: Any, parts: tuple[str, ...], pooled: bool) -> bytes:
    """Looks up a row for each token: `out` (n, tokens, width), or the sum (n, width)."""
    values = np.asarray(table, np.float32)
    width = values.shape[1]
    constants: dict[str, Any] = {"table": values, "axis": np.array([1], np.int64)}
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows"])]
    inputs = [value(part, ["batch", "tokens"], TensorProto.INT64) for part in parts]
    if "attention_mask" in parts:  # so that the graph uses it
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
            helper.make_node("Mul", ["rows", "mask3"], ["kept"]),
        ]
        constants["last"] = np.array([2], np.int64)
    else:
        nodes.append(helper.make_node("Identity", ["rows"], ["kept"]))
    if pooled:
        nodes.append(helper.make_node("ReduceSum", ["kept", "axis"], ["out"], keepdims=0))
        shape: list[str | int] = ["batch", width]
    else:
        nodes.append(helper.make_node("Identity", ["kept"], ["out"]))
        shape = ["batch", "tokens", width]
    return model(nodes, inputs, [value("out", shape)], **constants)


PARTS = ("input_ids", "attention_mask")
MOOD_CARD = {
    "task": "text-classification",
    "labels": ["negative", "positive"],
    "postprocessing": {"activation": "softmax"},
}
VECTOR_CARD = {"task": "text-embedding"}
TABLE_CARD = {
    "task": "tabular-regression",
    "preprocessing": {"columns": [{"name": "a"}, {"name": "b"}]},
    "postprocessing": {"names": ["a", "b"]},
}
DIGIT_CARD = {"task": "digits"}
# Ranks documents, then tells the mood of the best.
BEST_CARD = {
    "task": "pipeline",
    "steps": [{"model": "vectors"}, {"model": "moods", "input": "ranking.0.text"}],
}
# The mood of each document, the best first.
EACH_CARD = {
    "task": "pipeline",
    "steps": [
        {"model": "vectors"},
        {"model": "moods", "input": "ranking.*.text", "each": True, "params": {"top_k": 1}},
    ],
}


def write_bundle(
    root: Path,
    name: str,
    card: Mapping[str, Any],
    model: bytes | None,
    files: Mapping[str, bytes] = {},
) -> None:
    """`root/name/1/` with the model (if there is one), its card, and the assets."""
    place = root / name / "1"
    place.mkdir(parents=True)
    if model is not None:
        (place / "model.onnx").write_bytes(model)
    (place / "model.json").write_text(json.dumps(card), "utf-8")
    for file, content in files.items():
        (place / file).write_bytes(content)


def first_byte(length: int = 2048) -> bytes:
    """`bytes` (n, length) int32 -> `scores` (n, 2): the second is 1 where it begins as PNG."""
    nodes = [
        helper.make_node("Gather", ["bytes", "first"], ["head"], axis=1),
        helper.make_node("Equal", ["head", "mark"], ["same"]),
        helper.make_node("Cast", ["same"], ["yes"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["yes", "one"], ["index"]),
        helper.make_node("OneHot", ["index", "depth", "values"], ["scores"]),
    ]
    return model(
        nodes,
        [value("bytes", ["batch", length], TensorProto.INT32)],
        [value("scores", ["batch", 2])],
        first=np.array([0], np.int64),
        one=np.array([1], np.int64),
        mark=np.int32(0x89),
        values=np.array([0, 1], np.float32),
        depth=np.int64(2),
    )


def small_digits() -> bytes:
    """`image` (n, 1, 28, 28) -> `logits` (n, 10), random weights: the shapes of `digits-cnn`."""
    weights = np.random.default_rng(0).normal(0, 0.1, (784, 10)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    return model(
        nodes,
        [value("image", ["batch", 1, 28, 28])],
        [value("logits", ["batch", 10])],
        weights=weights,
    )


def write_tasks(root: Path) -> None:
    """Tiny stand-ins under the names that the documents use; `digits-cnn` has its model already."""
    files = {"tokenizer.json": tokenizer()}
    moods = table_model(MOODS, PARTS, pooled=True)
    write_bundle(root, "sentiment", MOOD_CARD, moods, files)
    write_bundle(root, "minilm", VECTOR_CARD, table_model(MEANINGS, PARTS, pooled=False), files)
    types = {"content_types.json": json.dumps({"png": {"mime_type": "image/png"}}).encode()}
    card = {
        "task": "file-type",
        "labels": ["other", "png"],
        "postprocessing": {"content_types": "content_types.json"},
    }
    write_bundle(root, "magika", card, first_byte(), types)
    (root / "digits-cnn" / "1" / "model.json").write_text(json.dumps(DIGIT_CARD))


def write_repository(root: Path, builders: Any) -> Path:
    """All of the bundles above; `builders` is the fixture `onnx_models`."""
    files = {"tokenizer.json": tokenizer()}
    write_bundle(root, "moods", MOOD_CARD, table_model(MOODS, PARTS, pooled=True), files)
    write_bundle(root, "vectors", VECTOR_CARD, table_model(MEANINGS, PARTS, pooled=False), files)
    write_bundle(root, "table", TABLE_CARD, builders.identity("FP32", ["batch", 2]))
    write_bundle(root, "digits", DIGIT_CARD, builders.mlp())
    write_bundle(root, "best", BEST_CARD, None)
    write_bundle(root, "each", EACH_CARD, None)
    return root
