"""The generate extension for models that write: `text_input` in, `text_output` out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.options import MAX_ID_LENGTH
from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Ask, Generator, Piece
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.errors import Problem, bad_request
from aiaas_server.http.event_stream import begin_stream, event
from aiaas_server.http.incoming import while_connected
from aiaas_server.http.json_body import member
from aiaas_server.http.members import Members, one_of, shown
from aiaas_server.http.oip.parameters import schedule_of
from aiaas_server.http.sampling import read_ask, read_length, read_own_format
from aiaas_server.http.writing import Answers, Writer, Writers
from aiaas_server.settings import Settings

Document = dict[str, Any]

KNOWN: Final = (
    "text_input",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop",
    "regex",
    "grammar",
    "ignore_eos",
    "exclude_input_in_output",
    "stream",
    "priority",
    "timeout",
)
"""Members that mean something; another one would be lost without a word, and is refused."""


class TextCall(NamedTuple):
    """One call.

    Attributes:
        id: The caller's own, or "".
        echo: Whether the text that came stands before the one that is written.
        ask: What is asked of the model; without its tokens.
    """

    id: str
    text: str
    echo: bool
    ask: Ask


class TextRoutes:
    """Texts of models that write, whole or as they are written."""

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._writers = Writers(pool, settings)

    async def whole(
        self, request: Request, document: Document, model: LoadedModel, held: ExitStack
    ) -> Response:
        """One JSON object."""
        writer = self._writers.of(request, model)
        call = read_text_call(document, writer.generator)
        work = _whole(writer, call, held)
        return JsonAnswer(await while_connected(work, request.scope, request.receive))

    async def stream(
        self, request: Request, document: Document, model: LoadedModel, held: ExitStack
    ) -> Response:
        """One event a piece of the text, and no mark of the end behind the last one."""
        writer = self._writers.of(request, model)
        call = read_text_call(document, writer.generator)
        return await begin_stream(request, _events(writer, call, held), held, _tell_problem)


def writes_text(model: LoadedModel) -> bool:
    """Whether it writes, and knows texts; of another one the tensors are called."""
    return model.generator is not None and model.generator.reads_text


def read_text_call(document: Mapping[str, Any], generator: Generator) -> TextCall:
    """A call from its JSON object, whose `parameters` count as members of it.

    Raises:
        HttpError: 400 for an `id` or `parameters` of the wrong kind.
        InvalidInput: A member is missing, unknown or unusable.
    """
    members = dict(document)
    identifier = member(members, "id", str, "")
    if len(identifier) > MAX_ID_LENGTH:
        raise bad_request(f"'id': expected at most {MAX_ID_LENGTH} characters")
    members |= member(members, "parameters", dict, {})
    given = {name: members[name] for name in members if name not in ("id", "parameters")}
    schedule_of({name: given[name] for name in ("priority", "timeout") if name in given})
    for name in given:
        if name not in KNOWN:
            raise InvalidInput(f"{shown(name)} is not known here: expected {one_of(KNOWN)}")
    asked = Members(given)
    asked.boolean("stream")
    length = read_length(asked, "max_tokens", generator)
    ask = read_ask(asked, generator, length, read_own_format(asked))
    echo = not asked.boolean("exclude_input_in_output", True)
    return TextCall(identifier, asked.text("text_input"), echo, ask)


async def _begin(writer: Writer, call: TextCall, held: ExitStack) -> Answers:
    tokens = await writer.generator.encode(call.text)
    answers = Answers(writer, [replace(call.ask, tokens=tokens)], held)
    await answers.begin()
    return answers


async def _whole(writer: Writer, call: TextCall, held: ExitStack) -> Document:
    answers = await _begin(writer, call, held)
    came: list[Piece] = []
    async with aclosing(answers.kept_pieces()) as pieces:
        async for _, piece in pieces:
            came.append(piece)
    text = "".join(piece.text for piece in came)
    before = call.text if call.echo else ""
    return _document(writer, call, before + text) | _ending(answers, came[-1])


async def _events(writer: Writer, call: TextCall, held: ExitStack) -> AsyncGenerator[bytes, None]:
    answers = await _begin(writer, call, held)
    before = call.text if call.echo else ""
    async with aclosing(answers.pieces()) as pieces:
        async for _, piece in pieces:
            document = _document(writer, call, before + piece.text)
            before = ""
            if piece.finish is not None:
                yield event(document | _ending(answers, piece))
            elif document["text_output"]:
                yield event(document)


def _document(writer: Writer, call: TextCall, text: str) -> Document:
    document: Document = {"id": call.id} if call.id else {}
    document["model_name"] = writer.model.name
    document["model_version"] = str(writer.model.version)
    document["text_output"] = text
    return document


def _ending(answers: Answers, piece: Piece) -> Document:
    """What is told with the last piece."""
    (answering,) = answers.all()
    return {
        "finish_reason": piece.finish,
        "prompt_tokens": answering.prompt_tokens,
        "completion_tokens": answering.completion_tokens,
    }


def _tell_problem(problem: Problem, request_id: str) -> bytes:
    return b"data: " + problem.body(request_id) + b"\n\n"
