"""Text to text: translation, summaries, corrections, by an encoder and a decoder.

The encoder is the card's own model (`input_ids`, `attention_mask` -> `(1, length, width)`), the
decoder another model of the server. Greedy or by beams.

No such weights come in a package, so this task was tried on small models made for its tests, not on
real ones; `docs/tasks_media.md` says how to bring yours.

A card (T5 and its kin):

    {"task": "text-to-text", "assets": {"tokenizer.json": "..."},
     "preprocessing": {"prefix": "translate English to German: "},
     "postprocessing": {"decoder": {"model": "t5-decoder", "input": "input_ids"},
                        "begin": [0], "end": 1, "beams": 4}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from aiaas_client.protocol.predictions import GeneratedText, Prediction
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Run
from aiaas_server.tasks.task import TaskSettings
from aiaas_server.tasks.text import check_text, tokenized
from aiaas_server.tasks.written import (
    Beams,
    DecoderSettings,
    NewTokens,
    decode,
    first_output,
    open_tokenizer,
)


class WritingParams(Params):
    """`beams` and `max_new_tokens` in place of the card's."""

    beams: Beams | None = None
    max_new_tokens: NewTokens | None = None


class SourceText(TaskSettings):
    """What the encoder reads.

    Attributes:
        tokenizer: Asset, a `tokenizer.json`.
        prefix: Put in front of every text.
        max_tokens: Longer texts are refused; a cut one would be answered with half a translation.
        max_characters: The same before tokenizing.
    """

    tokenizer: str = "tokenizer.json"
    prefix: str = ""
    max_tokens: Annotated[int, Field(ge=1, le=65_536)] = 512
    max_characters: Annotated[int, Field(ge=1)] = 20_000


class TextToText:
    """One run of the encoder, one of the decoder for each token."""

    input: PayloadKind = "text"
    predictions: tuple[type[Prediction], ...] = (GeneratedText,)
    params: type[Params] = WritingParams

    def __init__(
        self, tokenizer: Any, source: SourceText, settings: DecoderSettings, inputs: frozenset[str]
    ) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self.settings = settings
        self.inputs = inputs

    async def predict(self, payload: Any, params: WritingParams, run: Run) -> GeneratedText:
        text = check_text(payload, self.source.max_characters)
        ids = await run.thread(self._tokens, text)
        mask = np.ones_like(ids)
        parts: dict[str, Array] = {"input_ids": ids, "attention_mask": mask}
        outputs = await run({name: parts[name] for name in self.inputs})
        written = await decode(
            self.settings,
            first_output(outputs),
            mask,
            run,
            beams=params.beams,
            max_new_tokens=params.max_new_tokens,
        )
        return GeneratedText(
            text=self.tokenizer.decode(list(written.tokens), skip_special_tokens=True).strip(),
            tokens=len(written.tokens),
            score=float(np.exp(written.score)),
            finish_reason="stop" if written.ended else "length",
        )

    def _tokens(self, text: str) -> Array:
        ids = tokenized(self.tokenizer, self.source.prefix + text).ids
        if len(ids) > self.source.max_tokens:
            raise InvalidInput(
                f"the text has {len(ids):,} tokens, at most {self.source.max_tokens:,} are "
                "accepted: send it in parts"
            )
        return np.array([ids], np.int64)


def open_task(
    card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
) -> TextToText:
    """The task of one version; see `core.task.OpenTask`."""
    source = read_settings(SourceText, card.preprocessing, "preprocessing")
    settings = read_settings(DecoderSettings, card.postprocessing, "postprocessing")
    inputs = frozenset(spec.name for spec in signature.inputs)
    if not {"input_ids"} <= inputs <= {"input_ids", "attention_mask"}:
        raise LoadFailed(
            f"model '{signature.model}': an encoder takes 'input_ids' and 'attention_mask', "
            f"got {', '.join(sorted(inputs))}"
        )
    return TextToText(open_tokenizer(assets, source.tokenizer), source, settings, inputs)
