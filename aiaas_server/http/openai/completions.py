"""`POST /v1/completions`: texts that go on, as the official OpenAI client calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from starlette.requests import Request
from starlette.responses import Response

from aiaas_server.core.generation import FinishReason, Told
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.event_stream import begin_stream
from aiaas_server.http.incoming import while_connected
from aiaas_server.http.openai.chances import logprob_of, text_of
from aiaas_server.http.openai.chat_answer import Document
from aiaas_server.http.openai.chunks import (
    DONE,
    ChunkWriter,
    Head,
    json_answer,
    tell_problem,
    usage_of,
)
from aiaas_server.http.openai.completion_request import CompletionCall, read_completion_call
from aiaas_server.http.writing import Answers, Writer, Writers, several
from aiaas_server.settings import Settings


class CompletionRoutes:
    """Texts that models which write go on with."""

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._writers = Writers(pool, settings)
        self._most = settings.max_instances

    async def create(self, request: Request) -> Response:
        """Go on with a text, whole or in events; harmless members are ignored."""
        asked = await self._writers.read(request)
        with ExitStack() as held:
            writer = await self._writers.find(request, asked.model, held)
            call = await asked.read(read_completion_call, writer.generator, self._most)
            begun = _begin(writer, call, held)
            answers = await while_connected(begun, request.scope, request.receive)
            head = Head("cmpl-", call.model)
            texts = _echoes(writer, call)
            if call.stream:
                events = _events(head, call, answers, texts)
                return await begin_stream(request, events, held, tell_problem)
            whole = _whole(head, call, answers, texts)
            return json_answer(await while_connected(whole, request.scope, request.receive))


async def _begin(writer: Writer, call: CompletionCall, held: ExitStack) -> Answers:
    asks = []
    for prompt in call.prompts:
        tokens = await writer.generator.encode(prompt) if isinstance(prompt, str) else prompt
        await asyncio.sleep(0)  # there may be many: others come in between
        asks += several(replace(call.ask, tokens=tokens), call.choices)
    answers = Answers(writer, asks, held)
    await answers.begin()
    return answers


def _echoes(writer: Writer, call: CompletionCall) -> list[str]:
    """What stands before each answer."""
    if not call.echo:
        return [""] * (len(call.prompts) * call.choices)
    texts = [
        prompt if isinstance(prompt, str) else writer.generator.decode(prompt)
        for prompt in call.prompts
    ]
    return [text for text in texts for _ in range(call.choices)]


class _Row(NamedTuple):
    """A token that was chosen.

    Attributes:
        top: The likeliest ones as JSON has them; written as they come, see `chunks.chances`.
    """

    text: str
    logprob: float
    top: Any


class _Part(NamedTuple):
    """What is new of one text, or all of it."""

    text: str
    rows: Sequence[_Row] = ()
    finish: FinishReason | None = None


async def _whole(
    head: Head, call: CompletionCall, answers: Answers, texts: Sequence[str]
) -> Document:
    """The answers when all of them are there."""
    read: list[list[_Part]] = [[] for _ in texts]
    async with aclosing(answers.kept_pieces()) as pieces:
        async for index, piece in pieces:
            read[index].append(_Part(piece.text, _rows(piece.told), piece.finish))
    choices = []
    for index, (before, came) in enumerate(zip(texts, read, strict=True)):
        rows = [row for part in came for row in part.rows]
        part = _Part(before + "".join(part.text for part in came), rows, came[-1].finish)
        choices.append(_choice(index, part, call.ask.logprobs, 0))
    return head.document("text_completion", choices, _usage(call, answers))


async def _events(
    head: Head, call: CompletionCall, answers: Answers, texts: Sequence[str]
) -> AsyncGenerator[bytes, None]:
    """The answers as they are written."""
    chunks = ChunkWriter(head, "text_completion", usage=call.usage)
    before = list(texts)
    offsets = [0] * len(texts)
    async with aclosing(answers.pieces()) as pieces:
        async for index, piece in pieces:
            part = _Part(before[index] + piece.text, _rows(piece.told), piece.finish)
            before[index] = ""
            if part.text or part.rows or part.finish is not None:
                yield chunks.choice(_choice(index, part, call.ask.logprobs, offsets[index]))
                offsets[index] += len(part.text)
    if call.usage:
        yield chunks.usage(_usage(call, answers))
    yield DONE


def _usage(call: CompletionCall, answers: Answers) -> Document:
    found, size = answers.all(), call.choices
    return usage_of([found[i : i + size] for i in range(0, len(found), size)])


def _choice(index: int, part: _Part, logprobs: int | None, offset: int) -> Document:
    return {
        "index": index,
        "text": part.text,
        "logprobs": None if logprobs is None else _logprobs(part.rows, logprobs, offset),
        "finish_reason": part.finish,
    }


def _rows(told: Sequence[Told]) -> list[_Row]:
    rows = []
    for one in told:
        top = {text_of(chance): logprob_of(chance) for chance in one.likeliest}
        written = orjson.Fragment(orjson.dumps(top))
        rows.append(_Row(text_of(one.chosen), logprob_of(one.chosen), written))
    return rows


def _logprobs(rows: Sequence[_Row], most: int, offset: int) -> Document:
    """Log-probabilities in the older form; `offset` is where the text of the first token begins."""
    offsets = []
    for row in rows:
        offsets.append(offset)
        offset += len(row.text)
    return {
        "tokens": [row.text for row in rows],
        "token_logprobs": [row.logprob for row in rows],
        "top_logprobs": [row.top for row in rows] if most else None,
        "text_offset": offsets,
    }
