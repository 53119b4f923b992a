"""The server's core inside the caller's process: the same models and rules, no socket.

`EmbeddedServer` runs the ASGI application on an event loop of its own thread, for everything but
the common inference, which runs the model in the caller's thread and never leaves it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from aiaas_client.protocol.tensors import Array
from aiaas_server.app import create_app
from aiaas_server.core.errors import ModelUnavailable, ServerError
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.http.errors import problem_of
from aiaas_server.http.incoming import CANCELS_ON_DISCONNECT
from aiaas_server.settings import Settings

T = TypeVar("T")
RawHeaders = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Response:
    """What the application answered to one request in process."""

    status: int = 0
    headers: RawHeaders = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)


class EmbeddedServer:
    """A server without a socket.

    Args:
        settings: As for a served process; what concerns listening is not used.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = create_app(settings, local=True)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="aiaas-embedded", daemon=True)
        self._thread.start()
        self._closed = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def start(self) -> None:
        """Load the models; a model that does not load is told by the index and by its calls."""
        self.submit(self._app.start()).result()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` on the server's own event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def infer(
        self,
        name: str,
        version: int | str | None,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
    ) -> tuple[LoadedModel, Outcome]:
        """Run the model in the caller's thread.

        Raises:
            ServerError: As the server would answer it.
        """
        pool = self._app.pool
        if pool.loads_on_demand:
            with pool.held(name):
                return self._infer(name, version, inputs, outputs)
        return self._infer(name, version, inputs, outputs)

    def _infer(
        self,
        name: str,
        version: int | str | None,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
    ) -> tuple[LoadedModel, Outcome]:
        """Run a model, loaded if need be, that stays; another one if it gave way meanwhile."""
        pool = self._app.pool
        while True:
            model = pool.find(name, version)
            if model is None:
                model = self.submit(pool.obtain(name, version)).result()
            try:
                return model, model.infer_now(inputs, outputs)
            except ModelUnavailable:
                if pool.find(name, version) is model:
                    raise

    def infer_queued(
        self,
        name: str,
        version: int | str | None,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        timeout: float,
    ) -> Future[tuple[LoadedModel, Outcome]]:
        """Queue the inference on the server's own loop, where concurrent calls share batches.

        Cancelling the future abandons the work.
        """

        async def run() -> tuple[LoadedModel, Outcome]:
            deadline = self._loop.time() + timeout
            pool = self._app.pool
            model = pool.find(name, version)
            if model is None:
                model = await pool.obtain(name, version, deadline=deadline)
            return model, await model.infer(inputs, outputs, deadline=deadline)

        return self.submit(run())

    async def answer(
        self,
        method: str,
        target: str,
        headers: RawHeaders,
        content: Iterable[bytes | memoryview],
        tell: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Response:
        """Have the application answer one request; call it on the server's own loop.

        `tell` gets the ASGI messages of the answer as they come, which is then not collected.
        """
        response = Response()
        body = b"".join(content)
        scope = _scope(method, target, headers, len(body))
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            message = next(messages, None)
            if message is None:
                await asyncio.Event().wait()
            return message or {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            if tell is not None:
                tell(message)
            elif message["type"] == "http.response.start":
                response.status = message["status"]
                response.headers = list(message["headers"])
            else:
                response.body += message.get("body", b"")

        await self._app(scope, receive, send)
        return response

    def refusal(self, error: ServerError, request_id: str) -> Response:
        """What the application would answer to `error`; it is counted as if it had."""
        problem = problem_of(error)
        self._app.refused(problem.code)
        return Response(problem.status, list(problem.headers), bytearray(problem.body(request_id)))

    def close(self) -> None:
        """Release the models and end the thread."""
        if self._closed:
            return
        self._closed = True
        self.submit(self._app.close()).result()
        self.submit(_end_the_rest()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_the_rest() -> None:
    """Cancel what still answers, such as a stream of events: its caller would wait for ever."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _scope(method: str, target: str, headers: RawHeaders, size: int) -> dict[str, Any]:
    """The ASGI scope of a request whose body has `size` bytes."""
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": [
            (b"host", b"embedded"),
            (b"content-length", b"%d" % size),
            *((name.lower(), value) for name, value in headers),
        ],
        "client": ("127.0.0.1", 0),
        "server": ("embedded", None),
        # whoever waits for the answer cancels the task when it stops waiting
        "extensions": {CANCELS_ON_DISCONNECT: {}},
    }
