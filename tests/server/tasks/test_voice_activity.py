"""Stretches of sound from scores, whole and in pieces, on models that answer the loudness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.tasks.audio import Sound, encode_wav
from tests.graphs import model, value

RATE = 16_000
CARD = {"task": "voice-activity"}


def loudness_by_block() -> bytes:
    """Score of a frame: its loudest sample. The memory counts the frames in `hn`."""
    nodes = [
        helper.make_node("Abs", ["input"], ["loud"]),
        helper.make_node("ReduceMax", ["loud"], ["speech_probs"], axes=[1], keepdims=0),
        helper.make_node("Shape", ["input"], ["shape"], start=0, end=1),
        helper.make_node("Cast", ["shape"], ["frames"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["h", "frames"], ["hn"]),
        helper.make_node("Identity", ["c"], ["cn"]),
    ]
    memory = [1, 1, 128]
    inputs = [value("input", ["frames", 576]), value("h", memory), value("c", memory)]
    outputs = [value("speech_probs", ["frames"]), value("hn", memory), value("cn", memory)]
    return model(nodes, inputs, outputs)


def loudness_by_frame() -> bytes:
    """The same one frame a run; the memory counts the frames."""
    nodes = [
        helper.make_node("Abs", ["input"], ["loud"]),
        helper.make_node("ReduceMax", ["loud"], ["output"], axes=[1], keepdims=1),
        helper.make_node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["rate", "unit"], ["one"]),
        helper.make_node("Add", ["state", "one"], ["stateN"]),
    ]
    inputs = [
        value("input", ["batch", 576]),
        value("state", [2, "batch", 128]),
        value("sr", [], TensorProto.INT64),
    ]
    outputs = [value("output", ["batch", 1]), value("stateN", [2, "batch", 128])]
    return model(nodes, inputs, outputs, unit=np.float32(RATE))


MODELS = [
    pytest.param(loudness_by_block(), id="many frames a run"),
    pytest.param(loudness_by_frame(), id="one frame a run"),
]


def sound(*parts: tuple[float, float]) -> np.ndarray:
    """Seconds of a constant level each."""
    pieces = [np.full(round(seconds * RATE), level, np.float32) for seconds, level in parts]
    return np.concatenate(pieces)


def wav(samples: np.ndarray) -> bytes:
    return encode_wav(Sound(samples, RATE))


def edges(prediction: Any) -> list[tuple[float, float]]:
    return [(segment.start, segment.end) for segment in prediction.segments]


CLIP = sound((0.5, 0), (0.4, 0.8), (0.5, 0), (0.4, 0.9), (0.3, 0))


@pytest.mark.parametrize("content", MODELS)
def test_two_stretches_are_found_with_their_margins(open_bundle: Any, content: bytes) -> None:
    found = open_bundle(content, CARD).predict(wav(CLIP))
    assert found.duration == pytest.approx(2.1)
    (a, b), (c, d) = edges(found)
    assert a == pytest.approx(0.5 - 0.03, abs=0.032)
    assert b == pytest.approx(0.9 + 0.03, abs=0.04)
    assert c == pytest.approx(1.4 - 0.03, abs=0.032)
    assert d == pytest.approx(1.8 + 0.03, abs=0.04)
    assert [round(s.score, 2) for s in found.segments] == [0.8, 0.9]
    assert found.scores == ()
    assert found.state == ""


@pytest.mark.parametrize("content", MODELS)
@pytest.mark.parametrize("piece", [100, 511, 512, 5000, 20_000])
def test_a_stream_hears_what_the_whole_has(open_bundle: Any, content: bytes, piece: int) -> None:
    bundle = open_bundle(content, CARD)
    whole = bundle.predict(wav(CLIP[: 65 * 512]), scores=True)
    scores: list[float] = []
    params: dict[str, Any] = {"stream": True}
    stretches: dict[float, float] = {}
    if piece == 100 and content == MODELS[1].values[0]:
        piece = 1000  # as telling, and a tenth of the runs
    for begin in range(0, 65 * 512, piece):
        part = bundle.predict(
            wav(CLIP[begin : min(begin + piece, 65 * 512)]), scores=True, **params
        )
        scores += part.scores
        stretches |= dict(edges(part))
        params = {"state": part.state}
    assert scores == pytest.approx(list(whole.scores), abs=1e-5)
    assert part.duration == pytest.approx(whole.duration)
    assert list(stretches) == pytest.approx([start for start, _ in edges(whole)], abs=0.04)
    assert list(stretches.values()) == pytest.approx([e for _, e in edges(whole)], abs=0.04)


@pytest.mark.parametrize("content", MODELS)
def test_the_memory_travels_in_the_state(open_bundle: Any, content: bytes) -> None:
    from aiaas_server.tasks.voice_activity import StreamState, VoiceInput

    bundle = open_bundle(content, CARD)
    first = bundle.predict(wav(CLIP[:1024]), stream=True)
    second = bundle.predict(wav(CLIP[:1500]), state=first.state)
    stream = StreamState.from_text(second.state, VoiceInput())
    assert stream.memory[0] == 4  # frames heard
    assert stream.heard == 2048
    assert len(stream.rest) == 1500 - 1024


def test_short_stretches_are_dropped_and_short_pauses_bridged(open_bundle: Any) -> None:
    bundle = open_bundle(loudness_by_block(), CARD)
    blip = sound((0.5, 0), (0.1, 0.9), (0.5, 0))
    assert edges(bundle.predict(wav(blip))) == []
    halting = sound((0.3, 0.9), (0.05, 0), (0.3, 0.9))
    assert len(edges(bundle.predict(wav(halting)))) == 1
    # Between the two thresholds a stretch goes on but does not begin.
    fading = sound((0.3, 0.4), (0.3, 0.9), (0.5, 0.4), (0.4, 0))
    ((start, end),) = edges(bundle.predict(wav(fading)))
    assert start == pytest.approx(0.3, abs=0.07)
    assert end == pytest.approx(1.1, abs=0.07)


def test_the_threshold_is_the_caller_s(open_bundle: Any) -> None:
    bundle = open_bundle(loudness_by_block(), CARD)
    assert len(edges(bundle.predict(wav(CLIP), threshold=0.85))) == 1
    assert edges(bundle.predict(wav(CLIP), threshold=0.95)) == []


@pytest.mark.parametrize(
    "state",
    ["x", "AAAA", "A" * 8000, "not base64!", "é"],
    ids=["short", "bytes", "too long", "text", "accent"],
)
def test_a_state_that_is_none_is_refused(open_bundle: Any, state: str) -> None:
    with pytest.raises(InvalidInput, match=r"params.state: expected the `state` of the stream"):
        open_bundle(loudness_by_block(), CARD).predict(wav(CLIP), state=state)


def test_a_model_of_another_kind_is_refused_at_load(open_bundle: Any, onnx_models: Any) -> None:
    with pytest.raises(LoadFailed, match=r"needs inputs 'input', 'state' .* got x"):
        open_bundle(onnx_models.identity(), CARD)
