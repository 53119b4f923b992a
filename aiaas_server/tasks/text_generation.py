"""Text to more text, by a model that writes token by token.

The model's card has a `generation` part (`docs/generation.md`); this task is the way in for
`:predict`, pipelines and bulk, where the whole answer comes at once. Conversations and streams have
routes of their own.

A card:

    {"task": "text-generation", "assets": {"tokenizer.json": "..."},
     "generation": {"context": 2048, "end": [2]}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from aiaas_client.protocol.predictions import GeneratedText, Prediction
from aiaas_server.core.describe.card import Assets, Card
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.generation import Ask, Sampling
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Run
from aiaas_server.tasks.task import Share
from aiaas_server.tasks.text import check_text

MOST_CHARACTERS: Final = 4_000_000  # what the context leaves is checked in tokens
MAX_TOKENS: Final = 1 << 20

Penalty = Annotated[float, Field(ge=-2, le=2)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]


class GenerationParams(Params):
    """What a caller may set; the rest is as the card says.

    Attributes:
        max_tokens: Of the answer; without it, what the context leaves.
        temperature: 0 takes the likeliest token.
        top_k: Tokens that are left to choose from; 0 is all.
        top_p: The likeliest tokens that together have this probability are left.
        min_p: Tokens with at least this share of the likeliest one's probability are left.
        stop: Texts that end the answer, and are no part of it.
        seed: The same seed gives the same text.
    """

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: StopText | Annotated[tuple[StopText, ...], Field(max_length=16)] = ()
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    def sampling(self, defaults: Sampling) -> Sampling:
        """How tokens are chosen, with what is set here in place of `defaults`."""
        given = self.model_dump(exclude={"max_tokens", "stop"}, exclude_none=True)
        return replace(defaults, **given)

    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop


class TextGeneration:
    """One answer a text."""

    input: PayloadKind = "text"
    predictions: tuple[type[Prediction], ...] = (GeneratedText,)
    params: type[Params] = GenerationParams

    async def predict(self, payload: Any, params: GenerationParams, run: Run) -> GeneratedText:
        text = check_text(payload, MOST_CHARACTERS)
        generator = await run.generator()
        ask = Ask(
            tokens=await generator.encode(text),
            max_tokens=params.max_tokens,
            sampling=params.sampling(generator.defaults),
            stop=params.stops(),
            logprobs=0,
        )
        answering = await run.generate(ask)
        texts: list[str] = []
        logprobs: list[float] = []
        finish = "stop"
        try:
            async for piece in answering:
                texts.append(piece.text)
                logprobs += [told.chosen.logprob for told in piece.told]
                finish = piece.finish or finish
        finally:
            answering.cancel()  # nothing where it has ended
        score = float(np.exp(np.mean(logprobs))) if logprobs else 0.0
        return GeneratedText(
            text="".join(texts),
            tokens=answering.completion_tokens,
            score=min(score, 1.0),
            finish_reason=finish,
        )


def open_task(
    card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
) -> TextGeneration:
    """The task of one version; see `core.task.OpenTask`."""
    if card.generation is None:
        raise LoadFailed("model.json: task 'text-generation' needs the part 'generation'")
    return TextGeneration()
