"""Recordings to text: what travels, and the forms of the answer."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client import (
    BadRequestError,
    InputError,
    MissingFileError,
    OptionTypeError,
    ProtocolError,
    Transcription,
)
from aiaas_client.testing import FakeError, FakeServer
from aiaas_server.http.multipart import Multipart, boundary_of

SEGMENTS = [
    {"id": 0, "start": 0.0, "end": 1.5, "text": "Hello."},
    {"id": 1, "start": 1.5, "end": 2.0, "text": "Bye."},
]


def ears(audio: bytes, response_format: str, language: str = "") -> Any:
    if not audio.startswith(b"RIFF"):
        raise FakeError(400, "expected a recording, got 4 bytes of something else")
    if response_format == "srt":
        return "1\n00:00:00,000 --> 00:00:01,500\nHello.\n"
    told = {"text": "Hello. Bye.", "language": language, "duration": 2.0}
    return {**told, "segments": SEGMENTS} if response_format == "verbose_json" else told


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as one:
        one.add_hearer("ears", ears)
        yield one


@pytest.fixture
def caller(either: Any, server: FakeServer) -> Any:
    return either(server.url)


def form_of(server: FakeServer) -> dict[str, tuple[str | None, bytes]]:
    """The last request as the server reads forms."""
    request = server.requests[-1]

    async def body() -> Any:
        yield request.body

    async def read() -> dict[str, tuple[str | None, bytes]]:
        found = {}
        form = Multipart(body(), boundary_of(request.headers["content-type"]))
        async for part in form.parts():
            content = b"".join([piece async for piece in part.content])
            found[part.name] = part.filename, content
        return found

    return asyncio.run(read())


def test_a_transcription_has_its_segments(caller: Any, server: FakeServer) -> None:
    found = caller.run(caller.client.transcribe("ears", b"RIFF...", language="en"))
    assert isinstance(found, Transcription)
    assert (found.text, found.language, found.duration) == ("Hello. Bye.", "en", 2.0)
    assert [(one.start, one.end, one.text) for one in found.segments] == [
        (0.0, 1.5, "Hello."),
        (1.5, 2.0, "Bye."),
    ]
    assert form_of(server) == {
        "model": (None, b"ears"),
        "response_format": (None, b"verbose_json"),
        "language": (None, b"en"),
        "file": ("audio.wav", b"RIFF..."),
    }


def test_other_forms_are_texts(caller: Any) -> None:
    handle = caller.client.model("ears")
    assert caller.run(handle.transcribe(b"RIFF", format="srt")).startswith("1\n00:00:00,000 -->")
    assert caller.run(handle.transcribe(b"RIFF", format="json")).segments == []


def test_a_recording_is_a_file_or_samples(caller: Any, server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / 'a "talk"\u00e9.wav'
    path.write_bytes(b"RIFF of a file")
    for given in (path, str(path)):
        caller.run(caller.client.transcribe("ears", given))
        assert form_of(server)["file"] == ("a _talk_\u00e9.wav", b"RIFF of a file")
    caller.run(caller.client.transcribe("ears", (np.zeros(160, np.float32), 16_000)))
    with wave.open(io.BytesIO(form_of(server)["file"][1])) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (16_000, 160)


def test_what_is_no_recording_is_refused_by_name(
    caller: Any, server: FakeServer, tmp_path: Path
) -> None:
    ask: Any = caller.client.transcribe

    def refused(*given: Any, **options: Any) -> None:
        caller.run(ask("ears", *given, **options))

    with pytest.raises(MissingFileError, match=r"nowhere\.wav"):
        refused(tmp_path / "nowhere.wav")
    with pytest.raises(InputError, match=r"audio: expected a path, bytes or \(samples, rate\)"):
        refused(3)
    with pytest.raises(InputError, match="format: expected one of json, .* got 'pdf'"):
        refused(b"RIFF", format="pdf")
    with pytest.raises(OptionTypeError, match="unexpected option 'lang'; did you mean 'language'"):
        refused(b"RIFF", lang="en")
    assert server.requests == []
    with pytest.raises(BadRequestError, match="got 4 bytes of something else"):
        refused(b"text")


def test_an_answer_that_is_none_is_told(caller: Any, wire: Any, steps: Any) -> None:
    client = type(caller.client)(wire(steps.answer(body={"text": 3})).url)
    with pytest.raises(ProtocolError, match="not a Transcription: text"):
        caller.run(client.transcribe("ears", b"RIFF"))
    caller.run(client.close())
