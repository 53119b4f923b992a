"""The server's core inside the caller's process: the same models and rules, no socket.

`EmbeddedServer` runs the ASGI application on an event loop of its own thread, for everything but
the common inference, which runs the model in the caller's thread and never leaves it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from aiaas_client.protocol.tensors import Array
from aiaas_server.app import create_app
from aiaas_server.core.model import LoadedModel, Outcome
from aiaas_server.http.errors import problem_of
from aiaas_server.settings import Settings

T = TypeVar("T")
RawHeaders = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Answer:
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
        self._app = create_app(settings)
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

    def model(self, name: str, version: int | None) -> LoadedModel:
        """Find what serves `name` now.

        Raises:
            ModelNotFound, VersionNotFound, ModelUnavailable.
        """
        return self._app.pool.resolve(name, version)

    def infer(
        self, name: str, version: int | None, inputs: Mapping[str, Array], outputs: tuple[str, ...]
    ) -> tuple[LoadedModel, Outcome]:
        """Run the model in the caller's thread.

        Raises:
            ServerError: As the server would answer it.
        """
        model = self._app.pool.resolve(name, version)
        return model, model.infer_now(inputs, outputs)

    def infer_queued(
        self,
        model: LoadedModel,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        timeout: float,
    ) -> Future[Outcome]:
        """Queue the inference on the server's own loop, where concurrent calls share batches.

        Cancelling the future abandons the work.
        """

        async def run() -> Outcome:
            deadline = self._loop.time() + timeout
            return await model.infer(inputs, outputs, deadline=deadline)

        return self.submit(run())

    async def answer(
        self, method: str, target: str, headers: RawHeaders, content: Iterable[bytes | memoryview]
    ) -> Answer:
        """Have the application answer one request; call it on the server's own loop."""
        path, _, query = target.partition("?")
        answer = Answer()
        body = b"".join(content)
        scope: dict[str, Any] = {
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
                (b"content-length", b"%d" % len(body)),
                *((name.lower(), value) for name, value in headers),
            ],
            "client": ("127.0.0.1", 0),
            "server": ("embedded", None),
            # whoever waits for the answer cancels the task when it stops waiting
            "extensions": {"aiaas.cancel_on_disconnect": {}},
        }
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            message = next(messages, None)
            if message is None:
                await asyncio.Event().wait()
            return message or {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = list(message["headers"])
            else:
                answer.body += message.get("body", b"")

        await self._app(scope, receive, send)
        return answer

    def close(self) -> None:
        """Release the models and end the thread."""
        if self._closed:
            return
        self._closed = True
        self.submit(self._app.close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def refusal(error: Exception, request_id: str) -> Answer:
    """Put an error of the core into the answer the server would give."""
    problem = problem_of(error)
    return Answer(problem.status, list(problem.headers), bytearray(problem.body(request_id)))
