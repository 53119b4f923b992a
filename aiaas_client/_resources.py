"""`client.models` and `client.with_raw_response`, both flavours side by side.

Resources hold the client's `_send` and no state of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from aiaas_client import _calls as calls
from aiaas_client._calls import Call, Headers, Response
from aiaas_client._result import InferResult
from aiaas_client.protocol.codec import InferRequest, RequestedOutput

if TYPE_CHECKING:
    from aiaas_client.protocol.messages import (
        ModelMetadata,
        ModelStatistics,
        RepositoryEntry,
        ServerMetadata,
    )
    from aiaas_client.protocol.tensors import Array

    Statistics = list[ModelStatistics]

T = TypeVar("T")
Config = str | Mapping[str, Any]
Files = Mapping[str, bytes | str | PathLike[str]]


class Send(Protocol):
    """`Client._send`."""

    def __call__(self, call: Call[T], /) -> T:
        """Send a call and read its answer."""
        ...


class AsyncSend(Protocol):
    """`AsyncClient._send`."""

    def __call__(self, call: Call[T], /) -> Awaitable[T]:
        """Send a call and read its answer."""
        ...


class Models:
    """The models of a server."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def list(self, *, ready: bool = False) -> list[RepositoryEntry]:
        """Give every known version, or only those that are ready.

        Raises:
            NotSupportedError: this server has no repository index.
        """
        return self._send(calls.index(ready=ready))

    def get(self, name: str, version: str | int | None = None) -> ModelMetadata:
        """Give a model's inputs and outputs, as the server tells them now.

        Raises:
            NotFoundError: there is no such model or version.
        """
        return self._send(calls.model_metadata(name, version))

    def load(
        self,
        name: str,
        *,
        config: Config | None = None,
        files: Files | None = None,
        force: bool = False,
    ) -> None:
        """Load or reload a model; returns when it serves.

        Args:
            name: The model.
            config: A configuration in place of the stored one, as a dict or JSON text.
            files: Contents (bytes) or paths by `<version>/<name>`, in place of the stored ones.
            force: Load again even if nothing changed.
        Raises:
            LoadFailedError: the model or its configuration is bad; the old one keeps serving.
            NotSupportedError: this server does not load on request.
        """
        self._send(
            calls.load(name, calls.load_config(config), calls.load_files(files), force=force)
        )

    def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Stop serving a model, after the requests it has accepted."""
        self._send(calls.unload(name, unload_dependents=unload_dependents))

    def statistics(self, name: str | None = None, version: str | int | None = None) -> Statistics:
        """Give counts and times of every version, or of one model's.

        Raises:
            NotSupportedError: this server keeps no statistics.
        """
        return self._send(calls.statistics(name, version))

    def config(self, name: str, version: str | int | None = None) -> dict[str, Any]:
        """Give a model's configuration.

        Raises:
            NotSupportedError: this server does not tell it.
        """
        return self._send(calls.config(name, version))


class AsyncModels:
    """The models of a server."""

    def __init__(self, send: AsyncSend) -> None:
        self._send = send

    async def list(self, *, ready: bool = False) -> list[RepositoryEntry]:
        """Give every known version, or only those that are ready.

        Raises:
            NotSupportedError: this server has no repository index.
        """
        return await self._send(calls.index(ready=ready))

    async def get(self, name: str, version: str | int | None = None) -> ModelMetadata:
        """Give a model's inputs and outputs, as the server tells them now.

        Raises:
            NotFoundError: there is no such model or version.
        """
        return await self._send(calls.model_metadata(name, version))

    async def load(
        self,
        name: str,
        *,
        config: Config | None = None,
        files: Files | None = None,
        force: bool = False,
    ) -> None:
        """Load or reload a model; returns when it serves.

        Args:
            name: The model.
            config: A configuration in place of the stored one, as a dict or JSON text.
            files: Contents (bytes) or paths by `<version>/<name>`, in place of the stored ones.
            force: Load again even if nothing changed.
        Raises:
            LoadFailedError: the model or its configuration is bad; the old one keeps serving.
            NotSupportedError: this server does not load on request.
        """
        await self._send(
            calls.load(name, calls.load_config(config), calls.load_files(files), force=force)
        )

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Stop serving a model, after the requests it has accepted."""
        await self._send(calls.unload(name, unload_dependents=unload_dependents))

    async def statistics(
        self, name: str | None = None, version: str | int | None = None
    ) -> Statistics:
        """Give counts and times of every version, or of one model's.

        Raises:
            NotSupportedError: this server keeps no statistics.
        """
        return await self._send(calls.statistics(name, version))

    async def config(self, name: str, version: str | int | None = None) -> dict[str, Any]:
        """Give a model's configuration.

        Raises:
            NotSupportedError: this server does not tell it.
        """
        return await self._send(calls.config(name, version))


@dataclass(frozen=True, slots=True)
class RawResponse(Generic[T]):
    """A whole answer, and how to read it.

    Attributes:
        status: The HTTP status.
        headers: Looked up without regard to case.
        body: The bytes, decompressed.
        attempts: Requests it took.
        elapsed: Seconds it took, retries and waits included.
        request_id: The id the server knows the call by.
        endpoint: Base URL that answered.
    """

    status: int
    headers: Headers
    body: bytes
    attempts: int
    elapsed: float
    request_id: str
    endpoint: str
    _response: Response
    _call: Call[T]

    def parse(self) -> T:
        """Read the answer as the ordinary call would have."""
        return self._call.parse(self._response)


def raw(call: Call[T]) -> Call[RawResponse[T]]:
    """Make a call give its whole answer."""

    def keep(response: Response) -> RawResponse[T]:
        return RawResponse(
            response.status,
            response.headers,
            bytes(response.body),
            response.attempts,
            response.elapsed,
            response.request_id,
            response.endpoint,
            response,
            call,
        )

    return replace(call, parse=keep)  # type: ignore[arg-type,return-value]  # the type changes


class RawClient:
    """The calls of `Client`, giving `RawResponse`."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def health(self) -> RawResponse[bool]:
        """`GET /v2/health/live`."""
        return self._send(raw(calls.health()))

    def ready(self, model: str | None = None) -> RawResponse[bool]:
        """`GET /v2/health/ready`, or a model's."""
        return self._send(raw(calls.ready(model)))

    def metadata(self) -> RawResponse[ServerMetadata]:
        """`GET /v2`."""
        return self._send(raw(calls.server_metadata()))

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str | int | None = None,
        outputs: Sequence[str] = (),
        binary: bool = True,
    ) -> RawResponse[InferResult]:
        """`POST /v2/models/{m}/infer` with arrays as they are, unchecked by metadata."""
        request = InferRequest(dict(inputs), [RequestedOutput(name) for name in outputs])
        return self._send(raw(calls.infer(model, version, request, binary=binary)))

    @property
    def models(self) -> RawModels:
        """The calls of `client.models`."""
        return RawModels(self._send)


class AsyncRawClient:
    """The calls of `AsyncClient`, giving `RawResponse`."""

    def __init__(self, send: AsyncSend) -> None:
        self._send = send

    async def health(self) -> RawResponse[bool]:
        """`GET /v2/health/live`."""
        return await self._send(raw(calls.health()))

    async def ready(self, model: str | None = None) -> RawResponse[bool]:
        """`GET /v2/health/ready`, or a model's."""
        return await self._send(raw(calls.ready(model)))

    async def metadata(self) -> RawResponse[ServerMetadata]:
        """`GET /v2`."""
        return await self._send(raw(calls.server_metadata()))

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str | int | None = None,
        outputs: Sequence[str] = (),
        binary: bool = True,
    ) -> RawResponse[InferResult]:
        """`POST /v2/models/{m}/infer` with arrays as they are, unchecked by metadata."""
        request = InferRequest(dict(inputs), [RequestedOutput(name) for name in outputs])
        return await self._send(raw(calls.infer(model, version, request, binary=binary)))

    @property
    def models(self) -> AsyncRawModels:
        """The calls of `client.models`."""
        return AsyncRawModels(self._send)


class RawModels:
    """The calls of `Models`, giving `RawResponse`."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def list(self, *, ready: bool = False) -> RawResponse[list[RepositoryEntry]]:
        """`POST /v2/repository/index`."""
        return self._send(raw(calls.index(ready=ready)))

    def get(self, name: str, version: str | int | None = None) -> RawResponse[ModelMetadata]:
        """`GET /v2/models/{m}`."""
        return self._send(raw(calls.model_metadata(name, version)))

    def load(
        self,
        name: str,
        *,
        config: Config | None = None,
        files: Files | None = None,
        force: bool = False,
    ) -> RawResponse[None]:
        """`POST /v2/repository/models/{m}/load`."""
        text, contents = calls.load_config(config), calls.load_files(files)
        return self._send(raw(calls.load(name, text, contents, force=force)))

    def unload(self, name: str, *, unload_dependents: bool = False) -> RawResponse[None]:
        """`POST /v2/repository/models/{m}/unload`."""
        return self._send(raw(calls.unload(name, unload_dependents=unload_dependents)))

    def statistics(
        self, name: str | None = None, version: str | int | None = None
    ) -> RawResponse[Statistics]:
        """`GET /v2/models[/{m}]/stats`."""
        return self._send(raw(calls.statistics(name, version)))

    def config(self, name: str, version: str | int | None = None) -> RawResponse[dict[str, Any]]:
        """`GET /v2/models/{m}/config`."""
        return self._send(raw(calls.config(name, version)))


class AsyncRawModels:
    """The calls of `AsyncModels`, giving `RawResponse`."""

    def __init__(self, send: AsyncSend) -> None:
        self._send = send

    async def list(self, *, ready: bool = False) -> RawResponse[list[RepositoryEntry]]:
        """`POST /v2/repository/index`."""
        return await self._send(raw(calls.index(ready=ready)))

    async def get(self, name: str, version: str | int | None = None) -> RawResponse[ModelMetadata]:
        """`GET /v2/models/{m}`."""
        return await self._send(raw(calls.model_metadata(name, version)))

    async def load(
        self,
        name: str,
        *,
        config: Config | None = None,
        files: Files | None = None,
        force: bool = False,
    ) -> RawResponse[None]:
        """`POST /v2/repository/models/{m}/load`."""
        text, contents = calls.load_config(config), calls.load_files(files)
        return await self._send(raw(calls.load(name, text, contents, force=force)))

    async def unload(self, name: str, *, unload_dependents: bool = False) -> RawResponse[None]:
        """`POST /v2/repository/models/{m}/unload`."""
        return await self._send(raw(calls.unload(name, unload_dependents=unload_dependents)))

    async def statistics(
        self, name: str | None = None, version: str | int | None = None
    ) -> RawResponse[Statistics]:
        """`GET /v2/models[/{m}]/stats`."""
        return await self._send(raw(calls.statistics(name, version)))

    async def config(
        self, name: str, version: str | int | None = None
    ) -> RawResponse[dict[str, Any]]:
        """`GET /v2/models/{m}/config`."""
        return await self._send(raw(calls.config(name, version)))
