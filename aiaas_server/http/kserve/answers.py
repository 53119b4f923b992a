"""Predictions as they are sent: one with its own fields, several as a list, and who made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from starlette.responses import Response

from aiaas_client.protocol.predictions import PREDICTIONS, Prediction
from aiaas_server.core.errors import ServerError
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.payloads import Answer
from aiaas_server.http.answers import JSON_TYPE, NO_STORE, NOSNIFF, Reply, header_block
from aiaas_server.http.errors import problem_of
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.slices import check_size, written

INLINE = 64  # instances read and answers written on the event loop
MAX_HEADS = 1024
_COMMON = (NOSNIFF, NO_STORE)


class Head(NamedTuple):
    """What the answers of a model's task have in common.

    Attributes:
        headers, block: As of `Reply`.
        name: What tells the model behind a prediction's own fields; empty where they do.
    """

    headers: Sequence[tuple[bytes, bytes]]
    block: bytes
    name: bytes


class PredictionWriter:
    """Writes the answers of predict calls, the same for every way that they leave by.

    Args:
        max_bytes: Of an answer's text.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._heads: dict[tuple[str, int, str, type[object]], Head] = {}

    def write_now(self, model: LoadedModel, answers: Sequence[Answer], *, many: bool) -> Reply:
        """The answer of a few predictions.

        Args:
            many: They are told as a list.
        Raises:
            ServerError: None could be made, or they are too large.
        """
        _refuse_failed(answers, many=many)
        text = write_answers(answers)
        check_size(len(text), self._max_bytes)
        return self._reply(model, answers, text, many=many)

    async def write(self, model: LoadedModel, answers: Sequence[Answer], *, many: bool) -> Reply:
        """As `write_now`, of however many."""
        _refuse_failed(answers, many=many)
        text = await written(write_answers, answers, self._max_bytes, inline=INLINE)
        return self._reply(model, answers, text, many=many)

    def _reply(
        self, model: LoadedModel, answers: Sequence[Answer], text: bytes, *, many: bool
    ) -> Reply:
        head = self._head(model, _task_name(model, answers), answers[0].__class__)
        if many:
            text = b'{"predictions":[' + text + b"]}"
        elif head.name:
            text = text[:-1] + (b"," if len(text) > 2 else b"") + head.name
        return Reply(head.headers, (text,), len(text), head.block)

    def _head(self, model: LoadedModel, task: str, kind: type[object]) -> Head:
        """Remembered, since most answers have one of a few."""
        key = model.name, model.version, task, kind
        found = self._heads.get(key)
        if found is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            found = self._heads[key] = _make_head(model, task, kind)
        return found


def _make_head(model: LoadedModel, task: str, kind: type[object]) -> Head:
    headers = (
        JSON_TYPE,
        (b"x-aiaas-model", model.name.encode("latin-1")),
        (b"x-aiaas-version", b"%d" % model.version),
        (b"x-aiaas-task", task.encode("latin-1")),
        *_COMMON,
    )
    tells_model = issubclass(kind, Prediction) and "model" in kind.model_fields
    name = b"" if tells_model else b'"model":' + FAST_JSON.dumps(model.name) + b"}"
    return Head(headers, header_block(headers), name)


def write_answers(answers: Sequence[Answer]) -> bytes:
    """The entries of `predictions`, without the brackets."""
    return b",".join(
        [
            _error_entry(answer)
            if isinstance(answer, ServerError)
            else answer.__pydantic_serializer__.to_json(answer)
            for answer in answers
        ]
    )


def as_response(reply: Reply) -> Response:
    """An answer for the Starlette routes, which get their common headers on the way out."""
    response = Response(b"".join(reply.chunks))
    response.raw_headers += [line for line in reply.headers if line not in _COMMON]
    return response


def _error_entry(error: ServerError) -> bytes:
    problem = problem_of(error)
    return FAST_JSON.dumps({"error": problem.message[:512], "code": problem.code.value})


def _task_name(model: LoadedModel, answers: Sequence[Answer]) -> str:
    """The card's task; for a pipeline one whose predictions are of the same type."""
    name = model.card.task if model.card is not None else ""
    if name != "pipeline":
        return name
    kinds = {type(answer) for answer in answers if isinstance(answer, Prediction)}
    return next((task for task, own in PREDICTIONS.items() if kinds <= set(own)), name)


def _refuse_failed(answers: Sequence[Answer], *, many: bool) -> None:
    """Return where there is a prediction.

    Raises:
        ServerError: The first one's error, anew: raised itself, it would hold all others until a
            collection. A lone one's is raised itself.
    """
    first = answers[0]
    if not isinstance(first, ServerError):
        return
    kinds = set(map(type, answers))  # few, of however many
    if not all(issubclass(kind, ServerError) for kind in kinds):
        return
    if not many:
        raise first
    message = first.message
    if len(answers) > 1:
        message = f"instance 0: {message} (and {len(answers) - 1} more)"
    raise type(first)(message, retry_after=first.retry_after)
