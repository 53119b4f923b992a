"""Calls into a server's core in this process: the transports of `Client.local`.

A plain inference runs in the caller's thread (sync) or in the core's scheduler (async); whatever
else there is, management calls included, goes through the same application a socket would reach.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aiaas_client import _calls as calls
from aiaas_client._calls import Headers, Response
from aiaas_client.protocol.codec import InferRequest, InferResponse
from aiaas_client.protocol.tensors import Array, as_bytes_elements, object_array

if TYPE_CHECKING:
    from aiaas_client._calls import Call
    from aiaas_client._wire import WireRequest
    from aiaas_server.core.model import LoadedModel, Outcome
    from aiaas_server.embedded import Answer, EmbeddedServer

ENDPOINT = "local:"
_NO_HEADERS = Headers()


def open_server(path: str | PathLike[str], settings: dict[str, Any]) -> EmbeddedServer:
    """Make the server of `path` in this process; its models are not loaded yet.

    Raises:
        ModuleNotFoundError: The server extra is not installed.
        FileNotFoundError: `path` does not exist.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"models: expected a model repository, a directory of .onnx files or one .onnx file, "
            f"got '{path}', which does not exist"
        )
    from aiaas_server.embedded import EmbeddedServer
    from aiaas_server.settings import Settings

    return EmbeddedServer(Settings(models=Path(path), **settings))


class LocalTransport:
    """Runs models in the caller's thread."""

    needs_wire = False

    def __init__(self, path: str | PathLike[str], **settings: Any) -> None:
        self._server = open_server(path, settings)
        try:
            self._server.start()
        except BaseException:
            self._server.close()
            raise

    def send(self, request: WireRequest) -> Response:
        """Answer one call; see `Transport.send`."""
        started = time.perf_counter()
        plain = _plain_inference(request.call)
        if plain is None:
            future = self._server.submit(_answer(self._server, request))
            return _response(self._wait(future, request.deadline), started)
        try:
            outputs = tuple([output.name for output in plain.outputs])
            name, version = _target(request.call)
            model, outcome = self._server.infer(name, version, _inputs(plain), outputs)
        except Exception as error:
            return _response(_refusal(error, request), started)
        return _local_response(plain, model, outcome, started)

    def _wait(self, future: Future[Answer], deadline: float) -> Answer:
        try:
            return future.result(max(deadline - time.monotonic(), 0.0))
        except TimeoutError:
            future.cancel()
            from aiaas_client._errors import DeadlineExceededError

            raise DeadlineExceededError("the deadline passed before the call ended") from None

    def close(self) -> None:
        """Release the models."""
        self._server.close()


class AsyncLocalTransport:
    """Runs models on the core's own event loop and threads, where calls share batches."""

    needs_wire = False

    def __init__(self, path: str | PathLike[str], **settings: Any) -> None:
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
        if not self._started:
            await asyncio.to_thread(self._start)
        started = time.perf_counter()
        plain = _plain_inference(request.call)
        if plain is None:
            future = self._server.submit(_answer(self._server, request))
            return _response(await asyncio.wrap_future(future), started)
        try:
            name, version = _target(request.call)
            model = self._server.model(name, version)
            left = request.deadline - time.monotonic()
            run = self._server.infer_queued(
                model, _inputs(plain), [output.name for output in plain.outputs], left
            )
            outcome = await asyncio.wrap_future(run)
        except Exception as error:
            return _response(_refusal(error, request), started)
        return _local_response(plain, model, outcome, started)

    async def close(self) -> None:
        """Release the models."""
        await asyncio.to_thread(self._server.close)


def _answer(server: EmbeddedServer, request: WireRequest) -> Coroutine[Any, Any, Answer]:
    """Have the application answer; an inference is encoded for it only here."""
    headers, content = request.headers, request.content
    call = request.call
    if content is None and call.infer is not None:
        encoded = calls.infer(call.model or "", call.version, call.infer)
        headers, content = [*headers, *encoded.headers], encoded.content
    return server.answer(request.method, request.path, headers, content or ())


def _refusal(error: Exception, request: WireRequest) -> Answer:
    from aiaas_server.core.errors import ServerError
    from aiaas_server.embedded import refusal

    if not isinstance(error, ServerError):
        raise error
    return refusal(error, request.request_id)


def _plain_inference(call: Call[Any]) -> InferRequest | None:
    """Give the inference that is nothing but tensors in and tensors out."""
    request = call.infer
    if request is None or request.parameters:
        return None
    for output in request.outputs:
        if output.classification or output.shared_memory is not None:
            return None
    return request


def _target(call: Call[Any]) -> tuple[str, int | None]:
    from aiaas_server.core.errors import VersionNotFound

    if call.version is None:
        return call.model or "", None
    version = str(call.version)
    if not (version.isascii() and version.isdigit()):
        raise VersionNotFound(f"model '{call.model}': version {version[:64]!r} is not found")
    return call.model or "", int(version)


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
        200, _NO_HEADERS, bytearray(), attempt_elapsed=elapsed, endpoint=ENDPOINT, local=answer
    )


def _response(answer: Answer, started: float) -> Response:
    elapsed = time.perf_counter() - started
    headers = Headers(answer.headers)
    return Response(answer.status, headers, answer.body, attempt_elapsed=elapsed, endpoint=ENDPOINT)
