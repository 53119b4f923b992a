"""`POST /v1/chat/completions`, as the official OpenAI client calls it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from starlette.requests import Request
from starlette.responses import Response

from aiaas_server.core.generation import Piece, Prompt
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.event_stream import begin_stream
from aiaas_server.http.incoming import while_connected
from aiaas_server.http.openai.chat_answer import ChatAnswer, Document
from aiaas_server.http.openai.chat_request import ChatCall, prompted, read_chat_call
from aiaas_server.http.openai.chunks import (
    DONE,
    ChunkWriter,
    Head,
    delta_document,
    json_answer,
    tell_problem,
    usage_of,
)
from aiaas_server.http.writing import Answers, Writer, Writers, several
from aiaas_server.settings import Settings


class ChatRoutes:
    """Conversations with models that write."""

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._writers = Writers(pool, settings)

    async def create(self, request: Request) -> Response:
        """Answer a conversation, whole or in events; harmless members are ignored."""
        asked = await self._writers.read(request)
        with ExitStack() as held:
            writer = await self._writers.find(request, asked.model, held)
            call = await asked.read(read_chat_call, writer.generator)
            begun = _begin(writer, call, held)
            prompt, answers = await while_connected(begun, request.scope, request.receive)
            head = Head("chatcmpl-", call.model)
            if call.stream:
                events = _events(head, call, prompt, answers)
                return await begin_stream(request, events, held, tell_problem)
            whole = _whole(head, call, prompt, answers)
            return json_answer(await while_connected(whole, request.scope, request.receive))


async def _begin(writer: Writer, call: ChatCall, held: ExitStack) -> tuple[Prompt, Answers]:
    prompt = await writer.generator.prompt(call.chat)
    answers = Answers(writer, several(prompted(call.ask, prompt), call.choices), held)
    await answers.begin()
    return prompt, answers


async def _whole(head: Head, call: ChatCall, prompt: Prompt, answers: Answers) -> Document:
    """The answer when all of it is there."""
    read = [ChatAnswer(prompt.reader()) for _ in range(call.choices)]
    async with aclosing(answers.kept_pieces()) as pieces:
        async for index, piece in pieces:
            read[index].take(piece)
    choices = [
        {
            "index": index,
            "message": one.message(),
            "logprobs": None if call.ask.logprobs is None else {"content": one.told},
            "finish_reason": one.finish,
        }
        for index, one in enumerate(read)
    ]
    return head.document("chat.completion", choices, usage_of([answers.all()]))


async def _events(
    head: Head, call: ChatCall, prompt: Prompt, answers: Answers
) -> AsyncGenerator[bytes, None]:
    """The answer as it is written."""
    chunks = ChunkWriter(head, "chat.completion.chunk", usage=call.usage)
    read = [ChatAnswer(prompt.reader(), keeps=False) for _ in range(call.choices)]
    begun: set[int] = set()
    async with aclosing(answers.pieces()) as pieces:
        async for index, piece in pieces:
            if index not in begun:
                begun.add(index)
                yield chunks.choice(_choice(index, {"role": "assistant", "content": ""}))
            for choice in _choices(index, read[index], piece):
                yield chunks.choice(choice)
    if call.usage:
        yield chunks.usage(usage_of([answers.all()]))
    yield DONE


def _choices(index: int, answer: ChatAnswer, piece: Piece) -> list[Document]:
    """What one piece says, a choice for each event; log-probabilities are in the first one."""
    found = [_choice(index, delta_document(answer, delta)) for delta in answer.take(piece)]
    if piece.finish is not None:
        found.append(_choice(index, {}) | {"finish_reason": answer.finish})
    if answer.fresh:
        if not found:
            found.append(_choice(index, {"content": ""}))
        found[0]["logprobs"] = {"content": answer.fresh}
    return found


def _choice(index: int, delta: Document) -> Document:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
