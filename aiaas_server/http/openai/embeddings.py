"""`POST /v1/embeddings`, as the official OpenAI client calls it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.predictions import Embedding
from aiaas_server.core.errors import InvalidInput, ServerError
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.payloads import Answer
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.predict import Predictor
from aiaas_server.http.errors import HttpError
from aiaas_server.http.incoming import SizeLimit, context_of, read_body, while_connected
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.json_body import parse_body
from aiaas_server.http.lookup import in_use, obtain_named
from aiaas_server.http.slices import check_count, written
from aiaas_server.settings import Settings

INLINE = 8  # vectors written on the event loop


class EmbeddingRoutes:
    """Vectors of texts by any model whose task is text-embedding."""

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._predictor = Predictor(pool.obtain)
        self._max_json = SizeLimit(settings.max_json_bytes, "max_json_bytes")

    async def create(self, request: Request) -> Response:
        """Answer one call; unknown members are ignored."""
        context = context_of(request)
        body = await read_body(request, self._max_json, context.deadline)
        document = await parse_body(body, self._settings.offload_json_bytes)
        call = read_call(document, self._settings.max_instances)
        model = await obtain_named(self._pool, call.model, context)
        check_task(model, call.model)
        work = self._predictor.predict(
            model, call.payloads, call.params, context.deadline, context.caller
        )
        with in_use(model):  # its work begins in a later turn of the loop
            answers = await while_connected(work, request.scope, request.receive)
        text = await self._written(call, vectors_of(answers))
        return Response(text, media_type="application/json")

    async def _written(self, call: EmbeddingCall, vectors: Sequence[Embedding]) -> bytes:
        numbered = list(enumerate(vectors))
        limit = self._settings.max_answer_bytes
        write = partial(write_entries, call.encoding)
        return with_usage(call, vectors, await written(write, numbered, limit, inline=INLINE))


class EmbeddingCall(NamedTuple):
    """What is asked for.

    Attributes:
        encoding: `float` or `base64`.
    """

    model: str
    payloads: list[Any]
    params: dict[str, Any]
    encoding: str


def read_call(document: Mapping[str, Any], most: int) -> EmbeddingCall:
    """A call from its JSON object; unknown members are ignored.

    Raises:
        InvalidInput: A member is missing or unusable, or there are more than `most` inputs.
    """
    name = document.get("model")
    if not isinstance(name, str) or not name:
        raise InvalidInput("'model': expected the name of a model")
    encoding = document.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise InvalidInput(f"'encoding_format': expected float or base64, got {encoding!r}")
    dimensions = document.get("dimensions")
    params = {} if dimensions is None else {"dimensions": dimensions}
    return EmbeddingCall(name, inputs_of(document.get("input"), most), params, encoding)


def check_task(model: LoadedModel, name: str) -> None:
    """Only models of one task make embeddings.

    Raises:
        InvalidInput: This one does not.
    """
    if model.card is None or model.card.task != "text-embedding":
        raise InvalidInput(f"model '{name}' makes no embeddings")


def with_usage(call: EmbeddingCall, vectors: Sequence[Embedding], entries: bytes) -> bytes:
    """The whole answer, around the entries of `data`."""
    tokens = sum(vector.tokens for vector in vectors)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    rest = FAST_JSON.dumps({"model": call.model, "usage": usage})
    return b'{"object":"list","data":[' + entries + b"]," + rest[1:]


def inputs_of(value: Any, most: int) -> list[Any]:
    """The payloads of `input`: a text, texts, one list of token ids, or several.

    Raises:
        InvalidInput: Anything else, or more than `most`.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and len(value) > 0:
        if all(type(item) is int for item in value):
            return [{"tokens": value}]
        check_count("input", len(value), most)
        if all(isinstance(item, str) for item in value):
            return list(value)
        if all(isinstance(item, list) for item in value):
            return [{"tokens": item} for item in value]
    raise InvalidInput("'input': expected a text, a list of texts, or (lists of) token ids")


def vectors_of(answers: Sequence[Answer]) -> list[Embedding]:
    """The vectors, all of them.

    Raises:
        ServerError: What was wrong with one input, which is named.
        HttpError: 500 when the model gave something else.
    """
    vectors = []
    for index, answer in enumerate(answers):
        if isinstance(answer, ServerError):
            answer.message = f"input[{index}]: {answer.message}"
            raise answer
        if not isinstance(answer, Embedding):
            raise HttpError(500, ErrorCode.INTERNAL, "the model gave no vector")
        vectors.append(answer)
    return vectors


def write_entries(encoding: str, numbered: Sequence[tuple[int, Embedding]]) -> bytes:
    """The entries of `data`, without the brackets."""
    entries = []
    for index, answer in numbered:
        vector = np.asarray(answer.vector, "<f4")
        packed = base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector
        entries.append({"object": "embedding", "index": index, "embedding": packed})
    return FAST_JSON.dumps(entries)[1:-1]
