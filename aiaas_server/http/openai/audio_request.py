"""What the audio routes are asked: a form with a recording, or a text to be spoken.

What would change the answer and is not done here is refused by name; what is harmless, or unknown,
is ignored.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple

from aiaas_server.http.errors import bad_request
from aiaas_server.http.members import Members, one_of
from aiaas_server.http.multipart import Multipart, Part

FORMATS: Final = ("json", "text", "srt", "vtt", "verbose_json")
SPOKEN_FORMATS: Final = ("wav", "pcm")
MOST_FIELD: Final = 8 << 10  # bytes of a field that is no file
SLOWEST, FASTEST = 0.25, 4.0

# Members that change an answer, and the values of them that change nothing.
_REFUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "stream": ("", "false", "False", "0"),
    "include[]": ("",),
    "include": ("",),
    "chunking_strategy": ("", "auto"),
    "known_speaker_names[]": (),
    "known_speaker_references[]": (),
}


class Form(NamedTuple):
    """A form as it came: its last recording, and its fields, of which some may repeat."""

    audio: bytes | None
    fields: Mapping[str, tuple[str, ...]]

    def one(self, name: str, otherwise: str = "") -> str:
        """The value of a field; `otherwise` where it is not there or empty.

        Raises:
            HttpError: 400, it is there several times.
        """
        values = self.fields.get(name, ())
        if len(values) > 1:
            raise bad_request(f"{name}: expected one field of this name, got {len(values)}")
        return (values[0] if values else "") or otherwise


class TranscriptionCall(NamedTuple):
    """What is to be transcribed, and how it is told.

    Attributes:
        params: Of the model's task; only what the caller has set.
        form: One of `FORMATS`.
        temperature: As it was asked for.
    """

    model: str
    audio: bytes
    params: dict[str, Any]
    form: str
    temperature: float


class SpeechCall(NamedTuple):
    """What is to be spoken; `form` is one of `SPOKEN_FORMATS`."""

    model: str
    text: str
    params: dict[str, Any]
    form: str


async def read_form(body: AsyncIterator[bytes], boundary: bytes) -> Form:
    """The fields of a form; the body is bounded by whoever gives it.

    Raises:
        HttpError: 400 for no form, several files, or a field too long.
    """
    audio: bytearray | None = None
    fields: dict[str, tuple[str, ...]] = {}
    async for part in Multipart(body, boundary).parts():
        if part.name == "file" and part.filename is not None:
            if audio is not None:
                raise bad_request("file: expected one file in the form")
            audio = bytearray()
            async for piece in part.content:
                audio += piece
        else:
            text = await _text(part)
            fields[part.name] = (*fields.get(part.name, ()), text)
    return Form(None if audio is None else bytes(audio), fields)


async def _text(part: Part) -> str:
    found = bytearray()
    async for piece in part.content:
        found += piece
        if len(found) > MOST_FIELD:
            raise bad_request(f"{part.name[:64]}: expected at most {MOST_FIELD} bytes")
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError:
        raise bad_request(f"{part.name[:64]}: expected UTF-8") from None


def read_transcription(form: Form) -> TranscriptionCall:
    """A call from its form.

    Raises:
        HttpError: 400, a field is missing, unusable, or asks for what is not done.
    """
    if form.audio is None:
        raise bad_request("file: expected a recording in the form")
    model = form.one("model")
    if not model:
        raise bad_request("model: expected the name of a model")
    for name, harmless in _REFUSED.items():
        for value in form.fields.get(name, ()):
            if value not in harmless:
                raise bad_request(f"{name}: not supported, got {value[:64]!r}")
    told = form.one("response_format", "json")
    if told not in FORMATS:
        raise bad_request(f"response_format: expected {one_of(FORMATS)}, got {told[:64]!r}")
    _check_granularities(form, told)
    temperature = _temperature(form.one("temperature", "0"))
    params: dict[str, Any] = {"temperature": temperature} if temperature else {}
    for name in ("language", "prompt"):
        if value := form.one(name):
            params[name] = value
    return TranscriptionCall(model, form.audio, params, told, temperature)


def _check_granularities(form: Form, told: str) -> None:
    name = "timestamp_granularities[]"
    wanted = form.fields.get(name, ()) + form.fields.get("timestamp_granularities", ())
    for value in wanted:
        if value != "segment":
            raise bad_request(f"{name}: expected 'segment', got {value[:64]!r}")
    if wanted and told != "verbose_json":
        raise bad_request(f"{name}: expected response_format 'verbose_json', got {told!r}")


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise bad_request(f"temperature: expected 0 to 1, got {text[:64]!r}")
    return value


def read_speech(document: Mapping[str, Any]) -> SpeechCall:
    """A call from its JSON object.

    The voice must be named, as OpenAI's API has it, but a model here speaks with its own.

    Raises:
        InvalidInput: A member is missing, unusable, or asks for what is not done.
    """
    asked = Members(document)
    asked.text("voice", "")
    asked.refuse("instructions", "not supported", but=("",))
    asked.refuse("stream_format", "expected 'audio'", but=("audio",))
    told = asked.one_of("response_format", SPOKEN_FORMATS, "wav")
    speed = asked.number("speed", SLOWEST, FASTEST, 1)
    params = {} if speed == 1 else {"speed": speed}
    return SpeechCall(asked.text("model"), asked.text("input"), params, told)
