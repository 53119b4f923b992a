"""Whisper tiny.en on a server: known transcripts by OpenAI's client, the SDK and the command."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import Server, serve
from typer.testing import CliRunner

from aiaas_client import Client
from aiaas_client.protocol.predictions import Transcript
from aiaas_server.cli import app
from aiaas_server.tasks.audio import Sound, encode_wav
from aiaas_server.tasks.log_mel import RATE
from aiaas_server.zoo.pull import pull
from tests.recordings import CLIPS, NOISE, joined, recording, word_errors
from tests.waiting import wait_until
from tests.word_errors import main as measure_words

pytestmark = pytest.mark.slow

NAME = "whisper-tiny-en"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    pull(NAME, root)
    return root


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with serve(models) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=300
    ) as client:
        yield client


def transcribe(client: openai.OpenAI, audio: bytes) -> str:
    file = ("talk.wav", audio)
    return client.audio.transcriptions.create(model=NAME, file=file).text


def test_eight_at_once_have_the_known_transcripts(client: openai.OpenAI) -> None:
    clips = (CLIPS * 2)[:8]
    with ThreadPoolExecutor(8) as threads:
        heard = list(threads.map(lambda clip: transcribe(client, recording(clip)), clips))
    assert heard == [clip.heard for clip in clips]


def test_the_word_error_rate_is_told_by_a_command(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, as `Client.local` has it."""
    assert measure_words(["--models", str(models)]) == 0
    *each, told = capsys.readouterr().out.splitlines()
    assert len(each) == len(CLIPS)
    assert told.strip() == "2 of  87 words wrong: word error rate 2.3%"


def test_noise_and_silence_are_an_empty_text(client: openai.OpenAI) -> None:
    assert transcribe(client, recording(NOISE)) == ""
    assert transcribe(client, encode_wav(Sound(np.zeros(5 * RATE, np.float32), RATE))) == ""


def test_a_long_recording_becomes_subtitles(client: openai.OpenAI) -> None:
    sound, times = joined(1, pause=1.2)
    file = ("novel.wav", encode_wav(Sound(sound, RATE)))
    create = client.audio.transcriptions.create
    told = create(model=NAME, file=file, response_format="verbose_json")
    said = " ".join(said for _, _, said in times)
    assert word_errors(said, told.text) / len(said.split()) <= 0.10
    assert told.language == "en"
    assert told.segments is not None
    assert len(told.segments) == len(times)
    for segment, (begin, end, _) in zip(told.segments, times, strict=True):
        assert begin - 0.3 <= segment.start < segment.end <= end + 0.5
        assert -1 < segment.avg_logprob < 0
        assert 0 < segment.no_speech_prob < 0.3
        assert len(segment.tokens) > 3
    subtitles = create(model=NAME, file=file, response_format="srt")
    assert subtitles.count(" --> ") == len(times)


def test_another_language_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="language: expected en or english, got 'de'"):
        client.audio.transcriptions.create(
            model=NAME, file=("a.wav", recording(CLIPS[5])), language="de"
        )


def test_the_sdk_and_the_command_hear_the_same(server: Server, tmp_path: Path) -> None:
    clip = CLIPS[5]
    path = tmp_path / "forward.wav"
    path.write_bytes(recording(clip))
    with Client(server.url) as client:
        heard = client.task(Transcript, NAME).predict(path.read_bytes())
    assert heard.text == clip.heard
    assert heard.segments[0].text == clip.heard
    done = CliRunner().invoke(app, ["predict", NAME, str(path), "--url", server.url])
    assert done.exit_code == 0, done.output
    assert clip.heard in done.stdout


def test_a_caller_that_leaves_takes_its_answers_along(server: Server) -> None:
    sound, times = joined(6, pause=1.0)
    request = httpx2.Request(
        "POST",
        f"{server.url}/v1/audio/transcriptions",
        data={"model": NAME},
        files={"file": ("novel.wav", encode_wav(Sound(sound, RATE)))},
    )
    body = request.read()
    head = f"POST {request.url.path} HTTP/1.1\r\nHost: {request.url.host}\r\n" + "".join(
        f"{name}: {request.headers[name]}\r\n" for name in ("Content-Type", "Content-Length")
    )
    before = told(server, "output_tokens_total")
    with socket.create_connection((request.url.host, request.url.port), timeout=300) as caller:
        caller.sendall(head.encode() + b"\r\n" + body)
        wait_until(lambda: told(server, "running") > 0, "nothing was written")
    wait_until(lambda: told(server, "running") + told(server, "waiting") == 0, "it goes on")
    written = told(server, "output_tokens_total") - before
    assert written < sum(len(said.split()) for _, _, said in times) / 2, "it was written to the end"


def told(server: Server, name: str) -> float:
    """A metric of the model that writes; 0 before it is there."""
    with httpx2.Client(timeout=300) as caller:
        page = caller.get(f"{server.url}/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == f"aiaas_generation_{name}"
        and sample.labels.get("model") == f"{NAME}-decoder"
    )
