"""Tiny models with cards: a repository of every kind of task that needs no real weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WORDS = ["[PAD]", "[UNK]", "good", "bad", "film", "tea"]
# What each word adds. Columns: negative, positive.
MOODS = [[0, 0], [0, 0], [0, 2], [2, 0], [0, 0], [0, 0]]
# Two dimensions: mood and drink.
MEANINGS = [[0, 0], [0, 0], [1, 0], [-1, 0], [0.5, 0], [0, 1]]


def tokenizer() -> bytes:
    """A word-level `tokenizer.json` of six words, made by the library itself."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made.to_str().encode()


def table_model(table: Any, parts: tuple[str, ...], pooled: bool) -> bytes:
    """Looks up a row for each token: `out` (n, tokens, width), or the sum (n, width)."""
    values = np.asarray(table, np.float32)
    width = values.shape[1]
    constants = [
        numpy_helper.from_array(values, "table"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows"])]
    inputs = [
        helper.make_tensor_value_info(part, TensorProto.INT64, ["batch", "tokens"])
        for part in parts
    ]
    if "attention_mask" in parts:  # so that the graph uses it
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
            helper.make_node("Mul", ["rows", "mask3"], ["kept"]),
        ]
        constants.append(numpy_helper.from_array(np.array([2], np.int64), "last"))
    else:
        nodes.append(helper.make_node("Identity", ["rows"], ["kept"]))
    if pooled:
        nodes.append(helper.make_node("ReduceSum", ["kept", "axis"], ["out"], keepdims=0))
        shape: list[str | int] = ["batch", width]
    else:
        nodes.append(helper.make_node("Identity", ["kept"], ["out"]))
        shape = ["batch", "tokens", width]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


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


def first_byte() -> bytes:
    """`bytes` (n, 2048) int32 -> `scores` (n, 2): the second is 1 where the file begins as PNG."""
    constants = [
        numpy_helper.from_array(np.array([0], np.int64), "first"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.int32(0x89), "mark"),
        numpy_helper.from_array(np.array([0, 1], np.float32), "values"),
        numpy_helper.from_array(np.int64(2), "depth"),
    ]
    nodes = [
        helper.make_node("Gather", ["bytes", "first"], ["head"], axis=1),
        helper.make_node("Equal", ["head", "mark"], ["same"]),
        helper.make_node("Cast", ["same"], ["yes"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["yes", "one"], ["index"]),
        helper.make_node("OneHot", ["index", "depth", "values"], ["scores"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("bytes", TensorProto.INT32, ["batch", 2048])],
        [value("scores", TensorProto.FLOAT, ["batch", 2])],
        constants,
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def write_tasks(root: Path) -> None:
    """Tiny stand-ins under the names that the documents use; `digits` has its model already."""
    files = {"tokenizer.json": tokenizer()}
    write_bundle(root, "sentiment", MOOD_CARD, table_model(MOODS, PARTS, pooled=True), files)
    write_bundle(root, "minilm", VECTOR_CARD, table_model(MEANINGS, PARTS, pooled=False), files)
    types = {"content_types.json": json.dumps({"png": {"mime_type": "image/png"}}).encode()}
    card = {
        "task": "file-type",
        "labels": ["other", "png"],
        "postprocessing": {"content_types": "content_types.json"},
    }
    write_bundle(root, "magika", card, first_byte(), types)
    steps = [{"model": "minilm"}, {"model": "sentiment", "input": "ranking.0.text"}]
    write_bundle(root, "best", {"task": "pipeline", "steps": steps}, None)
    (root / "digits" / "1" / "model.json").write_text(json.dumps(DIGIT_CARD))


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
