"""Tiny models that hear and speak: what they answer follows from how they are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from aiaas_server.tasks.audio import Sound, encode_wav
from aiaas_server.tasks.log_mel import RATE
from aiaas_server.tasks.text_to_speech import SPECTRA
from tests.graphs import model, value
from tests.task_bundles import write_bundle

SIGNS = ["<pad>", "|", "A", "B", "C"]


def spelling_model() -> bytes:
    """The level of each 10 ms, in tenths, is the number of a sign."""
    nodes = [
        helper.make_node("Reshape", ["input_values", "frames"], ["cut"]),
        helper.make_node("ReduceMean", ["cut"], ["level"], axes=[2], keepdims=1),
        helper.make_node("Sub", ["level", "levels"], ["off"]),
        helper.make_node("Mul", ["off", "off"], ["square"]),
        helper.make_node("Mul", ["square", "sharp"], ["logits"]),
    ]
    return model(
        nodes,
        [value("input_values", ["batch", "samples"])],
        [value("logits", ["batch", "steps", len(SIGNS)])],
        frames=np.array([1, -1, 160], np.int64),
        levels=np.arange(len(SIGNS), dtype=np.float32)[None, None] / 10,
        sharp=np.float32(-5000),
    )


def spelled(signs: str) -> bytes:
    """A recording for the model above: each sign 30 ms, `_` the blank."""
    numbers = [0 if sign == "_" else SIGNS.index(sign) for sign in signs]
    levels = np.repeat(np.array(numbers, np.float32) / 10, 480)
    return encode_wav(Sound(levels, RATE))


def recognition(**preprocessing: Any) -> dict[str, Any]:
    return {
        "task": "automatic-speech-recognition",
        "preprocessing": {"normalize": False, **preprocessing},
        "postprocessing": {"kind": "ctc", "vocabulary": "vocab.json"},
    }


def speaking_model() -> bytes:
    """Four frames of 12.5 ms a sound at speed 1, all of them the same noise."""
    nodes = [
        helper.make_node("Size", ["ids"], ["count"]),
        helper.make_node("Cast", ["count"], ["sounds"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sounds", "four"], ["length"]),
        helper.make_node("Div", ["length", "speed"], ["slower"]),
        helper.make_node("Cast", ["slower"], ["frames"], to=TensorProto.INT64),
        helper.make_node("Concat", ["bands", "frames"], ["shape"], axis=0),
        helper.make_node("Concat", ["one", "frames"], ["flat"], axis=0),
        *(helper.make_node("ConstantOfShape", ["shape"], [name]) for name in SPECTRA[:-1]),
        helper.make_node("ConstantOfShape", ["flat"], [SPECTRA[-1]]),
    ]
    return model(
        nodes,
        [value("ids", [1, "sounds"], TensorProto.INT64), value("speed", [1])],
        [
            *(value(name, [1, 601, "frames"]) for name in SPECTRA[:-1]),
            value(SPECTRA[-1], [1, "frames"]),
        ],
        four=np.float32(4),
        bands=np.array([1, 601], np.int64),
        one=np.array([1], np.int64),
    )


def write_speech(root: Path) -> Path:
    """`speller` writes down the recordings of `spelled`; `voice` speaks."""
    files = {"vocab.json": json.dumps(SIGNS).encode()}
    write_bundle(root, "speller", recognition(), spelling_model(), files)
    card = {"task": "text-to-speech", "postprocessing": {"engine": "hibari"}}
    write_bundle(root, "voice", card, speaking_model())
    (root / "voice" / "config.json").write_text('{"max_batch_size": 0}')
    return root
