"""`/v1/audio/transcriptions` and `/v1/audio/speech`, as the official OpenAI client calls them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.predictions import Prediction, Speech, SpokenSegment, Transcript
from aiaas_server.core.errors import InvalidInput, ServerError
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.predict import Predictor
from aiaas_server.http.errors import HttpError
from aiaas_server.http.incoming import (
    ClientGone,
    RequestContext,
    SizeLimit,
    check_length,
    context_of,
    read_body,
    too_large,
    while_connected,
)
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.json_body import parse_body
from aiaas_server.http.lookup import in_use, obtain_named
from aiaas_server.http.multipart import boundary_of
from aiaas_server.http.openai.audio_request import (
    Form,
    TranscriptionCall,
    read_form,
    read_speech,
    read_transcription,
)
from aiaas_server.http.openai.subtitles import srt, vtt
from aiaas_server.settings import Settings

RECOGNITION: Final = "automatic-speech-recognition"
SPEAKING: Final = "text-to-speech"
_CLOSE: Final = ((b"connection", b"close"),)
_HEADER: Final = 44  # bytes before the samples in a WAV file of ours


class AudioRoutes:
    """Recordings to text by any model of the one task, and texts to sound by any of the other."""

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._predictor = Predictor(pool.obtain)
        self._max_audio = SizeLimit(settings.max_audio_bytes, "max_audio_bytes")
        self._max_json = SizeLimit(settings.max_json_bytes, "max_json_bytes")

    async def transcriptions(self, request: Request) -> Response:
        """Write down what is said in the recording of a form."""
        context = context_of(request)
        call = read_transcription(await self._form(request, context))
        heard = await self._answer(request, RECOGNITION, call.model, call.audio, call.params)
        if not isinstance(heard, Transcript):
            raise HttpError(500, ErrorCode.INTERNAL, "the model gave no transcript")
        return _told(call, heard)

    async def speech(self, request: Request) -> Response:
        """Speak a text."""
        context = context_of(request)
        body = await read_body(request, self._max_json, context.deadline)
        call = read_speech(await parse_body(body, self._settings.offload_json_bytes))
        spoken = await self._answer(request, SPEAKING, call.model, call.text, call.params)
        if not isinstance(spoken, Speech):
            raise HttpError(500, ErrorCode.INTERNAL, "the model gave no sound")
        if call.form == "pcm":
            kind = f"audio/pcm;rate={spoken.sample_rate};channels=1"
            return Response(spoken.audio[_HEADER:], headers={"Content-Type": kind})
        return Response(spoken.audio, headers={"Content-Type": "audio/wav"})

    async def _answer(
        self, request: Request, task: str, name: str, payload: Any, params: Mapping[str, Any]
    ) -> Prediction:
        """What a model of that task answers.

        Raises:
            InvalidInput: It has another task, or something was wrong with the payload.
        """
        context = context_of(request)
        model = await obtain_named(self._pool, name, context)
        if model.card is None or model.card.task != task:
            does = "transcribes no recordings" if task == RECOGNITION else "speaks no texts"
            raise InvalidInput(f"model '{name}' {does}")
        work = self._predictor.predict(model, [payload], params, context.deadline, context.caller)
        with in_use(model):  # its work begins in a later turn of the loop
            (answer,) = await while_connected(work, request.scope, request.receive)
        if isinstance(answer, ServerError):
            raise answer
        return answer

    async def _form(self, request: Request, context: RequestContext) -> Form:
        boundary = boundary_of(request.headers.get("content-type", ""))
        check_length(context.headers, self._max_audio)
        try:
            async with asyncio.timeout_at(context.deadline):
                return await read_form(_bounded(request, self._max_audio), boundary)
        except TimeoutError:
            message = "request body: not received before the request's deadline"
            raise HttpError(408, ErrorCode.REQUEST_TIMEOUT, message, headers=_CLOSE) from None


async def _bounded(request: Request, limit: SizeLimit) -> AsyncIterator[bytes]:
    """The body as it comes, which is refused where it grows too large."""
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        if piece := message.get("body", b""):
            size += len(piece)
            if size > limit.bytes:
                raise too_large(limit)
            yield piece
        more = message.get("more_body", False)


def _told(call: TranscriptionCall, heard: Transcript) -> Response:
    """The transcript in the form that was asked for."""
    if call.form == "text":
        return Response(heard.text + "\n", media_type="text/plain")
    if call.form == "srt":
        return Response(srt(heard), media_type="text/plain")
    if call.form == "vtt":
        return Response(vtt(heard), media_type="text/vtt")
    told: dict[str, Any] = {"text": heard.text}
    if call.form == "verbose_json":
        told |= {
            "task": "transcribe",
            "language": heard.language,
            "duration": round(heard.duration, 3),
            "segments": [
                _segment(index, segment, call.temperature)
                for index, segment in enumerate(heard.segments)
            ],
        }
    told["usage"] = {"type": "duration", "seconds": round(heard.duration, 3)}
    return Response(FAST_JSON.dumps(told), media_type="application/json")


def _segment(index: int, segment: SpokenSegment, temperature: float) -> dict[str, Any]:
    text = segment.label.encode("utf-8", "replace")
    return {
        "id": index,
        "seek": round(segment.start * 100),  # frames of 10 ms
        "start": segment.start,
        "end": segment.end,
        "text": segment.label,
        "tokens": list(segment.tokens),
        "temperature": temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 3),
        "no_speech_prob": segment.no_speech_prob,
    }
