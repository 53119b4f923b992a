"""Text becomes the sound its voice's own package makes of it."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.tasks.text_to_speech import TextToSpeech, _parts
from aiaas_server.zoo.pull import pull

CARD = {"task": "text-to-speech", "postprocessing": {"engine": "hibari"}}
TEXT = "Hey Jarvis! What is the weather today?"


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pull("hibari", tmp_path_factory.mktemp("models"))[0].path / "model.onnx"


@pytest.mark.slow
def test_the_sound_is_the_package_s_own(open_bundle: Any, voice: Path) -> None:
    from hibari import Hibari

    speech = open_bundle(voice, CARD).predict(TEXT)
    samples, rate = soundfile.read(io.BytesIO(speech.audio), dtype="float32")
    assert (rate, speech.sample_rate, len(samples)) == (24_000, 24_000, 80_400)
    assert speech.duration == pytest.approx(3.35)
    expected = Hibari()(TEXT, seed=0)
    assert samples == pytest.approx(np.clip(expected, -1, 1), abs=2e-3)


@pytest.mark.slow
def test_speed_and_seed(open_bundle: Any, voice: Path) -> None:
    bundle = open_bundle(voice, CARD)
    assert bundle.predict("One two three.", speed=2.0).duration < 0.6 * (
        bundle.predict("One two three.").duration
    )
    same = [bundle.predict("One.", seed=seed).audio for seed in (3, 3, 4)]
    assert same[0] == same[1] != same[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "the text is empty", id="empty"),
        pytest.param(" \n", "the text is empty", id="blank"),
        pytest.param("?!...", "nothing in it that this voice can speak", id="signs"),
        pytest.param("你好", "nothing in it that this voice can speak", id="another language"),
        pytest.param("a" * 5001, "has 5,001 characters, at most 5,000", id="long"),
        pytest.param(7, "expected a text to speak, got int", id="number"),
    ],
)
def test_what_cannot_be_spoken_is_said(
    open_bundle: Any, voice: Path, text: Any, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        open_bundle(voice, CARD).predict(text)


def test_another_model_is_refused_at_load(open_bundle: Any, onnx_models: Any) -> None:
    with pytest.raises(LoadFailed, match=r"engine 'hibari' needs inputs 'ids' and 'speed'"):
        open_bundle(onnx_models.identity(), CARD)


def test_a_long_sentence_is_cut_at_spaces() -> None:
    assert list(_parts("aa bb cc dd", 5)) == ["aa", "bb", "cc dd"]
    assert list(_parts("aaaaaaa", 3)) == ["aaa", "aaa", "a"]
    assert list(_parts("", 3)) == []


class Stumbles:
    """An engine whose package fails on a text."""

    rate = 24_000

    def sentences(self, text: str) -> list[dict[str, Any]]:
        raise IndexError("list index out of range")

    def sound(self, outputs: Any, noise: Any) -> Any:
        raise AssertionError("nothing to make a sound of")


class OwnThread:
    async def thread(self, function: Any, *args: Any) -> Any:
        return function(*args)


def test_a_text_that_the_voice_s_package_stumbles_over_is_told() -> None:
    task = TextToSpeech(Stumbles(), 1000)
    run: Any = OwnThread()
    with pytest.raises(InvalidInput, match="cannot be spoken: IndexError: list index out of range"):
        asyncio.run(task.predict("1" * 300, task.params(), run))
