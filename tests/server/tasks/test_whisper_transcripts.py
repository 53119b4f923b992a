"""Whisper tiny.en, as pulled, on packaged recordings: known transcripts, and how many are wrong.

The decoder writes by the book here (`tests/writing_run.py`); over the server's own engine the same
is asked in `tests/test_speech_served.py`.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.predictions import Transcript
from aiaas_server.core.describe.card import Assets, read_card
from aiaas_server.core.signature import Signature
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.tasks import Tasks
from aiaas_server.tasks.audio import Sound, decode_audio, encode_wav
from aiaas_server.tasks.log_mel import RATE
from aiaas_server.zoo.pull import Pulled, pull
from tests.recordings import CLIPS, NOISE, joined, recording, word_errors
from tests.word_errors import listen
from tests.writing_run import PlainWriter, WritingRun

pytestmark = pytest.mark.slow

NAME = "whisper-tiny-en"


@pytest.fixture(scope="module")
def transcribe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`transcribe(audio, **params)` by the bundles as they are pulled."""
    pulled = pull(NAME, tmp_path_factory.mktemp("models"))
    sessions = {one.name: open_session(one.path / "model.onnx") for one in pulled}
    cards = {one.name: read_card((one.path / "model.json").read_bytes()) for one in pulled}
    tasks = {one.name: _task(one, sessions[one.name]) for one in pulled}
    generation: Any = cards[f"{NAME}-decoder"].generation
    writer = PlainWriter(sessions[f"{NAME}-decoder"], generation)
    task = tasks[NAME]
    run = WritingRun(sessions, {f"{NAME}-decoder": writer}, tasks, name=NAME)

    def ask(audio: bytes, **params: Any) -> Transcript:
        checked = task.params.model_validate(params)
        heard: Transcript = asyncio.run(task.predict(audio, checked, run))
        return heard

    return ask


def _task(pulled: Pulled, session: Any) -> Any:
    card = read_card((pulled.path / "model.json").read_bytes())
    assets = Assets(lambda name: (pulled.path / name).read_bytes(), card.assets)
    signature = Signature(pulled.name, session.inputs, session.outputs)
    return Tasks().open(card, assets, signature, session.metadata)


@pytest.mark.parametrize("clip", CLIPS, ids=[clip.name for clip in CLIPS])
def test_a_recording_has_its_known_transcript(transcribe: Any, clip: Any) -> None:
    assert transcribe(recording(clip)).text == clip.heard


def test_two_words_are_heard_wrong(transcribe: Any) -> None:
    found = list(listen(lambda audio: str(transcribe(audio).text)))
    assert (sum(one.wrong for one in found), sum(one.words for one in found)) == (2, 87)


def test_noise_and_silence_are_an_empty_text(transcribe: Any) -> None:
    heard = transcribe(recording(NOISE))
    assert (heard.text, heard.segments) == ("", ())
    quiet = encode_wav(Sound(np.zeros(40 * RATE, np.float32), RATE))
    assert transcribe(quiet).text == ""


def test_a_long_recording_is_cut_at_pauses_and_its_segments_have_times(transcribe: Any) -> None:
    """Five sentences with a second between them, again and again: over a minute."""
    sound, times = joined(2, pause=1.0)
    assert len(sound) > 55 * RATE
    heard = transcribe(encode_wav(Sound(sound, RATE)))
    said = " ".join(said for _, _, said in times)
    assert word_errors(said, heard.text) / len(said.split()) <= 0.10
    assert all(a.end <= b.start for a, b in zip(heard.segments, heard.segments[1:], strict=False))
    assert all(segment.end - segment.start <= 30 for segment in heard.segments)
    for begin, end, _ in times:
        middle = (begin + end) / 2
        assert any(segment.start <= middle <= segment.end for segment in heard.segments)


def test_every_clip_is_heard_the_same_each_time(transcribe: Any) -> None:
    clip = recording(CLIPS[0])
    assert transcribe(clip) == transcribe(clip)


def test_a_prompt_is_taken(transcribe: Any) -> None:
    heard = transcribe(recording(CLIPS[0]), prompt="Sense and Sensibility, by Jane Austen.")
    assert word_errors(CLIPS[0].said, heard.text) <= 2


def test_the_card_is_small_enough_to_be_read(tmp_path: Path) -> None:
    decoder = next(one for one in pull(NAME, tmp_path) if one.name.endswith("decoder"))
    card = json.loads((decoder.path / "model.json").read_text("utf-8"))
    assert card["generation"]["end"] == [50256]
    assert 50256 not in card["generation"]["suppress"]
    assert decode_audio  # the same decoder that the server has
