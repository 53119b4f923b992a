"""Text embedding, and what follows from it: similarity and reranking.

Payload, one of: a text (its vector); `{"texts": [...]}` (similarity of each with each);
`{"query": text, "documents": [...]}` (the documents, best first); `{"tokens": [ids]}` (a text that
is tokenized already).

Example card (all-MiniLM-L6-v2):

    {"task": "text-embedding",
     "preprocessing": {"tokenizer": "tokenizer.json", "max_tokens": 128, "long_text": "truncate"},
     "postprocessing": {"output": "last_hidden_state", "pooling": "mean", "normalize": true}}

Source of the pooling: Reimers and Gurevych 2019, *Sentence-BERT*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from aiaas_client.protocol.predictions import Embedding, Prediction, Ranked, Ranking, Similarity
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Prepared
from aiaas_server.tasks.task import TaskSettings, output_spec
from aiaas_server.tasks.text import (
    Encoding,
    TextSettings,
    TokenizerEncoder,
    check_text,
    kind_of,
    mean_of_rows,
    open_encoder,
)

ACCEPTED = (
    "a text, {'texts': [...]}, {'query': text, 'documents': [...]} or {'tokens': [...]} is accepted"
)


class Postprocessing(TaskSettings):
    """From the model's output to a vector.

    Attributes:
        output: `(rows, tokens, size)` for `mean` and `first` pooling, `(rows, size)` for `none`.
        normalize: Scale to length 1.
        dimensions: Callers may ask for the first so many numbers of the vector: only for models
            trained for it.
    """

    output: str = ""
    pooling: Literal["mean", "first", "none"] = "mean"
    normalize: bool = True
    dimensions: bool = False


class EmbeddingParams(Params):
    """`top_k` documents of a ranking; the first `dimensions` of a vector, where the card allows."""

    top_k: int | None = Field(default=None, ge=1)
    dimensions: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one payload asks for; the query of a ranking is the first text."""

    kind: Literal["vector", "similarity", "ranking"]
    texts: tuple[str, ...]
    encoded: Encoding


class TextEmbedding:
    """The task of one version."""

    input: PayloadKind = "text"  # objects of texts among them
    predictions: tuple[type[Prediction], ...] = (Embedding, Similarity, Ranking)
    params = EmbeddingParams
    costs = False
    max_texts = 1000

    def __init__(
        self, card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
    ) -> None:
        self._settings = read_settings(TextSettings, card.preprocessing, "preprocessing")
        self._post = read_settings(Postprocessing, card.postprocessing, "postprocessing")
        self._output = output_spec(signature, self._post.output)
        rank = 2 if self._post.pooling == "none" else 3
        if len(self._output.shape) != rank:
            raise LoadFailed(
                f"postprocessing: pooling '{self._post.pooling}' needs an output of {rank} "
                f"dimensions, '{self._output.name}' has {len(self._output.shape)}"
            )
        self._encoder = open_encoder(self._settings, assets, signature)

    def preprocess(self, payload: Any, params: EmbeddingParams) -> Prepared:
        """Check what is asked for and encode all its texts."""
        self._check_dimensions(params)
        if isinstance(payload, dict) and set(payload) == {"tokens"}:
            asked = _Asked("vector", (), self._encode_tokens(payload["tokens"]))
        else:
            kind, texts = self._texts(payload)
            asked = _Asked(kind, texts, self._encoder.encode(texts))
        rows = len(asked.encoded.owners)
        return Prepared(asked.encoded.tensors, rows, asked, (self._output.name,))

    def postprocess(
        self, tensors: Mapping[str, Array], prepared: Prepared, params: EmbeddingParams
    ) -> Prediction:
        """Pool, scale, and compare where that was asked for."""
        asked: _Asked = prepared.context
        vectors = self._vectors(tensors[self._output.name], asked.encoded, params.dimensions)
        tokens = asked.encoded.tokens
        if asked.kind == "vector":
            return Embedding(vector=vectors[0].tolist(), tokens=tokens)
        if asked.kind == "similarity":
            unit = _unit(vectors)
            return Similarity(matrix=np.clip(unit @ unit.T, -1, 1).tolist(), tokens=tokens)
        return Ranking(ranking=_ranked(vectors, asked.texts, params.top_k), tokens=tokens)

    def _texts(
        self, payload: Any
    ) -> tuple[Literal["vector", "similarity", "ranking"], tuple[str, ...]]:
        limit = self._settings.max_characters
        if isinstance(payload, dict):
            keys = set(payload)
            if keys == {"text"}:
                return "vector", (check_text(payload["text"], limit),)
            if keys == {"texts"}:
                return "similarity", self._list(payload["texts"], "texts")
            if keys == {"query", "documents"}:
                query = check_text(payload["query"], limit, "query")
                return "ranking", (query, *self._list(payload["documents"], "documents"))
            listed = ", ".join(f"'{key}'" for key in sorted(map(str, keys))[:8]) or "nothing"
            raise InvalidInput(f"got an object with {listed}; {ACCEPTED}")
        if not isinstance(payload, str):
            raise InvalidInput(f"got {kind_of(payload)}; {ACCEPTED}")
        return "vector", (check_text(payload, limit),)

    def _list(self, values: Any, what: str) -> tuple[str, ...]:
        if not isinstance(values, list) or not 1 <= len(values) <= self.max_texts:
            count = f"{len(values)} texts" if isinstance(values, list) else kind_of(values)
            raise InvalidInput(f"{what}: got {count}; a list of 1 to {self.max_texts} is accepted")
        limit = self._settings.max_characters
        return tuple(check_text(v, limit, f"{what}[{i}]") for i, v in enumerate(values))

    def _encode_tokens(self, tokens: Any) -> Encoding:
        if not isinstance(self._encoder, TokenizerEncoder):
            raise InvalidInput("tokens: this model has no tokenizer; a text is accepted")
        size = self._encoder.vocabulary
        fits = isinstance(tokens, list) and all(
            type(token) is int and 0 <= token < size for token in tokens
        )
        if not fits or not tokens:
            raise InvalidInput(f"tokens: a list of token ids from 0 to {size - 1} is accepted")
        if len(tokens) > self._settings.max_tokens:
            raise InvalidInput(
                f"tokens: got {len(tokens)}; at most {self._settings.max_tokens} are accepted"
            )
        return self._encoder.pack([tokens], [0])

    def _vectors(self, hidden: Array, encoded: Encoding, dimensions: int | None) -> Array:
        if self._post.pooling == "mean":
            weights = encoded.mask[:, :, None].astype(np.float32)
            hidden = (hidden * weights).sum(1) / np.maximum(weights.sum(1), 1)
        elif self._post.pooling == "first":
            hidden = hidden[:, 0]
        vectors = mean_of_rows(hidden, encoded.owners)[:, :dimensions]
        return _unit(vectors) if self._post.normalize else vectors

    def _check_dimensions(self, params: EmbeddingParams) -> None:
        size = self._output.shape[-1]
        if params.dimensions is None:
            return
        if not self._post.dimensions:
            raise InvalidInput("dimensions: this model's vectors cannot be shortened")
        if 0 <= size < params.dimensions:
            raise InvalidInput(f"dimensions: expected 1 to {size}, got {params.dimensions}")


def _unit(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Array = vectors / np.maximum(lengths, 1e-12)
    return unit


def _ranked(vectors: Array, texts: Sequence[str], top_k: int | None) -> tuple[Ranked, ...]:
    unit = _unit(vectors)
    scores = np.clip(unit[1:] @ unit[0], -1, 1)
    order = np.argsort(-scores, kind="stable")[:top_k]
    return tuple(Ranked(index=i, text=texts[1 + i], score=float(scores[i])) for i in order.tolist())


open_task = TextEmbedding
