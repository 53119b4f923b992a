"""Recordings to text, in two usual ways:

* `ctc`: one model from the waveform, or its log-mel spectrogram, to a score for every sign at every
  step (wav2vec 2.0 and its kin);
* `encoder-decoder`: the card's own model reads the spectrogram, a decoder of the same server writes
  the text token by token (Whisper and its kin).

Longer recordings are heard window by window, one after another; a word across a cut may suffer.

No such weights come in a package, so this task was tried on small models made for its tests, not on
real ones; `docs/tasks_media.md` says how to bring yours.

Cards:

    {"task": "automatic-speech-recognition", "assets": {"vocab.json": "..."},
     "preprocessing": {"features": "waveform", "normalize": true},
     "postprocessing": {"kind": "ctc", "vocabulary": "vocab.json", "blank": "<pad>"}}

    {"task": "automatic-speech-recognition", "assets": {"tokenizer.json": "..."},
     "preprocessing": {"features": "log-mel", "bands": 80},
     "postprocessing": {"kind": "encoder-decoder", "mask": "",
                        "decoder": {"model": "whisper-decoder", "input": "input_ids"},
                        "begin": [50258, 50259, 50359, 50363], "end": 50257}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from aiaas_client.protocol.predictions import Prediction, Segment, Transcript
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import InferenceFailed, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Run
from aiaas_server.tasks.audio import MAX_SECONDS, Samples, decode_audio, need_audio
from aiaas_server.tasks.ctc import greedy
from aiaas_server.tasks.log_mel import RATE, log_mel
from aiaas_server.tasks.scores import softmax
from aiaas_server.tasks.task import TaskSettings
from aiaas_server.tasks.written import DecoderSettings, decode, first_output, open_tokenizer


class RecordingInput(TaskSettings):
    """What the model hears.

    Attributes:
        features: The `waveform` at 16 kHz, `(1, samples)`; or its `log-mel` spectrogram,
            `(1, bands, frames)`, each window filled with silence.
        normalize: The waveform gets mean 0 and variance 1.
        bands: Of the spectrogram.
        window: Seconds heard at a time.
        max_seconds: Longer recordings are refused.
    """

    features: Literal["waveform", "log-mel"] = "waveform"
    normalize: bool = True
    bands: Literal[80, 128] = 80
    window: Annotated[float, Field(gt=0, le=120)] = 30.0
    max_seconds: Annotated[float, Field(gt=0)] = MAX_SECONDS


class CtcOutput(TaskSettings):
    """How a score for every sign at every step is read.

    Attributes:
        vocabulary: Asset: a JSON list of signs in the model's order, or an object of sign ->
            number.
        blank: The sign that stands for none.
        space: The sign that stands for a space.
        special: Signs that are left out of the text.
        activation: What the output still needs to become probabilities.
    """

    kind: Literal["ctc"] = "ctc"
    vocabulary: str
    blank: str = "<pad>"
    space: str = "|"
    special: tuple[str, ...] = ("<s>", "</s>", "<unk>", "<pad>")
    activation: Literal["none", "softmax"] = "softmax"


class EncoderDecoderOutput(DecoderSettings):
    """How the decoder writes; `tokenizer` is an asset."""

    kind: Literal["encoder-decoder"]
    tokenizer: str = "tokenizer.json"


class Reader(Protocol):
    """The model's output for one window to its text and score."""

    async def __call__(self, outputs: Mapping[str, Array], run: Run) -> tuple[str, float]: ...


class SpeechRecognition:
    """A run a window, and the decoder's."""

    input: PayloadKind = "audio"
    predictions: tuple[type[Prediction], ...] = (Transcript,)
    params: type[Params] = Params

    def __init__(self, input_name: str, heard: RecordingInput, read: Reader) -> None:
        self.input_name = input_name
        self.heard = heard
        self.read = read

    async def predict(self, payload: Any, params: Params, run: Run) -> Transcript:
        samples = await run.thread(self._decode, payload)
        size = round(self.heard.window * RATE)
        segments = []
        for begin in range(0, len(samples), size):
            window = samples[begin : begin + size]
            tensor = await run.thread(self._features, window)
            text, score = await self.read(await run({self.input_name: tensor}), run)
            if text:
                start, end = begin / RATE, (begin + len(window)) / RATE
                segments.append(Segment(start=start, end=end, score=score, label=text))
        return Transcript(
            text=" ".join(segment.label for segment in segments),
            duration=len(samples) / RATE,
            segments=tuple(segments),
        )

    def _decode(self, payload: Any) -> Samples:
        return decode_audio(payload, rate=RATE, max_seconds=self.heard.max_seconds).samples

    def _features(self, window: Samples) -> Array:
        if self.heard.features == "log-mel":
            return log_mel(window, self.heard.bands, self.heard.window)
        if self.heard.normalize:
            window = (window - window.mean()) / np.sqrt(window.var() + 1e-7)
        return window[None].astype(np.float32)


class CtcReader:
    """Signs from scores."""

    def __init__(self, signs: tuple[str, ...], settings: CtcOutput) -> None:
        self.signs = signs
        self.settings = settings
        self.blank = signs.index(settings.blank)

    async def __call__(self, outputs: Mapping[str, Array], run: Run) -> tuple[str, float]:
        scores = first_output(outputs)[0]  # (steps, signs)
        if scores.shape[1] != len(self.signs):
            raise InferenceFailed(
                f"the model tells {scores.shape[1]} signs apart, the vocabulary {len(self.signs)}"
            )
        if self.settings.activation == "softmax":
            scores = softmax(scores)
        decoded = greedy(scores, blank=self.blank)
        found = (self.signs[number] for number in decoded.signs)
        kept = [sign for sign in found if sign not in self.settings.special]
        text = "".join(" " if sign == self.settings.space else sign for sign in kept)
        return " ".join(text.split()), decoded.score


class DecoderReader:
    """Tokens written by the decoder."""

    def __init__(self, tokenizer: Any, settings: EncoderDecoderOutput) -> None:
        self.tokenizer = tokenizer
        self.settings = settings

    async def __call__(self, outputs: Mapping[str, Array], run: Run) -> tuple[str, float]:
        hidden = first_output(outputs)
        mask = np.ones(hidden.shape[:2], np.int64)
        written = await decode(self.settings, hidden, mask, run)
        text = self.tokenizer.decode(list(written.tokens), skip_special_tokens=True)
        return str(text).strip(), float(np.exp(written.score))


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
    if card.postprocessing.get("kind") == "encoder-decoder":
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
