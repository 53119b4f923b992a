"""`AsyncClient`: calls from one event loop; otherwise as `Client`, name by name."""

from __future__ import annotations

from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aiaas_client._models.client_chat import AsyncWriting
from aiaas_client._models.task_models import AsyncTaskClient
from aiaas_client._resources.account import RawAsyncAccount
from aiaas_client._resources.models import AsyncModels
from aiaas_client._resources.resource import Viewed
from aiaas_client._resources.server import AsyncServerCalls
from aiaas_client._send.configured import Configured
from aiaas_client._send.loop import LoopSender
from aiaas_client._send.middleware import AsyncMiddleware
from aiaas_client._send.options import open_local, sticky
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import AsyncWhole, WithRawResponse
from aiaas_client._send.readiness import readiness
from aiaas_client._send.work import acarry_out

if TYPE_CHECKING:
    from aiaas_client._models.async_model import AsyncModel, RawAsyncModel
    from aiaas_client._models.chats import RawChat
    from aiaas_client._resources.datasets import RawAsyncDatasets
    from aiaas_client._resources.jobs import RawAsyncJobs
    from aiaas_client._resources.models import RawAsyncModels
    from aiaas_client._send.flavours import Tasks
    from aiaas_client._transport.wire import AsyncTransport  # noqa: F401  # named in a base class


@with_own_names
class AsyncClient(
    Viewed["RawAsyncClient"],
    Configured[LoopSender, "AsyncTransport", AsyncMiddleware],
    AsyncTaskClient,
    AsyncWriting,
    AsyncServerCalls,
):
    """Calls models on a server, from one event loop at a time; otherwise as `Client`.

    Used on a second event loop, it leaves its connections to the first and opens new ones. A
    cancelled call closes its connection and gives its place in the pool back.

    Args:
        http_client: An `httpx2.AsyncClient` or `httpx.AsyncClient` to send through; it stays the
            caller's.
        backend: The library that sends: "httpx2", or "aiohttp" (the extra of that name), which
            takes about half the CPU and suits hundreds of calls in flight.
        transport: Anything that sends attempts in place of HTTP, as `AsyncTransport` says.
        middleware: Coroutine functions around every attempt, the first one outermost.
        base_url and all others: As `Client` takes them.
    Raises:
        ConfigurationError: the arguments do not make a client.
    """

    _sender_type = LoopSender

    @classmethod
    def local(cls, path: str | PathLike[str] | None = None, **options: Any) -> Self:
        """Run the models under `path` in this process: the same calls, no server, no socket.

        Args:
            path: A directory of models, or one `.onnx` file; may be left out with `data=`, the
                directory of a registry.
            options: Settings of a server, by the names that `aiaas_server.settings.Settings` has.
        Raises:
            ConfigurationError: the server part is not installed.
            FileNotFoundError: `path` does not exist.
        """
        return cls(transport=open_local("AsyncLocalTransport", path, options))

    @property
    def models(self) -> AsyncModels:
        """The server's models: list, load, unload and the like."""
        return AsyncModels(self._sender)

    def model(
        self, name: str, version: str | int | None = None, *, sticky_key: str | None = None
    ) -> AsyncModel:
        """Give a handle on one model; nothing is sent yet.

        Args:
            name: The model.
            version: A number or an alias; by default whichever serves.
            sticky_key: Says who calls, where the calls of a model are split among versions: equal
                keys get the same one.
        """
        from aiaas_client._models.async_model import AsyncModel

        return AsyncModel(sticky(self._sender, sticky_key), name, version)

    async def wait_ready(self, timeout: float = 60.0, *, model: str | None = None) -> None:
        """Wait until the server, or one model, takes inference.

        Raises:
            DeadlineExceededError: it did not within `timeout` seconds; its cause tells why.
        """
        await acarry_out(readiness(self._sender, timeout, model), self._sender)

    async def close(self) -> None:
        """Close all connections, for good; clients made by `with_options` close with it."""
        await self._sender.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class RawAsyncClient(RawAsyncAccount, WithRawResponse, of=AsyncClient):
    """The calls of a client that are one request, each giving its whole answer."""

    health = AsyncWhole(AsyncClient.health)
    ready = AsyncWhole(AsyncClient.ready)
    metadata = AsyncWhole(AsyncClient.metadata)
    infer = AsyncWhole(AsyncClient.infer)
    request = AsyncWhole(AsyncClient.request)
    generate: AsyncWhole[..., Any] = AsyncWhole(AsyncClient.generate)
    transcribe: AsyncWhole[..., Any] = AsyncWhole(AsyncClient.transcribe)
    feedback = AsyncWhole(AsyncClient.feedback)
    whoami = AsyncWhole(AsyncClient.whoami)

    @property
    def chat(self) -> RawChat[Tasks]:
        """As the client's."""
        found: RawChat[Tasks] = self._member("chat")
        return found

    @property
    def models(self) -> RawAsyncModels:
        """As the client's."""
        found: RawAsyncModels = self._member("models")
        return found

    @property
    def datasets(self) -> RawAsyncDatasets:
        """As the client's."""
        found: RawAsyncDatasets = self._member("datasets")
        return found

    @property
    def jobs(self) -> RawAsyncJobs:
        """As the client's."""
        found: RawAsyncJobs = self._member("jobs")
        return found

    def model(
        self, name: str, version: str | int | None = None, *, sticky_key: str | None = None
    ) -> RawAsyncModel:
        """As the client's."""
        found: RawAsyncModel = self._member("model")(name, version, sticky_key=sticky_key)
        return found
