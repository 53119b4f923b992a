"""`Client`: calls from threads. How a call is sent is in `_send.threads`."""

from __future__ import annotations

from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aiaas_client._models.client_chat import ThreadWriting
from aiaas_client._models.task_models import TaskClient
from aiaas_client._resources.account import RawThreadAccount
from aiaas_client._resources.models import Models
from aiaas_client._resources.resource import Viewed
from aiaas_client._resources.server import ThreadServerCalls
from aiaas_client._send.configured import Configured
from aiaas_client._send.middleware import Middleware
from aiaas_client._send.options import open_local, sticky
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import Whole, WithRawResponse
from aiaas_client._send.readiness import readiness
from aiaas_client._send.threads import ThreadSender
from aiaas_client._send.work import carry_out

if TYPE_CHECKING:
    from aiaas_client._models.chats import RawChat
    from aiaas_client._models.model import Model, RawModel
    from aiaas_client._resources.datasets import RawDatasets
    from aiaas_client._resources.jobs import RawJobs
    from aiaas_client._resources.models import RawModels
    from aiaas_client._send.flavours import Threads
    from aiaas_client._transport.wire import Transport  # noqa: F401  # named in a base class


@with_own_names
class Client(
    Viewed["RawClient"],
    Configured[ThreadSender, "Transport", Middleware],
    TaskClient,
    ThreadWriting,
    ThreadServerCalls,
):
    """Calls models on a server, from any number of threads; make one for the life of a program.

    Args:
        base_url: Where the server is, or several addresses of equal servers; by default
            `AIAAS_BASE_URL` (several separated by commas).
        api_key: By default `AIAAS_API_KEY`. Sent only to `base_url`.
        timeout: `Timeouts` of the phases of an attempt, or seconds for reading and writing.
        deadline: Seconds for a whole call, retries and waits included.
        retry: When and how often to try again.
        max_retries: Attempts after the first, in place of the policy's.
        http_client: An `httpx2.Client` or `httpx.Client` to send through; it stays the caller's.
        backend: The library that sends: "httpx2", or "urllib3" (the extra of that name), which
            takes about half the CPU.
        transport: Anything that sends attempts in place of HTTP, for tests and embedding.
        headers: Sent with every request.
        middleware: Called around every attempt, the first one outermost.
        limits: How many connections to keep.
        max_answer_bytes: Answers beyond this raise `ProtocolError`.
        verify: True for the system's trust store, a path of a CA bundle, an `ssl.SSLContext`, or
            False to trust any certificate.
        trust_env: Heed `SSL_CERT_FILE` and `SSL_CERT_DIR`. Proxy variables are never heeded: hand
            in an `http_client` with a proxy.
        allow_insecure_http: Let a key travel over http:// to another machine.
        breaker: When to stop calling an endpoint that keeps failing; None for never.
        hedge_after: Seconds after which a second endpoint is asked as well; None for never.
        pace: Wait, inside the deadline, where a server has told that nothing is left of a limit
            (`RateLimit` headers), in place of running into it.
    Raises:
        ConfigurationError: the arguments do not make a client.
    """

    _sender_type = ThreadSender

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
        return cls(transport=open_local("LocalTransport", path, options))

    @property
    def models(self) -> Models:
        """The server's models: list, load, unload and the like."""
        return Models(self._sender)

    def model(
        self, name: str, version: str | int | None = None, *, sticky_key: str | None = None
    ) -> Model:
        """Give a handle on one model; nothing is sent yet.

        Args:
            name: The model.
            version: A number or an alias; by default whichever serves.
            sticky_key: Says who calls, where the calls of a model are split among versions: equal
                keys get the same one.
        """
        from aiaas_client._models.model import Model

        return Model(sticky(self._sender, sticky_key), name, version)

    def wait_ready(self, timeout: float = 60.0, *, model: str | None = None) -> None:
        """Wait until the server, or one model, takes inference.

        Raises:
            DeadlineExceededError: it did not within `timeout` seconds; its cause tells why.
        """
        carry_out(readiness(self._sender, timeout, model), self._sender)

    def close(self) -> None:
        """Close all connections, for good; clients made by `with_options` close with it."""
        self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class RawClient(RawThreadAccount, WithRawResponse, of=Client):
    """The calls of a client that are one request, each giving its whole answer."""

    health = Whole(Client.health)
    ready = Whole(Client.ready)
    metadata = Whole(Client.metadata)
    infer = Whole(Client.infer)
    request = Whole(Client.request)
    generate: Whole[..., Any] = Whole(Client.generate)
    transcribe: Whole[..., Any] = Whole(Client.transcribe)
    feedback = Whole(Client.feedback)
    whoami = Whole(Client.whoami)

    @property
    def chat(self) -> RawChat[Threads]:
        """As the client's."""
        found: RawChat[Threads] = self._member("chat")
        return found

    @property
    def models(self) -> RawModels:
        """As the client's."""
        found: RawModels = self._member("models")
        return found

    @property
    def datasets(self) -> RawDatasets:
        """As the client's."""
        found: RawDatasets = self._member("datasets")
        return found

    @property
    def jobs(self) -> RawJobs:
        """As the client's."""
        found: RawJobs = self._member("jobs")
        return found

    def model(
        self, name: str, version: str | int | None = None, *, sticky_key: str | None = None
    ) -> RawModel:
        """As the client's."""
        found: RawModel = self._member("model")(name, version, sticky_key=sticky_key)
        return found
