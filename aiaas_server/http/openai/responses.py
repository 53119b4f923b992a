"""`POST /v1/responses`, as the official OpenAI client calls it; nothing is stored."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from starlette.requests import Request
from starlette.responses import Response

from aiaas_server.core.generation import Prompt
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.event_stream import begin_stream
from aiaas_server.http.incoming import while_connected
from aiaas_server.http.openai.chat_answer import ChatAnswer, Document
from aiaas_server.http.openai.chat_request import prompted
from aiaas_server.http.openai.chunks import json_answer
from aiaas_server.http.openai.response_events import (
    ResponseDocument,
    ResponseEvents,
    whole_output,
)
from aiaas_server.http.openai.responses_request import ResponseCall, read_response_call
from aiaas_server.http.writing import Answers, Writer, Writers
from aiaas_server.settings import Settings


class ResponseRoutes:
    """Answers to what is sent whole each time."""

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._writers = Writers(pool, settings)

    async def create(self, request: Request) -> Response:
        """Answer an input, whole or in events; nothing is stored."""
        asked = await self._writers.read(request)
        with ExitStack() as held:
            writer = await self._writers.find(request, asked.model, held)
            call = await asked.read(read_response_call, writer.generator)
            begun = _begin(writer, call, held)
            prompt, answers = await while_connected(begun, request.scope, request.receive)
            answer = ChatAnswer(prompt.reader(), keeps=not call.stream)
            if call.stream:
                told = ResponseEvents(call, answer)
                events = _events(told, answers)
                return await begin_stream(request, events, held, told.tell_problem)
            whole = _whole(call, answer, answers)
            return json_answer(await while_connected(whole, request.scope, request.receive))


async def _begin(writer: Writer, call: ResponseCall, held: ExitStack) -> tuple[Prompt, Answers]:
    prompt = await writer.generator.prompt(call.chat)
    answers = Answers(writer, [prompted(call.ask, prompt)], held)
    await answers.begin()
    return prompt, answers


async def _whole(call: ResponseCall, answer: ChatAnswer, answers: Answers) -> Document:
    """The answer when all of it is there."""
    document = ResponseDocument(call)
    async with aclosing(answers.kept_pieces()) as pieces:
        async for _, piece in pieces:
            answer.take(piece)
    document.output += whole_output(answer, call.ask.logprobs is not None)
    (answering,) = answers.all()
    return document.ended(answer, answering)


async def _events(told: ResponseEvents, answers: Answers) -> AsyncGenerator[bytes, None]:
    """The answer as it is written."""
    begun = False
    async with aclosing(answers.pieces()) as pieces:
        async for _, piece in pieces:
            if not begun:
                begun = True
                for event in told.begin():
                    yield event
            for event in told.take(piece):
                yield event
    (answering,) = answers.all()
    for event in told.end(answering):
        yield event
