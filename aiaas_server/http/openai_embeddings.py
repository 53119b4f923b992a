"""`POST /v1/embeddings`, as the official OpenAI client calls it."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.predictions import Embedding
from aiaas_server.core.errors import InvalidInput, ServerError
from aiaas_server.core.pool import ModelPool
from aiaas_server.core.predict import Predictor
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.control import parse_object
from aiaas_server.http.disconnect import while_connected
from aiaas_server.http.errors import HttpError
from aiaas_server.http.head import deadline_seconds, read_headers
from aiaas_server.http.predict import read_body
from aiaas_server.settings import Settings

MAX_INPUTS = 2048


class EmbeddingRoutes:
    """Vectors of texts by any model whose task is text-embedding."""

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._predictor = Predictor(pool.resolve)

    async def create(self, request: Request) -> Response:
        """Answer one call; unknown members are ignored."""
        headers = read_headers(request.scope)
        settings = self._settings
        seconds = deadline_seconds(headers, settings.default_deadline, settings.max_deadline)
        deadline = asyncio.get_running_loop().time() + seconds
        body = await read_body(request, headers, settings.max_json_bytes, deadline)
        document = parse_object(body)
        name = document.get("model")
        if not isinstance(name, str) or not name:
            raise InvalidInput("'model': expected the name of a model")
        encoding = document.get("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise InvalidInput(f"'encoding_format': expected float or base64, got {encoding!r}")
        model = self._pool.resolve(name, None)
        if model.card is None or model.card.task != "text-embedding":
            raise InvalidInput(f"model '{name}' makes no embeddings")
        payloads = inputs_of(document.get("input"))
        params = (
            {} if document.get("dimensions") is None else {"dimensions": document["dimensions"]}
        )
        work = self._predictor.predict(model, payloads, params, deadline)
        answers = await while_connected(work, request.scope, request.receive)
        return JsonAnswer(await asyncio.to_thread(_document, name, answers, encoding))


def inputs_of(value: Any) -> list[Any]:
    """The payloads of `input`: a text, texts, one list of token ids, or several.

    Raises:
        InvalidInput: Anything else.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and len(value) > 0:
        if all(type(item) is int for item in value):
            return [{"tokens": value}]
        if len(value) > MAX_INPUTS:
            raise InvalidInput(f"'input': got {len(value)} inputs; at most {MAX_INPUTS}")
        if all(isinstance(item, str) for item in value):
            return list(value)
        if all(isinstance(item, list) for item in value):
            return [{"tokens": item} for item in value]
    raise InvalidInput("'input': expected a text, a list of texts, or (lists of) token ids")


def _document(name: str, answers: list[Any], encoding: str) -> dict[str, Any]:
    data = []
    tokens = 0
    for index, answer in enumerate(answers):
        if isinstance(answer, ServerError):
            answer.message = f"input[{index}]: {answer.message}"
            raise answer
        if not isinstance(answer, Embedding):
            raise HttpError(500, ErrorCode.INTERNAL, "the model gave no vector")
        vector = np.asarray(answer.vector, "<f4")
        packed = base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector
        data.append({"object": "embedding", "index": index, "embedding": packed})
        tokens += answer.tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": name, "data": data, "usage": usage}
