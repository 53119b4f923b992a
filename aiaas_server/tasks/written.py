"""What text-to-text and speech recognition share: a decoder model of the server that writes tokens.

The decoder is an export without a cache, as common exporters make it: tokens so far, what the
encoder made of the input and its mask in, logits of every position out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets
from aiaas_server.core.errors import InferenceFailed, LoadFailed
from aiaas_server.core.task import Run
from aiaas_server.tasks.decoding import Written, write
from aiaas_server.tasks.step_model import StepModel
from aiaas_server.tasks.task import TaskSettings, need

Token = Annotated[int, Field(ge=0)]
Beams = Annotated[int, Field(ge=1, le=16)]
NewTokens = Annotated[int, Field(ge=1, le=4096)]


class DecoderSettings(TaskSettings):
    """How the decoder writes.

    Attributes:
        decoder: The model, and its input for the tokens so far.
        hidden: The decoder's input for the encoder's output.
        mask: Its input for the encoder's mask; empty when it has none.
        begin: Tokens that every text starts with.
        end: Token that ends a text.
        max_new_tokens: Tokens written at most.
        beams: Texts followed at a time; 1 is greedy.
        length_penalty: Above 1 prefers long texts, below 1 short ones.
        forbidden: Tokens that are never written.
    """

    decoder: StepModel
    hidden: str = "encoder_hidden_states"
    mask: str = "encoder_attention_mask"
    begin: Annotated[tuple[Token, ...], Field(min_length=1)] = (0,)
    end: Token = 1
    max_new_tokens: NewTokens = 128
    beams: Beams = 1
    length_penalty: Annotated[float, Field(ge=0, le=10)] = 1.0
    forbidden: tuple[Token, ...] = ()


async def decode(
    settings: DecoderSettings,
    hidden: Array,
    mask: Array | None,
    run: Run,
    *,
    beams: int | None = None,
    max_new_tokens: int | None = None,
) -> Written:
    """Write one text.

    Args:
        hidden: `(1, length, width)` of the encoder.
        mask: `(1, length)` int64.
        beams, max_new_tokens: In place of the settings' own.
    """
    model = run.model(settings.decoder.model, settings.decoder.version)

    async def step(tokens: Array) -> Array:
        rows = len(tokens)
        tensors = {settings.decoder.input: tokens, settings.hidden: np.repeat(hidden, rows, axis=0)}
        if settings.mask and mask is not None:
            tensors[settings.mask] = np.repeat(mask, rows, axis=0)
        return _last(await model(tensors))

    return await write(
        step,
        begin=settings.begin,
        end=settings.end,
        limit=max_new_tokens or settings.max_new_tokens,
        beams=beams or settings.beams,
        length_penalty=settings.length_penalty,
        forbidden=settings.forbidden,
    )


def first_output(outputs: Mapping[str, Array]) -> Array:
    """The encoder's output `(1, length, width)`: the first of three dimensions."""
    for array in outputs.values():
        if array.ndim == 3:
            return array
    raise InferenceFailed("the encoder has no output of three dimensions")


def open_tokenizer(assets: Assets, name: str) -> Any:
    """The tokenizer in an asset.

    Raises:
        LoadFailed: It is missing, broken, or the library is not installed.
    """
    library = need("tokenizers")
    try:
        return library.Tokenizer.from_str(assets.read_text(name))
    except LoadFailed:
        raise
    except Exception as error:  # the library raises bare Exception and ValueError
        raise LoadFailed(f"asset '{name}' is no tokenizer: {error}") from None


def _last(outputs: Mapping[str, Array]) -> Array:
    """Logits of the next token `(rows, vocabulary)`."""
    logits = outputs.get("logits")
    if logits is None:
        logits = first_output(outputs)
    last: Array = logits[:, -1] if logits.ndim == 3 else logits
    return last
