"""The official OpenAI client, unmodified, transcribes and speaks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import soundfile

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import serving
from tests.speech_models import spelled, write_speech

CLIP = ("talk.wav", spelled("_AA_A|B__CC_"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    repository: Path = write_speech(tmp_path_factory.mktemp("models"))
    with serving(create_app(Settings(models=repository))) as server:
        yield f"{server.url}/v1"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_a_recording_is_transcribed(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(model="speller", file=CLIP)
    assert answer.text == "AA BC"
    assert answer.usage is not None
    assert answer.usage.type == "duration"


def test_a_recording_is_for_a_version(client: openai.OpenAI) -> None:
    assert client.audio.transcriptions.create(model="speller@1", file=CLIP).text == "AA BC"
    with pytest.raises(openai.NotFoundError, match="9"):
        client.audio.transcriptions.create(model="speller@9", file=CLIP)


def test_a_file_and_a_path_are_taken_as_well(client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(CLIP[1])
    assert client.audio.transcriptions.create(model="speller", file=path).text == "AA BC"
    with path.open("rb") as file:
        assert client.audio.transcriptions.create(model="speller", file=file).text == "AA BC"


def test_segments_have_times(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        model="speller",
        file=CLIP,
        response_format="verbose_json",
        timestamp_granularities=["segment"],
    )
    assert answer.duration == pytest.approx(0.36)
    assert answer.segments is not None
    (segment,) = answer.segments
    assert (segment.text, segment.start, segment.end) == ("AA BC", 0.0, 0.36)
    assert segment.avg_logprob <= 0


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        pytest.param("text", "AA BC\n", id="text"),
        pytest.param("srt", "1\n00:00:00,000 --> 00:00:00,360\nAA BC\n", id="srt"),
        pytest.param("vtt", "WEBVTT\n\n00:00:00.000", id="vtt"),
    ],
)
def test_texts_come_as_texts(client: openai.OpenAI, form: str, begins: str) -> None:
    answer = client.audio.transcriptions.create(model="speller", file=CLIP, response_format=form)
    assert isinstance(answer, str)
    assert answer.startswith(begins)


def test_what_is_not_done_is_refused_by_name(client: openai.OpenAI) -> None:
    create = client.audio.transcriptions.create
    with pytest.raises(openai.BadRequestError, match="stream: not supported"):
        create(model="speller", file=CLIP, stream=True)
    with pytest.raises(openai.BadRequestError, match=r"include\[\]: not supported"):
        create(model="speller", file=CLIP, include=["logprobs"])
    with pytest.raises(openai.BadRequestError, match="not a WAV, FLAC or Ogg"):
        create(model="speller", file=("talk.mp3", b"ID3...."))
    with pytest.raises(openai.NotFoundError, match="nobody"):
        create(model="nobody", file=CLIP)


def test_a_text_is_spoken(client: openai.OpenAI, tmp_path: Path) -> None:
    answer = client.audio.speech.create(
        model="voice", input="Hello there.", voice="alloy", response_format="wav"
    )
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert rate == 24_000, "what OpenAI's pcm is too"
    assert len(samples) > 0
    answer.write_to_file(tmp_path / "hello.wav")
    assert (tmp_path / "hello.wav").read_bytes() == answer.content
    with client.audio.speech.with_streaming_response.create(
        model="voice", input="Hello there.", voice="alloy", response_format="pcm", speed=1.0
    ) as streamed:
        assert b"".join(streamed.iter_bytes()) == answer.content[44:]
    with pytest.raises(openai.BadRequestError, match="expected wav or pcm, got 'mp3'"):
        client.audio.speech.create(
            model="voice", input="Hello.", voice="alloy", response_format="mp3"
        )


@pytest.mark.asyncio
async def test_the_asynchronous_client_does_the_same(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        heard = await client.audio.transcriptions.create(model="speller", file=CLIP)
        assert heard.text == "AA BC"
        spoken = await client.audio.speech.create(
            model="voice", input="Hello.", voice="alloy", response_format="wav"
        )
        assert spoken.content[:4] == b"RIFF"
