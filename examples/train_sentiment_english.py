"""Train a head on MiniLM for the mood of English film reviews; write both as one bundle.

    python examples/train_sentiment_english.py --out models/sentiment-english
    aiaas predict sentiment-english --text "A dull, tedious and boring waste of time."

The snippets of every fifth film are held out, and the accuracy told is theirs: about 0.74, as the
encoder was made for what a sentence speaks of rather than how. Embedding takes about a minute. The
head is joined to the encoder, so that one model gives the probabilities and the vector they come
from.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from train_sentiment import LABELS, held_out
from zoo import minilm, rotten_tomatoes

from aiaas_server.zoo.packages import content, fetch

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def fused(weights: Floats, bias: float) -> bytes:
    """The encoder with the head behind it.

    `input_ids`, `attention_mask`, `token_type_ids` int64 `(batch, sequence)` -> `probabilities`
    `(batch, 2)`, `sentence_embedding` `(batch, 384)` of length 1.
    """
    model = onnx.load_from_string(content(minilm.MODEL))
    constants: dict[str, npt.NDArray[Any]] = {
        "head_weights": np.stack([-weights, weights], 1) / 2,  # (384, 2)
        "head_bias": np.array([-bias / 2, bias / 2], np.float32),
        "head_tokens": np.array([1], np.int64),
        "head_last": np.array([2], np.int64),
    }
    node = helper.make_node
    model.graph.node.extend(
        [
            node("Cast", ["attention_mask"], ["head_mask"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["head_mask", "head_last"], ["head_column"]),  # (batch, sequence, 1)
            node("Mul", ["last_hidden_state", "head_column"], ["head_kept"]),
            node("ReduceSum", ["head_kept", "head_tokens"], ["head_sum"], keepdims=0),
            node("LpNormalization", ["head_sum"], ["sentence_embedding"], axis=-1, p=2),
            node("Gemm", ["sentence_embedding", "head_weights", "head_bias"], ["head_logits"]),
            node("Softmax", ["head_logits"], ["probabilities"], axis=-1),
        ]
    )
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    value = helper.make_tensor_value_info
    del model.graph.output[:]
    model.graph.output.extend(
        [
            value("probabilities", TensorProto.FLOAT, ["batch", len(LABELS)]),
            value("sentence_embedding", TensorProto.FLOAT, ["batch", len(weights)]),
        ]
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def embed(texts: Sequence[str], *, rows: int = 16) -> Floats:
    """`(texts, 384)`, each of length 1; texts of like length run together."""
    blank = fused(np.zeros(384, np.float32), 0.0)
    session = onnxruntime.InferenceSession(blank, providers=["CPUExecutionProvider"])
    tokenizer = minilm.tokenizer()
    vectors = np.empty((len(texts), 384), np.float32)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for begin in range(0, len(order), rows):
        some = order[begin : begin + rows]
        inputs = minilm.encode(tokenizer, [texts[index] for index in some])
        vectors[some] = np.asarray(session.run(["sentence_embedding"], inputs)[0])
    return vectors


def train(
    vectors: Floats, labels: Labels, *, decay: float = 0.2, steps: int = 12
) -> tuple[Floats, float]:
    """Weights `(384,)` and bias of a logistic regression, by Newton's method.

    Args:
        decay: Weight of half the squared length of the weights, beside the sum of all losses.
    Source: Hastie, Tibshirani and Friedman 2009, *The Elements of Statistical Learning*, 4.4.
    """
    rows = np.column_stack([vectors, np.ones(len(vectors))]).astype(np.float64)
    ridge = np.append(np.full(vectors.shape[1], decay), 0)  # the bias is free
    weights = np.zeros(rows.shape[1])
    for _ in range(steps):
        said = 1 / (1 + np.exp(-rows @ weights))
        gradient = rows.T @ (said - labels) + ridge * weights
        curvature = (rows * (said * (1 - said))[:, None]).T @ rows + np.diag(ridge)
        weights -= np.linalg.solve(curvature, gradient)
    return weights[:-1].astype(np.float32), float(weights[-1])


def accuracy(vectors: Floats, labels: Labels, weights: Floats, bias: float) -> float:
    """Share of texts whose label is the likelier one."""
    return float(((vectors @ weights + bias > 0) == labels).mean())


def card(score: float, tested: int) -> dict[str, Any]:
    """The card beside the model."""
    pad = {name: {"axis": 1} for name in ("input_ids", "attention_mask", "token_type_ids")}
    sources = (minilm.MODEL, minilm.TOKENIZER, rotten_tomatoes.CORPUS)
    return {
        "format_version": 1,
        "name": "sentiment-english",
        "task": "text-classification",
        "description": "Mood of English film reviews: MiniLM with a head trained on snippets.",
        "licence": "encoder Apache-2.0; trained on other people's snippets out of an Apache-2.0 "
        "package",
        "labels": list(LABELS),
        "preprocessing": {"features": "tokenizer", "max_tokens": minilm.MAX_TOKENS},
        "postprocessing": {"output": "probabilities"},
        "batching": {"pad": pad},  # what the mask hides changes nothing
        "metrics": {"accuracy": round(score, 4), "held_out_snippets": tested},
        "lineage": {
            "sha256": {f"{f.package}=={f.version}: {f.member}": f.sha256 for f in sources},
            "command": "python examples/train_sentiment_english.py",
        },
        "assets": {"tokenizer.json": minilm.TOKENIZER.sha256},
    }


def build(out: Path) -> float:
    """Train, measure, and write `out/1/` with model, tokenizer, card; the held-out accuracy."""
    list(fetch(minilm.FILES))
    snippets = rotten_tomatoes.snippets()
    labels = np.array([int(one.is_fresh) for one in snippets])
    is_test = np.array([held_out(one.film) for one in snippets])  # no film is in both parts
    vectors = embed([one.text for one in snippets])
    weights, bias = train(vectors[~is_test], labels[~is_test])
    score = accuracy(vectors[is_test], labels[is_test], weights, bias)
    place = out / "1"
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.onnx").write_bytes(fused(weights, bias))
    (place / "tokenizer.json").write_bytes(content(minilm.TOKENIZER))
    tested = int(is_test.sum())
    text = json.dumps(card(score, tested), ensure_ascii=False, indent=2)
    (place / "model.json").write_text(text + "\n", "utf-8")
    larger = max(labels[is_test].mean(), 1 - labels[is_test].mean())
    print(f"{len(labels) - tested} snippets trained on, {tested} held out")
    print(f"held-out accuracy {score:.3f}; always the larger class {larger:.3f}")
    print(f"wrote {place / 'model.onnx'} ({(place / 'model.onnx').stat().st_size / 1e6:.0f} MB)")
    return score


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("models/sentiment-english"))
    build(parser.parse_args().out)
