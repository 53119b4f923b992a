"""What every route does that has a model write: find it, begin answers, read them side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

from starlette.requests import Request

from aiaas_server.core.errors import OutputTooLarge
from aiaas_server.core.generation import Answering, Ask, Generator, Piece, generator_of
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.incoming import RequestContext, SizeLimit, context_of, read_body
from aiaas_server.http.json_body import parse_body
from aiaas_server.http.lookup import in_use, obtain_named
from aiaas_server.http.members import Members
from aiaas_server.http.sampling import seed_of
from aiaas_server.settings import Settings

T = TypeVar("T")

AT_ONCE: Final = 16
"""Answers of one call that are written at a time: one call does not fill the queue for all."""
_TOLD: Final = 64  # bytes of JSON, at least, that tell a log-probability
Came = tuple[int, Piece] | Exception


class Writer(NamedTuple):
    """A model that writes, for one call.

    Attributes:
        deadline: On the loop's clock.
        max_bytes: Of an answer that is told whole.
    """

    model: LoadedModel
    generator: Generator
    context: RequestContext
    deadline: float
    max_bytes: int


class Asked(NamedTuple):
    """The body of a call.

    Attributes:
        is_large: Whether to look at each of its members would hold up others.
    """

    members: Members
    is_large: bool

    @property
    def model(self) -> str:
        """The name of the model that is called."""
        return self.members.text("model")

    async def read(self, function: Callable[..., T], *args: Any) -> T:
        """What `function` makes of it, on a thread where it is large."""
        if self.is_large:
            return await asyncio.to_thread(function, self.members, *args)
        return function(self.members, *args)


class Writers:
    """Finds what writes."""

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._max_json = SizeLimit(settings.max_json_bytes, "max_json_bytes")

    async def read(self, request: Request) -> Asked:
        """The body of a call."""
        body = await read_body(request, self._max_json, context_of(request).deadline)
        document = await parse_body(body, self._settings.offload_json_bytes)
        return Asked(Members(document), len(body) > self._settings.offload_json_bytes)

    async def find(self, request: Request, name: str, held: ExitStack) -> Writer:
        """A model by its name, which stays in use until `held` is let go of.

        Raises:
            InvalidInput: It does not write.
            ServerError: As `ModelPool.obtain`.
        """
        model = await obtain_named(self._pool, name, context_of(request))
        held.enter_context(in_use(model))
        return self.of(request, model)

    def of(self, request: Request, model: LoadedModel) -> Writer:
        """A model that is in use already.

        Raises:
            InvalidInput: It does not write.
        """
        context = context_of(request)
        deadline, most = self._deadline(context), self._settings.max_answer_bytes
        return Writer(model, generator_of(model), context, deadline, most)

    def _deadline(self, context: RequestContext) -> float:
        """When nobody waits any more: an answer takes long, and whoever reads it says nothing."""
        if b"x-request-timeout-ms" in context.headers:
            return context.deadline
        return context.deadline + self._settings.max_deadline - self._settings.default_deadline


def several(ask: Ask, count: int) -> list[Ask]:
    """The same, several times, with seeds that differ; the prompt counts once."""
    sampling = ask.sampling
    return [
        replace(
            ask,
            sampling=replace(sampling, seed=seed_of(sampling, index)),
            is_again=ask.is_again or index > 0,
        )
        for index in range(count)
    ]


class Answers:
    """The answers of one call, which are written side by side, but only so many at a time.

    Args:
        held: Letting go of it cancels those that are not at their end.
    """

    def __init__(self, writer: Writer, asks: Sequence[Ask], held: ExitStack) -> None:
        self._writer = writer
        self._asks = asks
        self._begun: dict[int, Answering] = {}
        self._left = False
        held.callback(self._leave)

    async def begin(self) -> None:
        """Begin the first ones.

        Raises:
            ServerError: As `Generator.start`.
        """
        for index in range(min(len(self._asks), AT_ONCE)):
            await self._answer(index)

    def all(self) -> list[Answering]:
        """Those that have begun, in order."""
        return [self._begun[index] for index in sorted(self._begun)]

    async def kept_pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """As `pieces`, for whoever keeps them all to the end.

        Raises:
            ServerError: One of them breaks off, or there would be too much to tell.
        """
        size, most = 0, self._writer.max_bytes
        async with aclosing(self.pieces()) as pieces:
            async for index, piece in pieces:
                size += len(piece.text) + sum([_TOLD * (1 + len(t.likeliest)) for t in piece.told])
                if size > most:
                    raise OutputTooLarge(
                        f"the answer has more than {most} bytes: ask for fewer tokens or "
                        "log-probabilities, or for a stream"
                    )
                yield index, piece

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """Pieces of all answers as they come, each with the index of its answer.

        Raises:
            ServerError: One of them breaks off.
        """
        if len(self._asks) == 1:  # nobody has to be waited for beside it
            async for piece in await self._answer(0):
                yield 0, piece
                if piece.finish is not None:
                    return
            return
        # Room for one each: who reads slowly is noticed by the model, whose pieces wait there.
        queue: asyncio.Queue[Came] = asyncio.Queue(AT_ONCE)
        waiting = iter(range(len(self._asks)))
        tasks = [asyncio.create_task(self._read(waiting, queue)) for _ in range(AT_ONCE)]
        try:
            left = len(self._asks)
            while left:
                came = await queue.get()
                if isinstance(came, Exception):
                    raise came
                left -= came[1].finish is not None
                yield came
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, waiting: Iterator[int], queue: asyncio.Queue[Came]) -> None:
        """Read one answer after the other, of those that nobody reads."""
        try:
            for index in waiting:
                async for piece in await self._answer(index):
                    await queue.put((index, piece))
                    if piece.finish is not None:
                        break
        except Exception as error:  # whoever reads the queue raises it
            await queue.put(error)

    async def _answer(self, index: int) -> Answering:
        found = self._begun.get(index)
        if found is None:
            writer = self._writer
            caller = writer.context.caller
            found = await writer.generator.start(self._asks[index], writer.deadline, caller)
            self._begun[index] = found
            if self._left:  # while it began
                found.cancel()
        return found

    def _leave(self) -> None:
        self._left = True
        for answering in self._begun.values():
            answering.cancel()
