"""Forms with recordings become transcripts in five forms, and texts become sound."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from aiaas_client.protocol.predictions import SpokenSegment, Transcript
from aiaas_server.app import create_app
from aiaas_server.http.openai.audio_request import MOST_FIELD
from aiaas_server.http.openai.subtitles import srt, vtt
from aiaas_server.settings import Settings
from tests.server.http.serving import Answer, serving
from tests.speech_models import spelled, write_speech

CLIP = spelled("_AA_A|B__CC_")
TRANSCRIPTIONS, SPEECH = "/v1/audio/transcriptions", "/v1/audio/speech"
BOUNDARY = "----a"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(
    fields: Mapping[str, Any],
    file: bytes | None = CLIP,
    name: str = "talk.wav",
    twice: bool = False,
) -> bytes:
    """A form; a field with a list of values comes as often."""
    parts = []
    for field, values in fields.items():
        for text in values if isinstance(values, list) else [values]:
            head = f'Content-Disposition: form-data; name="{field}"\r\n\r\n'
            parts.append(head.encode() + (text if isinstance(text, bytes) else text.encode()))
    if file is not None:
        head = 'Content-Disposition: form-data; name="file"; filename="talk.wav"\r\n'
        whole = head.encode() + b"Content-Type: audio/wav\r\n\r\n" + file
        parts += [whole, whole] if twice else [whole]
    mark = f"--{BOUNDARY}".encode()
    return b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[httpx2.Client]:
    with (
        serving(create_app(Settings(models=repository))) as server,
        httpx2.Client(base_url=server.url, timeout=300) as client,
    ):
        yield client


async def transcribed(call: Any, **fields: Any) -> Answer:
    answer: Answer = await call("POST", TRANSCRIPTIONS, form({"model": "speller", **fields}), FORM)
    return answer


@pytest.mark.asyncio
@pytest.mark.parametrize("adapter", ["bare", "edge"])
async def test_a_recording_is_told_in_every_form(open_app: Any, repository: Path) -> None:
    call = await open_app(repository)
    answer = await transcribed(call)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    usage = {"type": "duration", "seconds": 0.36}
    assert answer.json() == {"text": "AA BC", "usage": usage}

    text = await transcribed(call, response_format="text")
    assert text.headers["content-type"].startswith("text/plain")
    assert text.body == b"AA BC\n"

    told = (await transcribed(call, response_format="verbose_json")).json()
    (segment,) = told.pop("segments")
    assert told == {
        "text": "AA BC",
        "task": "transcribe",
        "language": "",
        "duration": 0.36,
        "usage": usage,
    }
    assert (segment["id"], segment["seek"], segment["start"]) == (0, 0, 0.0)
    assert (segment["end"], segment["text"]) == (0.36, "AA BC")
    assert -0.2 < segment["avg_logprob"] <= 0
    assert segment["no_speech_prob"] == 0
    assert segment["compression_ratio"] > 0

    srt_answer = await transcribed(call, response_format="srt")
    assert srt_answer.body == b"1\n00:00:00,000 --> 00:00:00,360\nAA BC\n\n"
    vtt_answer = await transcribed(call, response_format="vtt")
    assert vtt_answer.headers["content-type"].startswith("text/vtt")
    assert vtt_answer.body == b"WEBVTT\n\n00:00:00.000 --> 00:00:00.360\nAA BC\n\n"


@pytest.mark.asyncio
async def test_a_form_may_come_in_any_pieces_and_order(open_app: Any, repository: Path) -> None:
    call = await open_app(repository)
    whole = form({"model": "speller", "user": "ignored", "temperature": "0", "stream": "false"})
    for size in (1 << 10, 7, len(whole)):
        pieces = tuple(whole[at : at + size] for at in range(0, len(whole), size))
        answer = await call("POST", TRANSCRIPTIONS, pieces, FORM)
        assert answer.json()["text"] == "AA BC"
    silent = form({"model": "speller"}, spelled("____"))
    assert (await call("POST", TRANSCRIPTIONS, silent, FORM)).json()["text"] == ""
    ok = await transcribed(
        call, response_format="verbose_json", **{"timestamp_granularities[]": ["segment"]}
    )
    assert ok.status == 200


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        pytest.param(
            form({"model": "speller"}, None), 400, "file: expected a recording", id="no file"
        ),
        pytest.param(form({}), 400, "model: expected the name of a model", id="no model"),
        pytest.param(
            form({"model": ["a", "b"]}), 400, "model: expected one field", id="two models"
        ),
        pytest.param(form({"model": "speller"}, twice=True), 400, "one file", id="two files"),
        pytest.param(form({"model": "nobody"}), 404, "'nobody'", id="unknown model"),
        pytest.param(
            form({"model": "voice"}), 400, "'voice' transcribes no recordings", id="another task"
        ),
        pytest.param(
            form({"model": "speller", "response_format": "mp4"}),
            400,
            "response_format: expected json, text, srt, vtt or verbose_json, got 'mp4'",
            id="format",
        ),
        pytest.param(
            form({"model": "speller", "temperature": "nan"}),
            400,
            "temperature: expected 0 to 1, got 'nan'",
            id="temperature",
        ),
        pytest.param(
            form({"model": "speller", "stream": "true"}), 400, "stream: not supported", id="stream"
        ),
        pytest.param(
            form({"model": "speller", "include[]": "logprobs"}),
            400,
            "include[]: not supported, got 'logprobs'",
            id="logprobs",
        ),
        pytest.param(
            form({"model": "speller", "timestamp_granularities[]": ["segment", "word"]}),
            400,
            "timestamp_granularities[]: expected 'segment', got 'word'",
            id="words",
        ),
        pytest.param(
            form({"model": "speller", "timestamp_granularities[]": ["segment"]}),
            400,
            "expected response_format 'verbose_json', got 'json'",
            id="times of nothing",
        ),
        pytest.param(
            form({"model": "speller", "prompt": "x" * (MOST_FIELD + 1)}),
            400,
            f"prompt: expected at most {MOST_FIELD} bytes",
            id="long field",
        ),
        pytest.param(form({"model": b"\xff"}), 400, "model: expected UTF-8", id="no text"),
        pytest.param(
            form({"model": "speller", "language": "de"}), 400, "language", id="language of a ctc"
        ),
        pytest.param(
            form({"model": "speller"}, b"GIF89a"), 400, "not a WAV, FLAC or Ogg", id="a picture"
        ),
        pytest.param(form({"model": "speller"}, b""), 400, "the audio is empty", id="empty"),
        pytest.param(form({"model": "speller"}, CLIP[:-99]), 400, "cut off", id="cut off"),
        pytest.param(form({"model": "speller"})[:-9], 400, "last boundary", id="form cut off"),
        pytest.param(b"{}" * 9, 400, "expected the boundary", id="no form"),
    ],
)
def test_what_is_wrong_with_a_form_is_said(
    client: httpx2.Client, body: bytes, status: int, message: str
) -> None:
    answer = client.post(TRANSCRIPTIONS, content=body, headers=FORM)
    assert answer.status_code == status, answer.text
    assert message in json.dumps(answer.json(), ensure_ascii=False)


@pytest.mark.asyncio
async def test_a_recording_beyond_the_limit_is_refused(open_app: Any, repository: Path) -> None:
    call = await open_app(repository, max_audio_bytes=5000)
    whole = form({"model": "speller"})
    announced = {**FORM, "content-length": str(len(whole))}
    for body, headers in ((whole, announced), ((whole[:4000], whole[4000:]), FORM)):
        answer = await call("POST", TRANSCRIPTIONS, body, headers)
        assert answer.status == 413
        assert "at most 5000 bytes (max_audio_bytes)" in json.dumps(answer.json())


def test_another_content_type_is_refused(client: httpx2.Client) -> None:
    answer = client.post(TRANSCRIPTIONS, json={})
    assert answer.status_code == 415
    assert "expected multipart/form-data" in json.dumps(answer.json())


def test_a_text_is_spoken(client: httpx2.Client) -> None:
    ask = {"model": "voice", "input": "Hello there.", "voice": "alloy"}
    answer = client.post(SPEECH, json=ask)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    assert answer.content[:4] == b"RIFF"
    (rate,) = struct.unpack_from("<I", answer.content, 24)
    pcm = client.post(SPEECH, json={**ask, "response_format": "pcm"})
    assert pcm.headers["content-type"] == f"audio/pcm;rate={rate};channels=1"
    assert pcm.content == answer.content[44:]
    assert np.abs(np.frombuffer(pcm.content, "<i2")).max() > 0
    fast = client.post(SPEECH, json={**ask, "response_format": "pcm", "speed": 2})
    assert len(fast.content) < 0.7 * len(pcm.content)
    plain = {**ask, "speed": 1.0, "stream_format": "audio", "instructions": ""}
    assert client.post(SPEECH, json=plain).content == answer.content


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param({"response_format": "mp3"}, "expected wav or pcm, got 'mp3'", id="mp3"),
        pytest.param({"instructions": "whisper"}, "'instructions': not supported", id="manner"),
        pytest.param({"stream_format": "sse"}, "'stream_format': expected 'audio'", id="events"),
        pytest.param(
            {"speed": 5}, "'speed': expected a number from 0.25 to 4, got 5", id="too fast"
        ),
        pytest.param({"speed": 3}, "speed", id="faster than this voice"),
        pytest.param({"speed": True}, "'speed': expected", id="no speed"),
        pytest.param({"input": 7}, "'input': expected a text", id="number"),
        pytest.param({"input": ""}, "the text is empty", id="nothing to say"),
        pytest.param({"voice": 7}, "'voice': expected a text, got 7", id="voice"),
        pytest.param({"model": None}, "'model': expected a text, got nothing", id="no model"),
        pytest.param({"model": "speller"}, "'speller' speaks no texts", id="another task"),
    ],
)
def test_what_cannot_be_spoken_is_said(
    client: httpx2.Client, changed: dict[str, Any], message: str
) -> None:
    ask = {"model": "voice", "input": "Hello.", "voice": "alloy", **changed}
    answer = client.post(SPEECH, json=ask)
    assert answer.status_code == 400
    assert message in json.dumps(answer.json())


def transcript(*segments: tuple[float, float, str]) -> Transcript:
    told = tuple(SpokenSegment(start=a, end=b, label=text) for a, b, text in segments)
    return Transcript(text="", duration=1, segments=told)


def test_subtitles_are_numbered_and_timed() -> None:
    spoken = transcript((0, 1.5, "one"), (3661.0009, 3661.9996, "two\n\n three"))
    assert srt(spoken) == (
        "1\n00:00:00,000 --> 00:00:01,500\none\n\n2\n01:01:01,001 --> 01:01:02,000\ntwo three\n\n"
    )
    assert vtt(spoken).startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\none\n\n")


def test_what_a_player_would_stumble_over_is_mended() -> None:
    spoken = transcript((1, 1, "a --> b"), (2, 3, "  "), (4, 5, "<i>R&D</i>"))
    assert srt(spoken) == (
        "1\n00:00:01,000 --> 00:00:01,001\na -> b\n\n2\n00:00:04,000 --> 00:00:05,000\n"
        "<i>R&D</i>\n\n"
    )
    told = vtt(spoken)
    assert "a -&gt; b" in told
    assert "&lt;i&gt;R&amp;D&lt;/i&gt;" in told
    assert told.count("-->") == 2, "one a cue"
    assert vtt(transcript()) == "WEBVTT\n\n"
    assert srt(transcript()) == ""
