"""Text to speech: a text to a WAV file.

What text sounds like (numbers and abbreviations spelled out, words as phonemes) and how the model's
spectra become a waveform is the work of the package that the voice comes from; the model itself
runs here, one sentence a run, like any other.

`hibari` (package hibari-tts, English): `ids` `(1, phonemes)` and `speed` `(1,)` to six spectra of
12.5 ms frames.

A card:

    {"task": "text-to-speech", "postprocessing": {"engine": "hibari"}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from aiaas_client.protocol.predictions import Prediction, Speech
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Run
from aiaas_server.tasks.audio import Samples, Sound, encode_wav
from aiaas_server.tasks.task import TaskSettings

MAX_CHARACTERS = 5_000
SPECTRA = ("lh", "theta", "ln", "lr", "phi", "f0")  # what hibari's network gives


class SpeechParams(Params):
    """What a caller may set.

    Attributes:
        speed: 1 is the voice's own; 2 is twice as fast.
        seed: Fixes the noise in the sound, so that the same text gives the same bytes.
    """

    speed: Annotated[float, Field(ge=0.5, le=2)] = 1.0
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0


class SpeechSettings(TaskSettings):
    """`engine`: what turns text into the model's input and its output into sound."""

    engine: Literal["hibari"] = "hibari"
    max_characters: Annotated[int, Field(ge=1, le=100_000)] = MAX_CHARACTERS


class Engine(Protocol):
    """The two ends of a voice."""

    rate: int

    def sentences(self, text: str) -> list[dict[str, Array]]:
        """The model's input for each sentence but its speed; empty when nothing can be said."""
        ...

    def sound(self, outputs: Mapping[str, Array], noise: np.random.Generator) -> Samples:
        """One sentence as samples `(n,)`."""
        ...


class TextToSpeech:
    """One run a sentence."""

    input: PayloadKind = "text"
    predictions: tuple[type[Prediction], ...] = (Speech,)
    params: type[Params] = SpeechParams

    def __init__(self, engine: Engine, max_characters: int) -> None:
        self.engine = engine
        self.max_characters = max_characters

    async def predict(self, payload: Any, params: SpeechParams, run: Run) -> Speech:
        text = self._checked(payload)
        sentences = await run.thread(self._sentences, text)
        if not sentences:
            raise _nothing_to_say(text)
        noise = np.random.default_rng(params.seed)
        speed = np.array([params.speed], np.float32)
        spoken = []
        for sentence in sentences:
            outputs = await run({**sentence, "speed": speed})
            spoken.append(await run.thread(self.engine.sound, outputs, noise))
        sound = Sound(np.concatenate(spoken), self.engine.rate)
        audio = await run.thread(encode_wav, sound)
        return Speech(audio=audio, sample_rate=sound.rate, duration=sound.seconds)

    def _sentences(self, text: str) -> list[dict[str, Array]]:
        try:
            return self.engine.sentences(text)
        except Exception as error:  # a voice's own package stumbles over, say, 300 digits in a row
            reason = f"{type(error).__name__}: {str(error)[:120]}"
            raise InvalidInput(f"the text {text[:64]!r} cannot be spoken: {reason}") from error

    def _checked(self, payload: Any) -> str:
        if not isinstance(payload, str):
            raise InvalidInput(f"expected a text to speak, got {type(payload).__name__}")
        if not payload.strip():
            raise InvalidInput("the text is empty, expected some words to speak")
        if not any(sign.isalnum() for sign in payload):
            raise _nothing_to_say(payload)
        if len(payload) > self.max_characters:
            raise InvalidInput(
                f"the text has {len(payload):,} characters, at most {self.max_characters:,} are "
                "accepted: send it in parts"
            )
        return payload


class Hibari:
    """English, by the package hibari-tts.

    Its own `Hibari` class would open the model a second time, so its parts are used.
    """

    def __init__(self) -> None:
        from hibari import dsp
        from hibari.g2p import G2P
        from hibari.tts import MAX_PHONEMES
        from hibari.tts import Hibari as Package

        self.rate = int(dsp.SR)
        self._split = Package.split_sentences
        self._phonemes = G2P()
        self._synthesise = dsp.synth
        self._longest = int(MAX_PHONEMES)
        vocabulary = files("hibari").joinpath("assets/vocab.json").read_text("utf-8")
        self._numbers: dict[str, int] = json.loads(vocabulary)

    def sentences(self, text: str) -> list[dict[str, Array]]:
        found = []
        for sentence in self._split(text):
            for part in _parts(self._phonemes(sentence), self._longest):
                ids = [self._numbers[sign] for sign in part if sign in self._numbers]
                if ids:
                    found.append({"ids": np.array([[0, *ids, 0]], np.int64)})
        return found

    def sound(self, outputs: Mapping[str, Array], noise: np.random.Generator) -> Samples:
        lh, theta, ln, lr, phi, f0 = (outputs[name][0] for name in SPECTRA)
        samples: Samples = self._synthesise(lh, theta, ln, lr, phi, f0, noise)
        return samples


def open_task(
    card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
) -> TextToSpeech:
    """The task of one version; see `core.task.OpenTask`."""
    settings = read_settings(SpeechSettings, card.postprocessing, "postprocessing")
    inputs = {spec.name for spec in signature.inputs}
    outputs = {spec.name for spec in signature.outputs}
    if inputs != {"ids", "speed"} or not outputs >= {*SPECTRA}:
        raise LoadFailed(
            f"model '{signature.model}': engine 'hibari' needs inputs 'ids' and 'speed' and six "
            f"spectra, got inputs {sorted(inputs)} and outputs {sorted(outputs)}"
        )
    try:
        return TextToSpeech(Hibari(), settings.max_characters)
    except ModuleNotFoundError:
        raise LoadFailed(
            "the package 'hibari-tts' is missing: pip install \"aiaas-client[tts]\""
        ) from None


def _nothing_to_say(text: str) -> InvalidInput:
    return InvalidInput(
        f"the text {text[:64]!r} has nothing in it that this voice can speak: "
        "letters of its language or digits are expected"
    )


def _parts(phonemes: str, longest: int) -> Iterator[str]:
    """A sentence in pieces the model can hold, cut at spaces."""
    while len(phonemes) > longest:
        cut = phonemes.rfind(" ", 0, longest)
        cut = cut if cut > 0 else longest
        yield phonemes[:cut]
        phonemes = phonemes[cut:].lstrip()
    if phonemes:
        yield phonemes
