"""Hot requests: answered by plain calls, without a task or ASGI's messages.

The function that answers one is the same whoever serves. A server of ours hands it the request
straight from the connection (`edge/lane.py`); under any other ASGI server the route does, through
`AsgiCall`. What it is not made for, it leaves untouched, and the route goes on as ever.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from aiaas_client.protocol.inference import InferRequest
from aiaas_client.protocol.tensors import Body
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.schedule.requests import Request
from aiaas_server.http.answers import Reply
from aiaas_server.http.gate import Gate
from aiaas_server.http.incoming import RequestContext


class Begun(Protocol):
    """Work of several requests for one call."""

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        ...


class HotCall(ABC):
    """One request whose body is here, and the way back for its one answer.

    It waits for a model's outcome itself: a `core.schedule.requests.Waiter`.

    Attributes:
        context: What the front door found out.
        body: The whole body, plain.
        model, request: What is run, kept by whoever began it until `finish`.
        queued: What waits in the model's queue.
        task: Works on the answer.
        finish: Called with this and the outcome; what it raises is the answer.
        begun: What else is under way for it; abandoned when nobody waits any more.
    """

    __slots__ = ("begun", "body", "context", "finish", "model", "queued", "request", "task")

    context: RequestContext
    body: Body
    model: LoadedModel
    request: InferRequest
    finish: Callable[[Any, Any], None]

    def __init__(self) -> None:
        self.begun: Begun | None = None
        self.queued: Request | None = None
        self.task: asyncio.Task[None] | None = None

    @abstractmethod
    def answer(self, reply: Reply) -> None:
        """Send the answer; whole, and the only one."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Answer with what is told of `error`."""

    @abstractmethod
    def done(self) -> bool:
        """Whether nobody waits any more."""

    def later(self, work: Coroutine[Any, Any, Reply]) -> None:
        """Answer with what `work` gives, which is too much for the event loop."""
        self.task = asyncio.get_running_loop().create_task(self._answer_later(work))
        self.task.add_done_callback(lambda _: work.close())  # where it never began

    async def _answer_later(self, work: Coroutine[Any, Any, Reply]) -> None:
        try:
            self.answer(await work)
        except Exception as error:
            self.fail(error)
        finally:
            self.task = None

    def set_result(self, result: Any) -> None:
        """The model has run: takes its outcome, or what was made of it."""
        self.queued = None
        try:
            self.finish(self, result)
        except Exception as error:
            self.fail(error)

    def set_exception(self, exception: Exception) -> None:
        """The model has not."""
        self.queued = None
        self.fail(exception)

    def drop(self) -> None:
        """End what was begun for it, since nobody waits any more."""
        queued, self.queued = self.queued, None
        if queued is not None:
            self.model.scheduler.abandon(queued)
        if self.begun is not None:
            self.begun.abandon()
        if self.task is not None:
            self.task.cancel()


HotEndpoint = Callable[[HotCall], bool]
"""Begins to answer a call; False where it has done nothing because others must answer it.

Whatever it raises is the answer.
"""


class HotRoutes:
    """The hot requests of an application, by method and path.

    Args:
        gate: The door that they come in by, as all others do.
        find: Gives who answers a method and path.
        longest: Most bytes of a body; others are refused without being waited for.
    """

    def __init__(
        self, gate: Gate, find: Callable[[str, str], HotEndpoint | None], longest: int
    ) -> None:
        self.gate = gate
        self.find = find
        self.longest = longest


class AsgiCall(HotCall):
    """A hot request of a route."""

    __slots__ = ("_error", "_future", "_reply")

    def __init__(self, context: RequestContext, body: Body) -> None:
        super().__init__()
        self.context = context
        self.body = body
        self._reply: Reply | None = None
        self._error: Exception | None = None
        self._future: asyncio.Future[None] | None = None

    def answer(self, reply: Reply) -> None:
        """Keep it for `reply`."""
        self._reply = reply
        self._wake()

    def fail(self, error: Exception) -> None:
        """Keep it for `reply`, which raises it."""
        self._error = error
        self._wake()

    def done(self) -> bool:
        """Whether the task that waits was cancelled."""
        return self._future is not None and self._future.done()

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def reply(self) -> Reply:
        """Wait for the answer; cancelled, it drops the call."""
        if self._reply is None and self._error is None:
            self._future = asyncio.get_running_loop().create_future()
            try:
                await self._future
            except asyncio.CancelledError:
                self.drop()
                raise
        try:
            if self._reply is None:
                assert self._error is not None, "woken up by the one or the other"
                raise self._error
            return self._reply
        finally:
            self._error = None  # its traceback holds this call
