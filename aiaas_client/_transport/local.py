"""Calls into a server's core in this process: the transports of `Client.local`.

A plain inference runs in the caller's thread (sync) or in the core's scheduler (async); whatever
else there is, management calls included, goes through the same application a socket would reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from os import PathLike
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from aiaas_client._api.call import Headers, Response
from aiaas_client._api.inference import infer
from aiaas_client._config import LOCAL_ENDPOINT as ENDPOINT
from aiaas_client._errors import (
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    MissingFileError,
    ProtocolError,
)
from aiaas_client._transport.wire import AsyncOpenAnswer, OpenAnswer
from aiaas_client.protocol.inference import InferRequest, InferResponse
from aiaas_client.protocol.tensors import Array, as_bytes_elements, object_array

if TYPE_CHECKING:
    from aiaas_client._api.call import Call
    from aiaas_client._transport.wire import WireRequest
    from aiaas_server.core.model import LoadedModel
    from aiaas_server.core.schedule.requests import Outcome
    from aiaas_server.embedded import EmbeddedServer
    from aiaas_server.embedded import Response as EmbeddedResponse

T = TypeVar("T")

Message = Mapping[str, Any]  # of ASGI

_STICKY_KEY = b"X-Sticky-Key"
_NO_HEADERS = Headers()
_END: Message = {}  # the last of an answer's messages, told by identity


def open_server(path: str | PathLike[str] | None, settings: dict[str, Any]) -> EmbeddedServer:
    """Make the server of `path` in this process; its models are not loaded yet.

    Args:
        path: May be left out where `settings` has `data`: then the registry's models are all.
    Raises:
        ModuleNotFoundError: The server extra is not installed.
        MissingFileError: `path` does not exist.
        ConfigurationError: there is nothing there to serve, or a setting is wrong.
    """
    if path is None and settings.get("data") is None:
        raise ConfigurationError("models: name a directory of models, or data=, or both")
    if path is None:
        path = Path(settings["data"]) / "models"  # which stands in, empty
    elif not Path(path).exists():
        raise MissingFileError(
            f"models: expected a model repository, a directory of .onnx files or one .onnx file, "
            f"got '{path}', which does not exist"
        )
    from pydantic import ValidationError

    from aiaas_server.core.errors import LoadFailed
    from aiaas_server.embedded import EmbeddedServer
    from aiaas_server.settings import Settings
    from aiaas_server.state.prepare import DataRefused

    try:
        return EmbeddedServer(Settings(models=Path(path), **settings))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = "".join(f"{step}: " for step in first["loc"])  # none of what several are about
        raise ConfigurationError(where + first["msg"].removeprefix("Value error, ")) from None
    except LoadFailed as error:
        raise ConfigurationError(f"models: {error.message}") from None
    except DataRefused as error:
        raise ConfigurationError(str(error)) from None


class LocalTransport:
    """Runs models in the caller's thread."""

    needs_wire = False

    def __init__(self, path: str | PathLike[str] | None = None, **settings: Any) -> None:
        self._process = os.getpid()
        self._server = open_server(path, settings)
        try:
            self._server.start()
        except BaseException:
            self._server.close()
            raise

    def send(self, request: WireRequest) -> Response:
        """Answer one call; see `Transport.send`."""
        _check_process(self._process)
        started = time.perf_counter()
        plain = _plain_inference(request)
        if plain is None:
            future = self._server.submit(_answer(self._server, request))
            return _response(self._wait(future, request.deadline), started)
        try:
            outputs = tuple([output.name for output in plain.outputs])
            name, version = _target(request.call)
            model, outcome = self._server.infer(name, version, _inputs(plain), outputs)
        except Exception as error:
            return _response(_refusal(self._server, error, request), started)
        return _local_response(plain, model, outcome, started)

    def _wait(self, future: Future[EmbeddedResponse], deadline: float) -> EmbeddedResponse:
        try:
            return future.result(max(deadline - time.monotonic(), 0.0))
        except TimeoutError:
            future.cancel()
            raise _too_late() from None
        except CancelledError:  # by `close`
            raise ClientClosedError(ClientClosedError.TEXT) from None

    def stream(self, request: WireRequest) -> OpenAnswer:
        """Answer one call as it comes; see `Transport.stream`."""
        _check_process(self._process)
        messages: SimpleQueue[Message] = SimpleQueue()
        answering = self._server.submit(_answer(self._server, request, messages.put))
        answering.add_done_callback(lambda done: messages.put(_END))

        def take() -> Message:
            try:
                return messages.get(timeout=max(request.deadline - time.monotonic(), 0.0))
            except Empty:
                raise _too_late() from None

        def pieces() -> Iterator[bytes]:
            while (message := take()) is not _END:
                yield message.get("body", b"")
            _raise_failure(answering)

        def close() -> None:
            answering.cancel()

        try:
            status, headers = _head(take(), answering)
        except BaseException:
            close()
            raise
        return OpenAnswer(status, headers, pieces(), close)

    def close(self) -> None:
        """Release the models; in a process forked from theirs there is nothing to release."""
        if self._process == os.getpid():
            self._server.close()


class AsyncLocalTransport:
    """Runs models on the core's own event loop and threads, where calls share batches."""

    needs_wire = False

    def __init__(self, path: str | PathLike[str] | None = None, **settings: Any) -> None:
        self._process = os.getpid()
        self._server = open_server(path, settings)
        self._started = False
        self._starting = threading.Lock()

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                self._server.start()
                self._started = True

    async def send(self, request: WireRequest) -> Response:
        """Answer one call; see `AsyncTransport.send`."""
        _check_process(self._process)
        if not self._started:
            await asyncio.to_thread(self._start)
        started = time.perf_counter()
        plain = _plain_inference(request)
        if plain is None:
            future = self._server.submit(_answer(self._server, request))
            return _response(await _ended(future), started)
        try:
            name, version = _target(request.call)
            left = request.deadline - time.monotonic()
            outputs = [output.name for output in plain.outputs]
            run = self._server.infer_queued(name, version, _inputs(plain), outputs, left)
            model, outcome = await _ended(run)
        except Exception as error:
            return _response(_refusal(self._server, error, request), started)
        return _local_response(plain, model, outcome, started)

    async def stream(self, request: WireRequest) -> AsyncOpenAnswer:
        """Answer one call as it comes; see `AsyncTransport.stream`."""
        _check_process(self._process)
        if not self._started:
            await asyncio.to_thread(self._start)
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[Message] = asyncio.Queue()

        def tell(message: Message) -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop was closed
                loop.call_soon_threadsafe(messages.put_nowait, message)

        answering = self._server.submit(_answer(self._server, request, tell))
        answering.add_done_callback(lambda done: tell(_END))

        async def take() -> Message:
            try:
                async with asyncio.timeout(max(request.deadline - time.monotonic(), 0.0)):
                    return await messages.get()
            except TimeoutError:
                raise _too_late() from None

        async def pieces() -> AsyncIterator[bytes]:
            while (message := await take()) is not _END:
                yield message.get("body", b"")
            _raise_failure(answering)

        async def close() -> None:
            answering.cancel()

        try:
            status, headers = _head(await take(), answering)
        except BaseException:
            answering.cancel()
            raise
        return AsyncOpenAnswer(status, headers, pieces(), close)

    async def close(self) -> None:
        """Release the models; in a process forked from theirs there is nothing to release."""
        if self._process == os.getpid():
            await asyncio.to_thread(self._server.close)


async def _ended(future: Future[T]) -> T:
    """Wait for what another thread does."""
    task = asyncio.current_task()
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if task is not None and task.cancelling():
            raise
        raise ClientClosedError(ClientClosedError.TEXT) from None  # `close` ended it


def _check_process(made_in: int) -> None:
    if made_in != os.getpid():  # the threads that answer are the parent's, and stayed there
        raise ConfigurationError(
            "this local client was made before a fork: make a Client.local in each process"
        )


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("the deadline passed before the call ended", phase="deadline")


def _head(message: Message, answering: Future[EmbeddedResponse]) -> tuple[int, Headers]:
    if message is _END:
        _raise_failure(answering)
        if answering.cancelled():
            raise ClientClosedError(ClientClosedError.TEXT)
        raise ProtocolError("the application answered nothing")
    return message["status"], Headers(message["headers"])


def _raise_failure(answering: Future[EmbeddedResponse]) -> None:
    if not answering.cancelled() and (error := answering.exception()) is not None:
        raise error


def _answer(
    server: EmbeddedServer, request: WireRequest, tell: Callable[[Message], None] | None = None
) -> Coroutine[Any, Any, EmbeddedResponse]:
    """Have the application answer; an inference is encoded for it only here."""
    headers, content = request.headers, request.content
    call = request.call
    if content is None and call.infer is not None:
        encoded = infer(call.model or "", call.version, call.infer)
        headers, content = [*headers, *encoded.headers], encoded.content
    return server.answer(request.method, request.path, headers, content or (), tell)


def _refusal(server: EmbeddedServer, error: Exception, request: WireRequest) -> EmbeddedResponse:
    from aiaas_server.core.errors import ServerError

    if not isinstance(error, ServerError):
        raise error
    return server.refusal(error, request.request_id)


def _plain_inference(wire: WireRequest) -> InferRequest | None:
    """Give the inference that is nothing but tensors in and tensors out.

    Who a caller is by a sticky key, the application reads.
    """
    request = wire.call.infer
    if request is None or request.parameters or _STICKY_KEY in dict(wire.headers):
        return None
    for output in request.outputs:
        if output.classification or output.shared_memory is not None:
            return None
    return request


def _target(call: Call[Any]) -> tuple[str, int | str | None]:
    if call.version is None:
        return call.model or "", None
    version = str(call.version)
    if version.isascii() and version.isdigit():
        return call.model or "", int(version)
    return call.model or "", version  # an alias; the server refuses what is none


def _inputs(request: InferRequest) -> dict[str, Array]:
    """Bring tensors into the form that decoding a body would give."""
    return {name: _as_decoded(tensor) for name, tensor in request.inputs.items()}


def _as_decoded(tensor: Array) -> Array:
    if tensor.dtype.kind in "OSU":
        return object_array(as_bytes_elements(tensor)).reshape(tensor.shape)
    if tensor.flags.c_contiguous and tensor.dtype.isnative:
        return tensor
    return np.array(tensor, dtype=tensor.dtype.newbyteorder("="), order="C")


def _local_response(
    request: InferRequest, model: LoadedModel, outcome: Outcome, started: float
) -> Response:
    answer = InferResponse(model.name, str(model.version), outcome.outputs, request.id)
    elapsed = time.perf_counter() - started
    return Response(
        200,
        _NO_HEADERS,
        bytearray(),
        attempt_elapsed=elapsed,
        endpoint=ENDPOINT,
        local=answer,
    )


def _response(answer: EmbeddedResponse, started: float) -> Response:
    elapsed = time.perf_counter() - started
    headers = Headers(answer.headers)
    return Response(answer.status, headers, answer.body, attempt_elapsed=elapsed, endpoint=ENDPOINT)
