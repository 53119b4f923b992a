"""How a recogniser's output for one window becomes text, in the three ways that there are."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import Field

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InferenceFailed, InvalidInput, QueueFull
from aiaas_server.core.generation import Answering, Ask, Sampling
from aiaas_server.core.task import Params, Run
from aiaas_server.tasks.ctc import greedy
from aiaas_server.tasks.scores import softmax
from aiaas_server.tasks.task import Share, TaskSettings
from aiaas_server.tasks.written import DecoderSettings, Token, decode, first_output

MOST_PROMPT: Final = 5_000  # characters
PAUSE: Final = 0.05  # seconds before a full queue is tried again, until the call's deadline


class Heard(NamedTuple):
    """What was said in a window; `text` is "" where nobody spoke.

    Attributes:
        score: Of the signs or tokens on average, 0 to 1.
        no_speech: How probable it is that nobody spoke.
    """

    text: str
    score: float
    tokens: tuple[int, ...] = ()
    no_speech: float = 0.0


class Reader(Protocol):
    """The model's output for one window to its text.

    Attributes:
        params: What a caller may set.
        language: What it hears; "" where the card does not say.
    """

    params: type[Params]
    language: str

    def check(self, params: Any) -> None:
        """Raises InvalidInput: what cannot be done, before anything is heard."""
        ...

    async def __call__(self, outputs: Mapping[str, Array], params: Any, run: Run) -> Heard: ...


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


class CtcReader:
    """Signs from scores."""

    params: type[Params] = Params
    language = ""

    def __init__(self, signs: tuple[str, ...], settings: CtcOutput) -> None:
        self.signs = signs
        self.settings = settings
        self.blank = signs.index(settings.blank)

    def check(self, params: Params) -> None:
        """There is nothing to set."""

    async def __call__(self, outputs: Mapping[str, Array], params: Params, run: Run) -> Heard:
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
        return Heard(" ".join(text.split()), decoded.score)


class EncoderDecoderOutput(DecoderSettings):
    """How the decoder writes; `tokenizer` is an asset."""

    kind: Literal["encoder-decoder"]
    tokenizer: str = "tokenizer.json"


class DecoderReader:
    """Tokens written by a decoder without a cache, run by run."""

    params: type[Params] = Params
    language = ""

    def __init__(self, tokenizer: Any, settings: EncoderDecoderOutput) -> None:
        self.tokenizer = tokenizer
        self.settings = settings

    def check(self, params: Params) -> None:
        """There is nothing to set."""

    async def __call__(self, outputs: Mapping[str, Array], params: Params, run: Run) -> Heard:
        hidden = first_output(outputs)
        mask = np.ones(hidden.shape[:2], np.int64)
        written = await decode(self.settings, hidden, mask, run)
        text = self.tokenizer.decode(list(written.tokens), skip_special_tokens=True)
        return Heard(str(text).strip(), float(np.exp(written.score)), written.tokens)


class ListeningParams(Params):
    """What a caller may set.

    Attributes:
        temperature: How freely words are chosen; 0 takes the likeliest, and more only where that
            goes round in circles.
        prompt: What was said before, or names that occur: how they are written.
        language: Of the recording; one that the model does not hear is refused.
    """

    temperature: Share = 0.0
    prompt: Annotated[str, Field(max_length=MOST_PROMPT)] = ""
    language: Annotated[str, Field(max_length=64)] = ""


class NoSpeech(TaskSettings):
    """The token that stands for nobody speaking, and how probable it must be."""

    token: Token
    threshold: Share = 0.6


class GenerationOutput(TaskSettings):
    """How a model with a `generation` part writes what was heard.

    Attributes:
        decoder: Its name; `version` 0 is the latest. The recogniser's outputs are its constants.
        tokenizer: Asset.
        begin: Tokens that every text starts with.
        previous: Token before what was said earlier; None takes no prompt.
        most_previous: Tokens of that at most, the last ones.
        max_new_tokens: Of one window.
        no_speech: How silence is known.
        languages: That it hears, the first one told; empty accepts any.
        temperatures: Tried in turn while a text is a loop or mere guessing.
        least_logprob: Of a token on average; less is guessing.
        most_compression: Of a text by zlib; more is a loop.
    """

    kind: Literal["generation"]
    decoder: str
    version: int = 0
    tokenizer: str = "tokenizer.json"
    begin: Annotated[tuple[Token, ...], Field(min_length=1)]
    previous: Token | None = None
    most_previous: Annotated[int, Field(ge=0)] = 223
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 224
    no_speech: NoSpeech | None = None
    languages: tuple[str, ...] = ()
    temperatures: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    least_logprob: float = -1.0
    most_compression: float = 2.4


class GenerationReader:
    """Tokens written by a model of the server that shares its steps with all other callers."""

    params: type[Params] = ListeningParams

    def __init__(self, tokenizer: Any, settings: GenerationOutput) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.language = settings.languages[0] if settings.languages else ""

    def check(self, params: ListeningParams) -> None:
        """Refuse a language or a prompt that the model has no ear for."""
        known = self.settings.languages
        if params.language and known and params.language.lower() not in known:
            raise InvalidInput(f"language: expected {' or '.join(known)}, got {params.language!r}")
        if params.prompt and self.settings.previous is None:
            raise InvalidInput("prompt: this model takes none")

    async def __call__(
        self, outputs: Mapping[str, Array], params: ListeningParams, run: Run
    ) -> Heard:
        constants = {name: array[0] for name, array in outputs.items()}
        heard = Heard("", 0.0)
        for temperature in self._temperatures(params):
            heard = await self._written(constants, params, temperature, run)
            if not self._is_wrong(heard):
                break
        return heard

    def _temperatures(self, params: ListeningParams) -> Sequence[float]:
        return (params.temperature,) if params.temperature else self.settings.temperatures

    def _is_wrong(self, heard: Heard) -> bool:
        if not heard.text:
            return False
        guessed = np.log(max(heard.score, 1e-9)) < self.settings.least_logprob
        return bool(guessed) or compression(heard.text) > self.settings.most_compression

    async def _written(
        self, constants: Mapping[str, Array], params: ListeningParams, temperature: float, run: Run
    ) -> Heard:
        gate = self.settings.no_speech
        before = self._before(params.prompt)
        ask = Ask(
            tokens=(*before, *self.settings.begin),
            max_tokens=self.settings.max_new_tokens,
            sampling=Sampling(temperature=temperature, seed=0),
            logprobs=0,
            constants=constants,
            # Behind the first token: with something before it, that tells nothing of silence.
            probe=(gate.token,) if gate is not None and not before else (),
        )
        tokens: list[int] = []
        logprobs: list[float] = []
        answering = await self._begun(ask, run)
        no_speech = 0.0
        try:
            async for piece in answering:
                no_speech = answering.probed[0] if answering.probed else 0.0
                if gate is not None and no_speech > gate.threshold:
                    return Heard("", 0.0, (), no_speech)
                tokens += piece.tokens
                logprobs += [told.chosen.logprob for told in piece.told]
        finally:
            answering.cancel()  # nothing where it has ended
        score = float(np.exp(np.mean(logprobs))) if logprobs else 0.0
        text = str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        return Heard(text, min(score, 1.0), tuple(tokens), no_speech)

    async def _begun(self, ask: Ask, run: Run) -> Answering:
        """An answer; where no room is left, once there is: half of the work is done already."""
        model = run.model(self.settings.decoder, self.settings.version)
        while True:
            try:
                return await model.generate(ask)
            except QueueFull:
                await asyncio.sleep(PAUSE)

    def _before(self, prompt: str) -> tuple[int, ...]:
        if not prompt.strip() or self.settings.previous is None:
            return ()
        ids = self.tokenizer.encode(" " + prompt.strip(), add_special_tokens=False).ids
        return (self.settings.previous, *ids[-self.settings.most_previous :])


def compression(text: str) -> float:
    """How many times smaller zlib makes a text: a text that repeats itself, much."""
    content = text.encode("utf-8", "replace")
    return len(content) / len(zlib.compress(content))
