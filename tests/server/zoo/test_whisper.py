"""Whisper's file is read with suspicion, and its graphs compute what the paper says."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from aiaas_server.runtimes.onnx import open_session
from aiaas_server.zoo.whisper import graph
from aiaas_server.zoo.whisper.ctranslate2 import BadWeights, read_weights

WIDTH, LAYERS, VOCABULARY, CONTEXT = 128, 2, 40, 24  # two heads
HEARD = graph.FRAMES // 2


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def tensor(name: str, values: Any, kind: int) -> bytes:
    head = text(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
    content = values.tobytes()
    return head + struct.pack("<BI", kind, len(content)) + content


HALVES = np.array([[1, 0.5, -2], [0, 4, 8]], np.float16)
FILE = (
    struct.pack("<I", 6)
    + text("WhisperSpec")
    + struct.pack("<II", 3, 3)
    + tensor("halves", HALVES, 4)
    + tensor("scalar", np.array(7, np.int16), 2)
    + tensor("bytes", np.array([1, -1], np.int8), 1)
    + struct.pack("<I", 1)
    + text("alias")
    + text("halves")
)


def test_a_file_has_its_tensors_and_what_stands_for_them() -> None:
    found = read_weights(FILE)
    assert found.specification == "WhisperSpec"
    assert list(found) == ["halves", "scalar", "bytes", "alias"]
    assert found["alias"].dtype == np.float16
    assert found["alias"].tolist() == HALVES.tolist()
    assert (found["scalar"].shape, int(found["scalar"])) == ((), 7)
    assert found["bytes"].tolist() == [1, -1]


@pytest.mark.parametrize("length", range(len(FILE)))
def test_a_file_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(BadWeights):
        read_weights(FILE[:length])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(struct.pack("<I", 7) + FILE[4:], "expected version 6", id="version"),
        pytest.param(FILE + b"..", "2 bytes too many", id="more"),
        pytest.param(FILE.replace(text("halves"), text("wholes"), 1), "'alias' stands", id="alias"),
        pytest.param(
            FILE.replace(struct.pack("<BI", 4, 12), struct.pack("<BI", 9, 12)),
            "'halves': expected a type below 5, got 9",
            id="type",
        ),
        pytest.param(
            FILE.replace(struct.pack("<BI", 4, 12), struct.pack("<BI", 0, 12)),
            r"'halves': expected \(2, 3\) of type 0, got 12 bytes",
            id="size",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(content: bytes, message: str) -> None:
    with pytest.raises(BadWeights, match=message):
        read_weights(content)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(FILE) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(place: int, byte: int) -> None:
    changed = bytearray(FILE)
    changed[place] = byte
    try:
        read_weights(bytes(changed))
    except BadWeights:
        return


def linear(found: dict[str, Any], random: Any, name: str, out: int, into: int) -> None:
    values = random.standard_normal((out, into)) * into**-0.5
    found[f"{name}/weight"] = values.astype(np.float16)
    found[f"{name}/bias"] = (random.standard_normal(out) * 0.1).astype(np.float16)


def norm(found: dict[str, Any], random: Any, name: str) -> None:
    found[f"{name}/gamma"] = (1 + 0.1 * random.standard_normal(WIDTH)).astype(np.float16)
    found[f"{name}/beta"] = (0.1 * random.standard_normal(WIDTH)).astype(np.float16)


@pytest.fixture(scope="module")
def weights() -> Mapping[str, Any]:
    """Random weights by CTranslate2's names."""
    random = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for number, into in ((1, graph.MELS), (2, WIDTH)):
        kernel = random.standard_normal((WIDTH, into, 3)) * (3 * into) ** -0.5
        found[f"encoder/conv{number}/weight"] = kernel.astype(np.float16)
        found[f"encoder/conv{number}/bias"] = np.full(WIDTH, 0.1, np.float16)
    for side, places in (("encoder", HEARD), ("decoder", CONTEXT)):
        table = random.standard_normal((places, WIDTH)) * 0.1
        found[f"{side}/position_encodings/encodings"] = table.astype(np.float16)
        for layer in range(LAYERS):
            name = f"{side}/layer_{layer}"
            norm(found, random, f"{name}/self_attention/layer_norm")
            linear(found, random, f"{name}/self_attention/linear_0", 3 * WIDTH, WIDTH)
            linear(found, random, f"{name}/self_attention/linear_1", WIDTH, WIDTH)
            norm(found, random, f"{name}/ffn/layer_norm")
            linear(found, random, f"{name}/ffn/linear_0", 2 * WIDTH, WIDTH)
            linear(found, random, f"{name}/ffn/linear_1", WIDTH, 2 * WIDTH)
        norm(found, random, f"{side}/layer_norm")
    for layer in range(LAYERS):
        name = f"decoder/layer_{layer}/attention"
        norm(found, random, f"{name}/layer_norm")
        linear(found, random, f"{name}/linear_0", WIDTH, WIDTH)
        linear(found, random, f"{name}/linear_1", 2 * WIDTH, WIDTH)
        linear(found, random, f"{name}/linear_2", WIDTH, WIDTH)
    embedding = random.standard_normal((VOCABULARY, WIDTH)) * 0.2
    found["decoder/embeddings/weight"] = embedding.astype(np.float16)
    return found


class Reference:
    """The network by the book, in float64."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self.weights = {name: values.astype(np.float64) for name, values in weights.items()}

    def linear(self, x: Any, name: str) -> Any:
        return x @ self.weights[f"{name}/weight"].T + self.weights[f"{name}/bias"]

    def norm(self, x: Any, name: str) -> Any:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
        return x * self.weights[f"{name}/gamma"] + self.weights[f"{name}/beta"]

    def conv(self, x: Any, name: str, stride: int) -> Any:
        kernel = self.weights[f"{name}/weight"]  # (out, in, 3)
        padded = np.pad(x, ((0, 0), (1, 1)))
        frames = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=1)[:, ::stride]
        y = np.einsum("itk,oik->ot", frames, kernel) + self.weights[f"{name}/bias"][:, None]
        return gelu(y)

    def attend(self, query: Any, key: Any, value: Any, seen: Any = None) -> Any:
        heads = [part.reshape(len(part), -1, 64).swapaxes(0, 1) for part in (query, key, value)]
        scores = heads[0] @ heads[1].swapaxes(1, 2) / 8
        if seen is not None:
            scores = np.where(seen, scores, -np.inf)
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        chances /= chances.sum(-1, keepdims=True)
        return (chances @ heads[2]).swapaxes(0, 1).reshape(len(query), -1)

    def layer(self, x: Any, name: str, seen: Any = None) -> Any:
        y = self.linear(self.norm(x, f"{name}/self_attention/layer_norm"), self_0(name))
        y = self.attend(*np.split(y, 3, axis=-1), seen)
        return x + self.linear(y, f"{name}/self_attention/linear_1")

    def forward(self, x: Any, name: str) -> Any:
        y = gelu(self.linear(self.norm(x, f"{name}/ffn/layer_norm"), f"{name}/ffn/linear_0"))
        return x + self.linear(y, f"{name}/ffn/linear_1")

    def encode(self, features: Any) -> Any:
        x = self.conv(self.conv(features, "encoder/conv1", 1), "encoder/conv2", 2).T
        x = x + self.weights["encoder/position_encodings/encodings"]
        for layer in range(LAYERS):
            x = self.forward(self.layer(x, f"encoder/layer_{layer}"), f"encoder/layer_{layer}")
        return self.norm(x, "encoder/layer_norm")

    def decode(self, tokens: list[int], heard: Any) -> Any:
        places = self.weights["decoder/position_encodings/encodings"][: len(tokens)]
        x = self.weights["decoder/embeddings/weight"][tokens] + places
        seen = np.tril(np.ones((len(tokens), len(tokens)), bool))
        for layer in range(LAYERS):
            name = f"decoder/layer_{layer}"
            x = self.layer(x, name, seen)
            query = self.linear(
                self.norm(x, f"{name}/attention/layer_norm"), f"{name}/attention/linear_0"
            )
            key, value = np.split(self.linear(heard, f"{name}/attention/linear_1"), 2, axis=-1)
            y = self.attend(query, key, value)
            x = self.forward(x + self.linear(y, f"{name}/attention/linear_2"), name)
        return self.norm(x, "decoder/layer_norm") @ self.weights["decoder/embeddings/weight"].T


def self_0(name: str) -> str:
    return f"{name}/self_attention/linear_0"


def gelu(x: Any) -> Any:
    return x / 2 * (1 + erf(x / np.sqrt(2)))


@pytest.fixture(scope="module")
def heard(weights: Mapping[str, Any]) -> dict[str, Any]:
    """What the encoder's graph gives for two recordings."""
    session = open_session(graph.encoder(weights).SerializeToString())
    names = [spec.name for spec in session.outputs]
    assert tuple(names) == graph.cross_names(LAYERS)
    return dict(zip(names, session.run({"input_features": features()}, names), strict=True))


def features() -> Any:
    random = np.random.default_rng(1)
    return random.standard_normal((2, graph.MELS, graph.FRAMES)).astype(np.float32)


class Decoder:
    """The decoder's graph; each run gives logits and what it remembers."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self.session = open_session(graph.decoder(weights).SerializeToString())
        self.names = [spec.name for spec in self.session.outputs]

    def __call__(
        self, tokens: Any, heard: Mapping[str, Any], past: Any = None, mask: Any = None, at: Any = 0
    ) -> tuple[Any, dict[str, Any]]:
        rows, count = np.shape(tokens)
        if past is None:
            empty = np.zeros((rows, WIDTH // 64, 0, 64), np.float32)
            parts = [name.removeprefix("cross.") for name in graph.cross_names(LAYERS)]
            past = {f"past_key_values.{part}": empty for part in parts}
        before = next(iter(past.values())).shape[2]
        places = np.arange(count)[None] + np.reshape(at, (-1, 1))
        fed = {
            "input_ids": np.array(tokens, np.int64),
            "position_ids": np.broadcast_to(places, (rows, count)).astype(np.int64).copy(),
            "attention_mask": np.ones((rows, before + count), np.int64) if mask is None else mask,
            "num_logits_to_keep": np.array(count, np.int64),
        }
        outputs = self.session.run({**fed, **past, **heard}, self.names)
        found = dict(zip(self.names, outputs, strict=True))
        logits = found.pop("logits")
        kept = {n.replace("present", "past_key_values"): a for n, a in found.items()}
        return logits, kept


@pytest.fixture(scope="module")
def decoder(weights: Mapping[str, Any]) -> Decoder:
    return Decoder(weights)


def test_both_graphs_compute_what_the_paper_says(
    weights: Mapping[str, Any], heard: dict[str, Any], decoder: Decoder
) -> None:
    reference = Reference(weights)
    tokens = [3, 1, 4, 1, 5]
    logits, _ = decoder([tokens, tokens[::-1]], heard)
    for row, written in enumerate((tokens, tokens[::-1])):
        expected = reference.decode(written, reference.encode(features()[row]))
        assert np.abs(logits[row] - expected).max() < 2e-4


def test_step_by_step_is_as_at_once(heard: dict[str, Any], decoder: Decoder) -> None:
    one = {name: array[:1] for name, array in heard.items()}
    tokens = [7, 8, 9, 10]
    whole, _ = decoder([tokens], one)
    past = None
    for place, token in enumerate(tokens):
        step, past = decoder([[token]], one, past, at=place)
        assert np.abs(step[0, 0] - whole[0, place]).max() < 1e-4


def test_what_is_masked_changes_nothing(heard: dict[str, Any], decoder: Decoder) -> None:
    """Rows of different lengths share a step: the shorter one has a hole before its token."""
    rows = [{name: array[row : row + 1] for name, array in heard.items()} for row in (0, 1)]
    _, long = decoder([[1, 2, 3, 4]], rows[0])
    _, short = decoder([[5, 6]], rows[1])
    hole = ((0, 0), (0, 0), (0, 2), (0, 0))
    joined = {n: np.concatenate([long[n], np.pad(short[n], hole, constant_values=9)]) for n in long}
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 1]], np.int64)
    both, _ = decoder([[11], [12]], heard, joined, mask, at=[4, 2])
    for row, (past, token, place) in enumerate(((long, 11, 4), (short, 12, 2))):
        alone, _ = decoder([[token]], rows[row], past, at=place)
        assert np.abs(both[row] - alone[0]).max() < 1e-4


def test_fewer_logits_are_the_last_ones(heard: dict[str, Any], decoder: Decoder) -> None:
    one = {name: array[:1] for name, array in heard.items()}
    session, names = decoder.session, decoder.names
    whole, past = decoder([[1, 2, 3]], one)
    empty = {name: array[:, :, :0] for name, array in past.items()}
    fed = {
        "input_ids": np.array([[1, 2, 3]]),
        "position_ids": np.array([[0, 1, 2]]),
        "attention_mask": np.ones((1, 3), np.int64),
        "num_logits_to_keep": np.array(1, np.int64),
    }
    logits = session.run({**fed, **empty, **one}, names)[names.index("logits")]
    assert logits.shape == (1, 1, VOCABULARY)
    assert np.abs(logits[0, 0] - whole[0, 2]).max() < 1e-5
