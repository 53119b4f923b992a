"""The call that turns recordings into text: OpenAI's multipart form, and the answer's forms."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypedDict

from aiaas_client import _errors as errors
from aiaas_client import _payloads as payloads
from aiaas_client._api.call import BytesLike, Call, Response
from aiaas_client._api.predict import unreadable
from aiaas_client._api.writing import checked, read_document

TRANSCRIPTION = "/v1/audio/transcriptions"

Told = Literal["json", "verbose_json"]
Subtitles = Literal["text", "srt", "vtt"]
FORMATS = ("json", "verbose_json", "text", "srt", "vtt")
DEFAULT_NAME = "audio.wav"


class TranscribeOptions(TypedDict, total=False):
    """How a recording is read; `timeout` and `deadline` (seconds) are this call's."""

    language: str | None
    prompt: str | None
    temperature: float | None
    timeout: float | None
    deadline: float | None


def transcribe(model: str, audio: Any, format: str, options: Mapping[str, Any]) -> Call[Any]:
    """`POST /v1/audio/transcriptions`; the recording's bytes are made here.

    Args:
        audio: A file as its path or its bytes, or `(samples, rate)`.
        format: One of `FORMATS`.
    Raises:
        InputError: Nothing that can be sent, or a file that cannot be read.
    """
    if format not in FORMATS:
        raise errors.InputError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    given = checked(options, TranscribeOptions)
    fields = {"model": model, "response_format": format}
    fields |= {name: str(value) for name, value in given.items()}
    try:
        content, filename = _file(audio)
    except OSError as error:
        raise unreadable(model, error) from error
    boundary = os.urandom(16).hex()
    body = _form(boundary, fields, content, filename)
    return Call(
        "POST",
        TRANSCRIPTION,
        _Read(model, format),
        headers=((b"Content-Type", f"multipart/form-data; boundary={boundary}".encode()),),
        content=body,
        content_length=sum(map(len, body)),
        model=model,
        optional=True,  # other servers of the protocol hear nothing
    )


def is_slow(audio: Any) -> bool:
    """Whether making its bytes reads a disk or takes long: not for an event loop."""
    return payloads.is_slow(audio, files=True)


def _file(audio: Any) -> tuple[bytes, str]:
    """A recording's bytes, and a name that tells its kind."""
    if isinstance(audio, str | PathLike):
        path = Path(audio)
        return path.read_bytes(), path.name
    if isinstance(audio, bytes | bytearray | memoryview):
        return bytes(audio), DEFAULT_NAME
    if isinstance(audio, tuple) and len(audio) == 2:
        content = payloads.recording(*audio)
        if content is not None:
            return content, DEFAULT_NAME
    raise errors.InputError(
        f"audio: expected a path, bytes or (samples, rate), got {type(audio).__name__}"
    )


def _form(
    boundary: str, fields: Mapping[str, str], content: bytes, filename: str
) -> list[BytesLike]:
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    safe = "".join(one if one.isprintable() and one not in '"\\' else "_" for one in filename)
    head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{safe}"\r\n'
    head += "Content-Type: application/octet-stream\r\n\r\n"
    try:
        return [head.encode(), content, f"\r\n--{boundary}--\r\n".encode()]
    except UnicodeEncodeError:
        raise errors.InputError("a field holds half of a character (a lone surrogate)") from None


@dataclass(frozen=True, slots=True)
class _Read:
    """Reads an answer in the form that was asked for."""

    model: str
    format: str

    def __call__(self, response: Response) -> Any:
        if self.format in ("json", "verbose_json"):
            return read_document("Transcription", self.model, response.json())
        return response.text
