"""Recordings to text by a model that writes: windows, the gate for silence, loops, languages."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import soundfile
from onnx import helper

from aiaas_client.protocol.predictions import Transcript
from aiaas_server.core.describe.card import Assets, Card
from aiaas_server.core.errors import InvalidInput, LoadFailed, ModelNotFound, QueueFull
from aiaas_server.core.generation import Ask, Chance, Piece, Told
from aiaas_server.core.signature import Signature
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.tasks import Tasks
from aiaas_server.tasks.audio import Sound, encode_wav
from aiaas_server.tasks.log_mel import RATE
from tests.graphs import model, value
from tests.writing_run import WritingRun, Written

WORDS = ["<end>", "<begin>", "<before>", "<silence>", "<unk>", "low", "high", "la"]
END, BEGIN, BEFORE, SILENCE = range(4)
SECONDS = 3  # of a window


def tokenizer() -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(WORDS[:5])
    return made.to_str().encode()


def encoder() -> bytes:
    """`cross` (batch, 2): how much sound there is in the lower and in the upper bands."""
    nodes = [
        helper.make_node("Exp", ["input_features"], ["loudness"]),
        helper.make_node("ReduceMean", ["loudness"], ["bands"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["bands", "halves"], ["cross"]),
    ]
    halves = np.zeros((80, 2), np.float32)
    halves[:40, 0] = halves[40:, 1] = 1
    return model(
        nodes,
        [value("input_features", ["batch", 80, SECONDS * 100])],
        [value("cross", ["batch", 2])],
        halves=halves,
    )


def card(**postprocessing: Any) -> dict[str, Any]:
    return {
        "task": "automatic-speech-recognition",
        "preprocessing": {"features": "log-mel", "window": SECONDS, "enough": 1, "max_seconds": 60},
        "postprocessing": {
            "kind": "generation",
            "decoder": "writer",
            "begin": [BEGIN],
            "previous": BEFORE,
            "no_speech": {"token": SILENCE},
            "languages": ["en", "english"],
            "temperatures": [0, 0.5],
            **postprocessing,
        },
    }


Script = Callable[[Ask], Written]


def said(*words: str, logprob: float = -0.1, silence: float = 0.0) -> Written:
    """These words, one a piece, and the end."""
    tokens = [*(WORDS.index(word) for word in words), END]

    def pieces() -> Iterator[Piece]:
        for token in tokens:
            told = (Told(Chance(token, b"", logprob), ()),)
            yield Piece("", (token,), told, "stop" if token == END else None)

    return Written(pieces(), [silence])


def hears_pitch(ask: Ask) -> Written:
    """`low` or `high`, after what the encoder made of the sound."""
    return said("low" if ask.constants["cross"].argmax() == 0 else "high")


class Recogniser:
    """The task over its encoder, with a writer that is told what to say."""

    def __init__(self, write: Script, tasks: Mapping[str, Any] | None = None, **settings: Any):
        read = Card.model_validate(card(**settings))
        session = open_session(encoder())
        signature = Signature("bundle", session.inputs, session.outputs)
        assets = Assets({"tokenizer.json": tokenizer()}.__getitem__, {})
        self.task: Any = Tasks().open(read, assets, signature, session.metadata)
        self.asked: list[Ask] = []
        self.answers: list[Written] = []
        self.write = write
        self.run = WritingRun({"": session}, {"writer": self._write}, tasks)

    def _write(self, ask: Ask) -> Written:
        self.asked.append(ask)
        self.answers.append(self.write(ask))
        return self.answers[-1]

    def __call__(self, samples: Any, **params: Any) -> Transcript:
        checked = self.task.params.model_validate(params)
        audio = samples if isinstance(samples, bytes) else encode_wav(Sound(samples, RATE))
        heard: Transcript = asyncio.run(self.task.predict(audio, checked, self.run))
        return heard


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def test_each_stretch_is_a_segment_with_its_times_in_order() -> None:
    recogniser = Recogniser(hears_pitch)
    tones = [300, 5000, 400, 6000, 300, 350, 5500, 200, 7000, 250]
    clip = np.concatenate([part for hertz in tones for part in (tone(hertz), silence(1))])
    heard = recogniser(clip)
    expected = ["low" if hertz < 1000 else "high" for hertz in tones]
    assert heard.text == " ".join(expected)
    assert [segment.text for segment in heard.segments] == expected
    assert heard.duration == len(tones) * 2
    assert heard.language == "en"
    for place, segment in enumerate(heard.segments):
        assert segment.start == pytest.approx(2 * place - (0.2 if place else 0), abs=0.03)
        assert segment.end == pytest.approx(2 * place + 1.2, abs=0.03)
        assert segment.avg_logprob == pytest.approx(-0.1)
        assert segment.score == pytest.approx(np.exp(-0.1))
        assert len(segment.tokens) == 2
    assert all(answer.cancelled for answer in recogniser.answers), "each is let go of"


def test_the_writer_gets_what_was_heard_and_how_to_begin() -> None:
    recogniser = Recogniser(hears_pitch, max_new_tokens=9)
    recogniser(tone(300))
    (ask,) = recogniser.asked
    assert ask.tokens == (BEGIN,)
    assert ask.probe == (SILENCE,)
    assert ask.max_tokens == 9
    assert ask.sampling.temperature == 0
    assert ask.constants["cross"].shape == (2,), "without the batch dimension"


@pytest.mark.parametrize("seconds", [0.05, 2.0, 40.0])
def test_silence_is_an_empty_text_and_nothing_is_run(seconds: float) -> None:
    recogniser = Recogniser(hears_pitch)
    heard = recogniser(silence(seconds))
    assert (heard.text, heard.segments) == ("", ())
    assert heard.duration == pytest.approx(seconds)
    assert recogniser.asked == []


def test_what_is_probably_no_speech_is_left_out_and_not_written_on() -> None:
    def noise(ask: Ask) -> Written:
        return said("la", "la", silence=0.7 if ask.constants["cross"].argmax() else 0.1)

    recogniser = Recogniser(noise)
    heard = recogniser(np.concatenate([tone(300), silence(1), tone(6000)]))
    assert [segment.text for segment in heard.segments] == ["la la"]
    assert heard.segments[0].no_speech_prob == pytest.approx(0.1)
    assert sorted(answer.completion_tokens for answer in recogniser.answers) == [1, 3]
    assert Recogniser(noise, no_speech=None)(tone(6000)).text == "la la"


def test_a_loop_is_written_once_more_and_more_freely() -> None:
    def loops(ask: Ask) -> Written:
        return said(*["la"] * 60) if ask.sampling.temperature == 0 else said("low", "high")

    recogniser = Recogniser(loops)
    assert recogniser(tone(300)).text == "low high"
    assert [ask.sampling.temperature for ask in recogniser.asked] == [0, 0.5]
    assert {ask.sampling.seed for ask in recogniser.asked} == {0}, "the same text each time"
    assert Recogniser(loops, temperatures=[0])(tone(300)).text == " ".join(["la"] * 60)


def test_mere_guessing_is_written_once_more_and_the_last_try_counts() -> None:
    def guesses(ask: Ask) -> Written:
        return said("la" if ask.sampling.temperature == 0 else "high", logprob=-1.5)

    recogniser = Recogniser(guesses)
    heard = recogniser(tone(300))
    assert heard.text == "high"
    assert heard.segments[0].avg_logprob == pytest.approx(-1.5)
    assert len(recogniser.asked) == 2


def test_a_caller_s_temperature_is_the_only_one() -> None:
    recogniser = Recogniser(lambda ask: said("la", logprob=-3.0))
    recogniser(tone(300), temperature=0.3)
    assert [ask.sampling.temperature for ask in recogniser.asked] == [0.3]


def test_a_prompt_stands_before_the_text_cut_from_the_left() -> None:
    recogniser = Recogniser(hears_pitch, most_previous=2)
    assert recogniser(tone(300), prompt="la low high").text == "low"
    (ask,) = recogniser.asked
    assert ask.tokens == (BEFORE, WORDS.index("low"), WORDS.index("high"), BEGIN)
    assert ask.probe == (), "there silence is not asked for"
    recogniser(tone(300), prompt="  ")
    assert recogniser.asked[-1].tokens == (BEGIN,)
    with pytest.raises(InvalidInput, match="prompt: this model takes none"):
        Recogniser(hears_pitch, previous=None)(tone(300), prompt="la")


def test_another_language_is_refused_before_anything_is_heard() -> None:
    recogniser = Recogniser(hears_pitch)
    assert recogniser(tone(300), language="English").text == "low"
    with pytest.raises(InvalidInput, match="language: expected en or english, got 'de'"):
        recogniser(b"no recording", language="de")
    assert Recogniser(hears_pitch, languages=[])(tone(300), language="de").language == ""


def test_a_recording_of_ten_hours_is_refused_by_its_header() -> None:
    recogniser = Recogniser(hears_pitch)
    with pytest.raises(InvalidInput, match=r"too long: 61\.0 s, at most 60 s are accepted"):
        recogniser(silence(61))
    file = io.BytesIO()
    soundfile.write(file, silence(0.1), RATE, format="FLAC")
    content = bytearray(file.getvalue())
    word = int.from_bytes(content[18:26], "big")  # rate, channels, bits, 36 bits of samples
    content[18:26] = (word >> 36 << 36 | 10 * 3600 * RATE).to_bytes(8, "big")
    with pytest.raises(InvalidInput, match=r"too long: 36000\.0 s, at most 60 s are accepted"):
        recogniser(bytes(content))


def test_a_window_that_has_been_heard_waits_for_room_to_be_written_down() -> None:
    refused = iter([QueueFull("no room"), QueueFull("no room")])

    def full(ask: Ask) -> Written:
        for error in refused:
            raise error
        return hears_pitch(ask)

    recogniser = Recogniser(full)
    assert recogniser(tone(5000)).text == "high"
    assert len(recogniser.asked) == 3


def test_a_writer_that_is_not_there_is_named() -> None:
    recogniser = Recogniser(hears_pitch, decoder="nobody")
    with pytest.raises(ModelNotFound, match="'nobody'"):
        recogniser(tone(300))


def test_an_error_ends_the_whole_and_lets_go_of_what_was_begun() -> None:
    def fails(ask: Ask) -> Written:
        def pieces() -> Iterator[Piece]:
            yield Piece("", (WORDS.index("la"),), ())
            raise InvalidInput("the writer broke off")

        return Written(pieces())

    recogniser = Recogniser(fails)
    clip = np.concatenate([part for _ in range(4) for part in (tone(300), silence(1))])
    with pytest.raises(InvalidInput, match="the writer broke off"):
        recogniser(clip)
    assert all(answer.cancelled for answer in recogniser.answers)


def test_the_card_s_settings_are_checked_by_name(open_version: Any) -> None:
    files = {"tokenizer.json": tokenizer()}
    with pytest.raises(LoadFailed, match=r"postprocessing: unknown key 'beams'; known: kind"):
        open_version(encoder(), card(beams=3), files)
    with pytest.raises(LoadFailed, match=r"postprocessing: 'begin'"):
        open_version(encoder(), card(begin=[]), files)
    with pytest.raises(LoadFailed, match=r"asset 'tokenizer.json' is missing"):
        open_version(encoder(), card())
