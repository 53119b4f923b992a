"""Moments of a phrase, on helpers that measure loudness and a head that wants all of it loud."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.tasks.audio import Sound, encode_wav
from tests.graphs import model, value

RATE = 16_000
CARD = {
    "task": "keyword-spotting",
    "labels": ["loud"],
    "preprocessing": {
        "mel": {"model": "mel", "input": "samples"},
        "embedding": {"model": "embedding", "input": "frames"},
        "amplitude": 1,
        "mel_scale": 1,
        "mel_shift": 0,
        "window": 10,
        "hop": 5,
    },
}


def mel() -> bytes:
    """The mean level of every 10 ms, in both of two bands."""
    nodes = [
        helper.make_node("Reshape", ["samples", "cut"], ["frames"]),
        helper.make_node("ReduceMean", ["frames"], ["level"], axes=[3], keepdims=1),
        helper.make_node("Concat", ["level", "level"], ["bands"], axis=3),
    ]
    cut = np.array([1, 1, -1, 160], np.int64)
    return model(nodes, [value("samples", ["n", "s"])], [value("bands", [1, 1, "t", 2])], cut=cut)


def embedding() -> bytes:
    """The quietest frame of each window."""
    node = helper.make_node("ReduceMin", ["frames"], ["vector"], axes=[1], keepdims=1)
    return model([node], [value("frames", ["n", 10, 2, 1])], [value("vector", ["n", 1, 2, 1])])


def head(batch: Any = 1) -> bytes:
    """The quietest of the last three vectors."""
    node = helper.make_node("ReduceMin", ["vectors"], ["score"], axes=[1, 2], keepdims=1)
    nodes = [node, helper.make_node("Flatten", ["score"], ["flat"])]
    return model(nodes, [value("vectors", [batch, 3, 2])], [value("flat", [batch, 1])])


HELPERS = {"mel": mel(), "embedding": embedding()}


def clip(*parts: tuple[float, float]) -> bytes:
    pieces = [np.full(round(seconds * RATE), level, np.float32) for seconds, level in parts]
    return encode_wav(Sound(np.concatenate(pieces), RATE))


@pytest.mark.parametrize("batch", [1, "n"], ids=["one step a run", "all steps in one run"])
def test_a_phrase_is_found_where_it_has_been_heard(open_bundle: Any, batch: Any) -> None:
    bundle = open_bundle(head(batch), CARD, {}, HELPERS)
    # The head judges 200 ms: what lasts 500 ms from 1.0 s on is known from 1.2 s to 1.5 s.
    heard = bundle.predict(clip((1, 0), (0.5, 0.9), (1, 0)), scores=True)
    (segment,) = heard.segments
    assert segment.label == "loud"
    assert segment.start == pytest.approx(1.2, abs=0.051)
    assert segment.end == pytest.approx(1.5, abs=0.051)
    assert segment.score == pytest.approx(0.9, abs=0.01)
    assert heard.frame == pytest.approx(0.05)
    assert len(heard.scores) * heard.frame == pytest.approx(heard.duration, abs=0.11)


def test_a_phrase_at_the_very_beginning_and_one_at_the_end(open_bundle: Any) -> None:
    bundle = open_bundle(head(), CARD, {}, HELPERS)
    assert len(bundle.predict(clip((0.3, 0.9), (1, 0))).segments) == 1
    assert len(bundle.predict(clip((1, 0), (0.3, 0.9))).segments) == 1
    assert len(bundle.predict(clip((0.3, 0.9), (1, 0), (0.3, 0.8))).segments) == 2


def test_too_short_or_too_soft_is_no_phrase(open_bundle: Any) -> None:
    bundle = open_bundle(head(), CARD, {}, HELPERS)
    assert bundle.predict(clip((1, 0), (0.1, 0.9), (1, 0))).segments == ()
    soft = clip((1, 0), (0.5, 0.4), (1, 0))
    assert bundle.predict(soft).segments == ()
    assert len(bundle.predict(soft, threshold=0.3).segments) == 1


def test_bad_sound_and_wrong_cards_are_told(open_bundle: Any, onnx_models: Any) -> None:
    with pytest.raises(InvalidInput, match="the audio is not a WAV"):
        open_bundle(head(), CARD, {}, HELPERS).predict(b"text")
    with pytest.raises(LoadFailed, match="the card names 2, output 'flat' has 1"):
        open_bundle(head(), {**CARD, "labels": ["a", "b"]}, {}, HELPERS)
    with pytest.raises(LoadFailed, match=r"a head takes one input \(n, steps, width\)"):
        open_bundle(onnx_models.identity(), CARD)
    with pytest.raises(LoadFailed, match="preprocessing: 'mel' is missing"):
        open_bundle(head(), {**CARD, "preprocessing": {}})
