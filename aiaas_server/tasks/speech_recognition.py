"""Recordings to text, in three usual ways:

* `ctc`: one model from the waveform, or its log-mel spectrogram, to a score for every sign at every
  step (wav2vec 2.0 and its kin);
* `generation`: the card's own model reads the spectrogram, and a model of the same server that
  writes (with a `generation` part in its card) the text, many windows and callers in one step
  (Whisper and its kin; `aiaas pull whisper-tiny-en`);
* `encoder-decoder`: the same with a decoder without a cache, as common exporters make it.

Longer recordings are cut between stretches of speech, and several windows are heard at once.

Cards:

    {"task": "automatic-speech-recognition", "assets": {"vocab.json": "..."},
     "preprocessing": {"features": "waveform", "normalize": true},
     "postprocessing": {"kind": "ctc", "vocabulary": "vocab.json", "blank": "<pad>"}}

    {"task": "automatic-speech-recognition", "assets": {"tokenizer.json": "..."},
     "preprocessing": {"features": "log-mel", "bands": 80, "voice": "silero-vad"},
     "postprocessing": {"kind": "generation", "decoder": "whisper-tiny-en-decoder",
                        "begin": [50257, 50362], "no_speech": {"token": 50361}}}

    {"task": "automatic-speech-recognition", "assets": {"tokenizer.json": "..."},
     "preprocessing": {"features": "log-mel", "bands": 80},
     "postprocessing": {"kind": "encoder-decoder", "mask": "",
                        "decoder": {"model": "whisper-decoder", "input": "input_ids"},
                        "begin": [50258, 50259, 50359, 50363], "end": 50257}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from aiaas_client.protocol.predictions import Prediction, Segments, SpokenSegment, Transcript
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.concurrency import work_through
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import InferenceFailed, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Run
from aiaas_server.tasks.audio import (
    MAX_SECONDS,
    Samples,
    Sound,
    decode_audio,
    encode_wav,
    need_audio,
)
from aiaas_server.tasks.log_mel import RATE, log_mel
from aiaas_server.tasks.speech_readers import (
    CtcOutput,
    CtcReader,
    DecoderReader,
    EncoderDecoderOutput,
    GenerationOutput,
    GenerationReader,
    Reader,
)
from aiaas_server.tasks.speech_windows import Window, evenly, joined, loud_stretches, plan
from aiaas_server.tasks.task import TaskSettings
from aiaas_server.tasks.written import open_tokenizer

Seconds = Annotated[float, Field(ge=0, le=120)]

WINDOWS_AT_ONCE: Final = 8  # of one recording
PIECE: Final = 60 * RATE  # samples that the voice-activity model hears at a time
MOST_VALUES: Final = 400_000_000  # decoded at most: an hour in stereo at 48 kHz, and some


class RecordingInput(TaskSettings):
    """What the model hears.

    Attributes:
        features: The `waveform` at 16 kHz, `(1, samples)`; or its `log-mel` spectrogram,
            `(1, bands, frames)`, each window filled with silence.
        normalize: The waveform gets mean 0 and variance 1.
        bands: Of the spectrogram.
        window: Seconds heard at a time, at most.
        cut: At `silence`, or `evenly`, whatever is said there.
        enough: Seconds after which a window ends at the next pause: what segments are about.
        pause: Seconds of silence that end a window in any case.
        margin: Seconds of silence left around speech.
        voice: A voice-activity model of the server that tells where somebody speaks; "" goes by
            how loud it is.
        max_seconds: Longer recordings are refused.
    """

    features: Literal["waveform", "log-mel"] = "waveform"
    normalize: bool = True
    bands: Literal[80, 128] = 80
    window: Annotated[float, Field(gt=0, le=120)] = 30.0
    cut: Literal["silence", "evenly"] = "silence"
    enough: Seconds = 8.0
    pause: Seconds = 1.0
    margin: Seconds = 0.2
    voice: str = ""
    max_seconds: Annotated[float, Field(gt=0)] = MAX_SECONDS


class SpeechRecognition:
    """A run a window, and what its reader needs."""

    input: PayloadKind = "audio"
    predictions: tuple[type[Prediction], ...] = (Transcript,)

    def __init__(self, input_name: str, heard: RecordingInput, read: Reader) -> None:
        self.input_name = input_name
        self.heard = heard
        self.read = read
        self.params: type[Params] = read.params

    async def predict(self, payload: Any, params: Params, run: Run) -> Transcript:
        self.read.check(params)
        samples = await run.thread(self._decode, payload)
        windows = await self._windows(samples, run)

        async def hear(window: Window) -> SpokenSegment | None:
            return await self._hear(samples, window, params, run)

        found = await work_through(windows, hear, WINDOWS_AT_ONCE)
        segments = tuple(segment for segment in found if segment is not None)
        return Transcript(
            text=" ".join(segment.label for segment in segments),
            duration=len(samples) / RATE,
            segments=segments,
            language=self.read.language,
        )

    async def _hear(
        self, samples: Samples, window: Window, params: Params, run: Run
    ) -> SpokenSegment | None:
        tensor = await run.thread(self._features, samples[window.begin : window.end])
        heard = await self.read(await run({self.input_name: tensor}), params, run)
        if not heard.text:
            return None
        return SpokenSegment(
            start=round(window.begin / RATE, 3),
            end=round(window.end / RATE, 3),
            score=heard.score,
            label=heard.text,
            tokens=heard.tokens,
            avg_logprob=float(np.log(max(heard.score, 1e-9))),
            no_speech_prob=heard.no_speech,
        )

    async def _windows(self, samples: Samples, run: Run) -> list[Window]:
        longest = max(1, round(self.heard.window * RATE))
        if self.heard.cut == "evenly":
            return evenly(len(samples), longest)
        if self.heard.voice:
            stretches = await self._spoken(samples, run)
        else:
            stretches = await run.thread(loud_stretches, samples)
        return plan(
            samples,
            stretches,
            longest=longest,
            enough=round(self.heard.enough * RATE),
            pause=round(self.heard.pause * RATE),
            margin=round(self.heard.margin * RATE),
        )

    async def _spoken(self, samples: Samples, run: Run) -> list[Window]:
        """Stretches of speech, by the voice-activity model, piece by piece."""
        voice = run.model(self.heard.voice)
        params: dict[str, Any] = {"stream": True}
        found: list[Window] = []
        for begin in range(0, len(samples), PIECE):
            piece = await run.thread(encode_wav, Sound(samples[begin : begin + PIECE], RATE))
            heard = await voice.predict(piece, params)
            if not isinstance(heard, Segments):
                raise InferenceFailed(f"model '{self.heard.voice}' tells no stretches of speech")
            params = {"state": heard.state}
            for segment in heard.segments:
                last = min(round(segment.end * RATE), len(samples))
                found.append(Window(round(segment.start * RATE), last))
        return joined(found)

    def _decode(self, payload: Any) -> Samples:
        longest = self.heard.max_seconds
        sound = decode_audio(payload, rate=RATE, max_seconds=longest, most_values=MOST_VALUES)
        return sound.samples

    def _features(self, window: Samples) -> Array:
        if self.heard.features == "log-mel":
            return log_mel(window, self.heard.bands, self.heard.window)
        if self.heard.normalize:
            window = (window - window.mean()) / np.sqrt(window.var() + 1e-7)
        return window[None].astype(np.float32)


def open_task(
    card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
) -> SpeechRecognition:
    """The task of one version; see `core.task.OpenTask`."""
    need_audio()
    heard = read_settings(RecordingInput, card.preprocessing, "preprocessing")
    rank = 3 if heard.features == "log-mel" else 2
    if len(signature.inputs) != 1 or len(signature.inputs[0].shape) != rank:
        shapes = ", ".join(f"'{spec.name}' {spec.shape}" for spec in signature.inputs)
        raise LoadFailed(
            f"preprocessing: features '{heard.features}' need one input of {rank} dimensions, "
            f"got {shapes}"
        )
    return SpeechRecognition(signature.inputs[0].name, heard, _reader(card, assets, signature))


def _reader(card: Card, assets: Assets, signature: Signature) -> Reader:
    kind = card.postprocessing.get("kind")
    if kind == "generation":
        writes = read_settings(GenerationOutput, card.postprocessing, "postprocessing")
        return GenerationReader(open_tokenizer(assets, writes.tokenizer), writes)
    if kind == "encoder-decoder":
        written = read_settings(EncoderDecoderOutput, card.postprocessing, "postprocessing")
        return DecoderReader(open_tokenizer(assets, written.tokenizer), written)
    settings = read_settings(CtcOutput, card.postprocessing, "postprocessing")
    signs = _vocabulary(assets, settings.vocabulary)
    declared = signature.outputs[0].shape[-1] if signature.outputs[0].shape else -1
    if declared >= 0 and declared != len(signs):
        raise LoadFailed(
            f"vocabulary: asset '{settings.vocabulary}' has {len(signs)} signs, output "
            f"'{signature.outputs[0].name}' has {declared}"
        )
    if settings.blank not in signs:
        raise LoadFailed(f"vocabulary: the blank {settings.blank!r} is not among its signs")
    return CtcReader(signs, settings)


def _vocabulary(assets: Assets, name: str) -> tuple[str, ...]:
    try:
        signs = json.loads(assets.read_text(name))
    except ValueError:
        raise LoadFailed(f"vocabulary: asset '{name}' is not JSON") from None
    if isinstance(signs, dict):
        by_number = {number: sign for sign, number in signs.items()}
        signs = [by_number.get(number) for number in range(len(by_number))]
    found = [sign for sign in signs if isinstance(sign, str)] if isinstance(signs, list) else []
    if not found or len(found) != len(signs):
        raise LoadFailed(
            f"vocabulary: asset '{name}' must be a list of signs or an object of sign -> number "
            "without gaps"
        )
    return tuple(found)
