"""What goes before and after a model is what its makers publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from zoo import efficientnet

from aiaas_server.core.describe.card import read_card
from aiaas_server.core.signature import TensorSpec
from aiaas_server.tasks.audio import Sound, encode_wav
from aiaas_server.tasks.pixels import ImageInput, ImageTensor
from aiaas_server.zoo.packages import PackagedFile, fetch
from aiaas_server.zoo.pull import pull

STEPWISE = PackagedFile(
    "silero-vad",
    "6.2.3",
    "silero_vad/data/silero_vad_16k_op15.onnx",
    "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
)


@pytest.mark.parametrize("size", [(427, 640), (640, 427), (256, 256), (100, 90), (300, 257)])
def test_efficientnet_s_pictures(size: tuple[int, int]) -> None:
    settings = ImageInput.model_validate(
        {
            "resize": "shorter",
            "shorter_side": 256,
            "filter": "bicubic",
            "scale": 1,
            "mean": [127] * 3,
            "std": [128] * 3,
        }
    )
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    made, _ = ImageTensor(settings, TensorSpec("image", "FP32", (-1, 3, 224, 224)))(noise)
    published = efficientnet.preprocess(Image.fromarray(noise))
    assert made[0] == pytest.approx(published, abs=1e-6)


@pytest.mark.slow
def test_the_card_of_the_zoo_says_the_same(tmp_path: Path) -> None:
    (done,) = pull("efficientnet-lite0", tmp_path)
    card = read_card((done.path / "model.json").read_bytes())
    settings = ImageInput.model_validate(card.preprocessing)
    assert (settings.resize, settings.shorter_side, settings.filter) == ("shorter", 256, "bicubic")
    assert (settings.scale, settings.mean, settings.std) == (1, (127,) * 3, (128,) * 3)


@pytest.mark.slow
def test_silero_s_two_exports_hear_the_same(open_bundle: Any, tmp_path: Path) -> None:
    for _ in fetch([STEPWISE]):
        pass
    (done,) = pull("silero-vad", tmp_path)
    noise = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
    swelling = noise * np.sin(np.arange(20_000) / 900).astype(np.float32)
    clip = encode_wav(Sound(swelling, 16_000))
    scores = [
        open_bundle(model, {"task": "voice-activity"}).predict(clip, scores=True).scores
        for model in (done.path / "model.onnx", STEPWISE.path)
    ]
    assert len(scores[0]) == 40
    assert scores[0] == pytest.approx(list(scores[1]), abs=2e-6)
