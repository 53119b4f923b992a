"""A server for tests: models are Python functions, faults come on demand.

    from aiaas_client import Client
    from aiaas_client.testing import FakeServer, tensor

    with FakeServer() as server, Client(server.url) as client:
        server.add("double", lambda x: {"y": x * 2}, inputs=[tensor("x", "FP32", [-1, 2])],
                   outputs=[tensor("y", "FP32", [-1, 2])], max_batch_size=8)
        assert client.model("double").infer(x=[[1.0, 2.0]])["y"].tolist() == [[2.0, 4.0]]
        server.fail(503, times=2, retry_after=0.0)     # the next two inference requests

Tasks are Python functions, too: `server.add_task("mood", lambda text: Classification(...),
task="text-classification")` answers `client.model("mood").predict("text")`.

It is a real HTTP server on a loopback port in a thread, speaking the Open Inference Protocol in
JSON and binary, and needs nothing but this package. Inputs are checked as a real server checks
them. `requests` records everything that arrived, `wait_for` waits until enough has.
"""

from __future__ import annotations

import base64
import inspect
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import time
from types import TracebackType
from typing import Any, NamedTuple, cast
from urllib.parse import unquote, urlsplit
from zlib import crc32

import numpy as np
from pydantic import BaseModel

from aiaas_client.protocol.codec import (
    CodecError,
    Encoded,
    InferRequest,
    InferResponse,
    decode_request,
    encode_response,
    parse_header_length,
)
from aiaas_client.protocol.compression import inflate
from aiaas_client.protocol.jsontext import PYDANTIC_JSON
from aiaas_client.protocol.messages import TensorMetadata
from aiaas_client.protocol.tensors import Array, config_name_of, datatype_of

__all__ = ["FakeError", "FakeModel", "FakeServer", "Gate", "RecordedRequest", "tensor"]

ModelFunction = Callable[..., "Mapping[str, Any] | Array"]
TaskFunction = Callable[..., "BaseModel | Mapping[str, Any]"]
_LARGEST_BODY = 64 * 2**20
_CODES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    422: "invalid_request",
    429: "rate_limited",
    500: "internal",
    501: "not_supported",
    503: "queue_full",
    504: "deadline_exceeded",
}


class FakeError(Exception):
    """Raised by a model function to answer with `status`, a code and a text of its own."""

    def __init__(self, status: int, text: str, *, code: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.code = code or _CODES.get(status, "internal")


def tensor(name: str, datatype: str, shape: Sequence[int]) -> TensorMetadata:
    """Declare an input or output; `shape` has -1 for what varies, the batch included."""
    return TensorMetadata(name=name, datatype=datatype, shape=tuple(shape))


@dataclass(slots=True)
class FakeModel:
    """One served function and what is told about it.

    Attributes:
        function: Called with the inputs as keyword arrays; gives arrays by output name, or one
            array for the only output. `ValueError` answers 400, `FakeError` as it says, anything
            else 500.
        inputs, outputs: The signature told and checked; without `inputs` there is no metadata to
            be had (404) and nothing is checked, as on a server that lacks it.
        max_batch_size: Told in the configuration; rows above it are refused. 0: no batching.
        versions: Served versions; the last one answers a request that names none.
        optional: Inputs that may be left out.
        calls, rows: Executions and rows so far.
    """

    name: str
    function: ModelFunction
    inputs: Sequence[TensorMetadata] = ()
    outputs: Sequence[TensorMetadata] = ()
    max_batch_size: int = 0
    versions: Sequence[str] = ("1",)
    optional: frozenset[str] = frozenset()
    loaded: bool = True
    calls: int = 0
    rows: int = 0

    def run(self, request: InferRequest) -> dict[str, Array]:
        """Check, call, and select what was asked for."""
        rows = self._check(request.inputs)
        answer = self.function(**request.inputs)
        outputs = self._named(answer)
        self.calls += 1
        self.rows += rows
        if not request.outputs:
            return outputs
        for wanted in request.outputs:
            if wanted.name not in outputs:
                text = f"unexpected inference output {wanted.name!r} for model {self.name!r}"
                raise FakeError(400, text)
        return {
            wanted.name: _top(outputs[wanted.name], wanted.classification, self.max_batch_size > 0)
            for wanted in request.outputs
        }

    def _named(self, answer: Mapping[str, Any] | Array) -> dict[str, Array]:
        if isinstance(answer, Mapping):
            return {name: np.asarray(value) for name, value in answer.items()}
        return {self.outputs[0].name if self.outputs else "output": np.asarray(answer)}

    def _check(self, inputs: Mapping[str, Array]) -> int:
        for spec in self.inputs:
            if spec.name not in inputs and spec.name not in self.optional:
                raise FakeError(400, f"model {self.name!r}: missing input {spec.name!r}")
        known = {spec.name: spec for spec in self.inputs}
        for name, array in inputs.items():
            if known:
                _check_tensor(name, array, known.get(name), self.name)
        rows = {array.shape[0] for array in inputs.values() if array.ndim}
        if self.max_batch_size and (len(rows) > 1 or max(rows, default=1) > self.max_batch_size):
            text = f"expected one batch of at most {self.max_batch_size} rows, got {sorted(rows)}"
            raise FakeError(400, f"model {self.name!r}: {text}")
        return max(rows, default=1) if self.max_batch_size else 1

    def metadata(self, version: str) -> dict[str, Any]:
        """The document of `GET /v2/models/{m}`."""
        return {
            "name": self.name,
            "versions": [version] if version else list(self.versions),
            "platform": "python",
            "inputs": [_described(spec) for spec in self.inputs],
            "outputs": [_described(spec) for spec in self.outputs],
        }

    def config(self) -> dict[str, Any]:
        """The document of `GET /v2/models/{m}/config`."""
        skip = 1 if self.max_batch_size else 0
        return {
            "name": self.name,
            "platform": "python",
            "max_batch_size": self.max_batch_size,
            "input": [
                {**_configured(spec, skip), "optional": spec.name in self.optional}
                for spec in self.inputs
            ],
            "output": [_configured(spec, skip) for spec in self.outputs],
        }

    def statistics(self, version: str) -> dict[str, Any]:
        """One entry of `GET /v2/models/stats`."""
        spent = {"count": self.calls, "ns": 1000 * self.calls}
        nothing = {"count": 0, "ns": 0}
        return {
            "name": self.name,
            "version": version or self.versions[-1],
            "last_inference": int(time() * 1000) if self.calls else 0,
            "inference_count": self.rows,
            "execution_count": self.calls,
            "inference_stats": {
                "success": spent,
                "fail": nothing,
                "queue": spent,
                "compute_input": spent,
                "compute_infer": spent,
                "compute_output": spent,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
        }


def _check_tensor(name: str, array: Array, spec: TensorMetadata | None, model: str) -> None:
    if spec is None:
        raise FakeError(400, f"model {model!r}: unexpected input {name!r}")
    if datatype_of(array) != spec.datatype:
        text = f"input {name!r}: expected {spec.datatype}, got {datatype_of(array)}"
        raise FakeError(400, text)
    pairs = zip(spec.shape, array.shape, strict=False)
    if len(spec.shape) != array.ndim or any(want not in (-1, got) for want, got in pairs):
        text = f"input {name!r}: expected shape {spec.shape}, got {array.shape}"
        raise FakeError(400, text)


def _top(array: Array, count: int, batched: bool) -> Array:
    """The classification extension: the `count` greatest of each row as `value:index`."""
    if not count:
        return array
    rows = array.reshape(array.shape[0], -1) if batched else array.reshape(1, -1)  # (rows, n)
    kept = min(count, rows.shape[1])
    order = np.argsort(-rows, axis=1, kind="stable")[:, :kept]
    texts = np.empty(order.shape, dtype=object)
    for place, index in np.ndenumerate(order):
        texts[place] = f"{rows[place[0], index]}:{index}".encode()
    return texts if batched else texts[0]


def _described(spec: TensorMetadata) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _configured(spec: TensorMetadata, skip: int) -> dict[str, Any]:
    dims = list(spec.shape[skip:])
    return {"name": spec.name, "data_type": config_name_of(spec.datatype), "dims": dims}


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it arrived; `infer` is its decoded body when it was an inference."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    infer: InferRequest | None = None

    @property
    def binary(self) -> bool:
        """Whether the body carried binary tensors."""
        return "inference-header-content-length" in self.headers


class _Answer(NamedTuple):
    status: int
    body: bytes
    headers: Sequence[tuple[str, str]] = ()


class Gate:
    """Holds requests until `release`; `wait_for(n)` returns once n of them stand there."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = False
        self.arrived = 0

    @property
    def is_open(self) -> bool:
        """Whether it has been released."""
        return self._open

    def release(self) -> None:
        """Let everything through, from now on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def wait_for(self, count: int = 1, timeout: float = 10.0) -> None:
        """Block until `count` requests are held.

        Raises:
            TimeoutError: fewer came within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.arrived >= count, timeout):
                raise TimeoutError(f"expected {count} held requests, got {self.arrived}")

    def _pass(self) -> None:
        with self._changed:
            self.arrived += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open)


@dataclass(slots=True)
class _Fault:
    """What happens to the next `times` requests whose path contains `path`."""

    path: str
    times: int
    before: Callable[[], None] | None = None
    alter: Callable[[bytes], bytes] | None = None
    instead: _Answer | None = None
    drop: bool = False
    cut: int | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """A function of one payload, and the task whose predictions it gives."""

    function: TaskFunction
    task: str
    kind: str


@dataclass(slots=True)
class _State:
    models: dict[str, FakeModel] = field(default_factory=dict)
    tasks: dict[str, _Task] = field(default_factory=dict)
    faults: deque[_Fault] = field(default_factory=deque)
    requests: list[RecordedRequest] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    extensions: tuple[str, ...] = ("binary_tensor_data", "model_repository", "statistics")
    api_key: str = ""
    ready: bool = True


class FakeServer:
    """A loopback inference server for tests; see the module's example.

    Args:
        binary: False behaves like a server without the binary extension: binary requests are
            refused with 400 and the extension is not listed.
        api_key: When given, `/v2` answers 401 without `Authorization: Bearer <key>`, the health
            routes excepted.
        host, port: Where to listen; port 0 takes a free one.
    """

    def __init__(
        self,
        models: Mapping[str, ModelFunction] | None = None,
        *,
        binary: bool = True,
        api_key: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._state = _State(api_key=api_key)
        if not binary:
            self._state.extensions = ("model_repository", "statistics")
        self._http = _HttpServer((host, port), self._state)
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.02,), name="fake-server", daemon=True
        )
        self._thread.start()
        self._closed = False
        for name, function in (models or {}).items():
            self.add(name, function)

    @property
    def url(self) -> str:
        """Base URL, such as `http://127.0.0.1:40123`."""
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def requests(self) -> list[RecordedRequest]:
        """Everything that arrived so far, in order."""
        with self._state.changed:
            return list(self._state.requests)

    @property
    def infer_requests(self) -> list[RecordedRequest]:
        """The inference requests that arrived so far."""
        return [request for request in self.requests if request.path.endswith("/infer")]

    def add(
        self,
        name: str,
        function: ModelFunction,
        *,
        inputs: Sequence[TensorMetadata] = (),
        outputs: Sequence[TensorMetadata] = (),
        max_batch_size: int = 0,
        versions: Sequence[str] = ("1",),
        optional: Sequence[str] = (),
    ) -> FakeModel:
        """Serve `function` as a model, or replace one; see `FakeModel` for the arguments."""
        accepted = inspect.signature(function).parameters
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
        for spec in inputs:
            if spec.name not in accepted and not takes_any:
                raise ValueError(f"model {name!r}: its function has no argument {spec.name!r}")
        model = FakeModel(
            name, function, inputs, outputs, max_batch_size, versions, frozenset(optional)
        )
        self._state.models[name] = model
        return model

    def add_task(self, name: str, function: TaskFunction, *, task: str, kind: str = "text") -> None:
        """Serve `function` as a model with a card, for `predict` and all that goes with it.

        Args:
            name: The model's name.
            function: Called with one payload (bytes where a file was sent) and the params as
                keywords; gives a prediction or its fields. A `ValueError` is what is wrong with
                that payload; any other exception, but `FakeError`, is a failure of the model.
            task: The task of the card, by which the client knows the prediction's type.
            kind: What the card says of payloads: text, image, audio, features, bytes or any.
        """
        self._state.tasks[name] = _Task(function, task, kind)

    def remove(self, name: str) -> None:
        """Forget a model; it answers 404 from now on."""
        self._state.models.pop(name, None)
        self._state.tasks.pop(name, None)

    def set_ready(self, ready: bool) -> None:
        """Choose what `/v2/health/ready` answers: 200 or 503."""
        self._state.ready = ready

    def clear(self) -> None:
        """Forget the recorded requests and the faults still to come."""
        with self._state.changed:
            self._state.requests.clear()
            self._state.faults.clear()

    def wait_for(self, count: int, timeout: float = 10.0) -> None:
        """Block until `count` inference requests have arrived.

        Raises:
            TimeoutError: fewer came within `timeout` seconds.
        """
        with self._state.changed:
            if not self._state.changed.wait_for(lambda: self._arrived() >= count, timeout):
                raise TimeoutError(f"expected {count} inference requests, got {self._arrived()}")

    def _arrived(self) -> int:
        return sum(request.path.endswith("/infer") for request in self._state.requests)

    # Faults: each is for the next `times` requests whose path contains `path`, in order.

    def fail(
        self,
        status: int,
        text: str = "asked to fail",
        *,
        times: int = 1,
        path: str = "/infer",
        code: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
        body: bytes | None = None,
    ) -> None:
        """Answer with an error status; `body` replaces the usual JSON error body."""
        content: dict[str, Any] = {"error": text, "code": code or _CODES.get(status, "internal")}
        if retryable is not None:
            content["retryable"] = retryable
        headers = [] if retry_after is None else [("Retry-After", f"{retry_after:g}")]
        raw = PYDANTIC_JSON.dumps(content) if body is None else body
        self._add(_Fault(path, times, instead=_Answer(status, raw, headers)))

    def drop(self, *, times: int = 1, path: str = "/infer") -> None:
        """Read the request, then close the connection without an answer."""
        self._add(_Fault(path, times, drop=True))

    def truncate(self, keep: int = 10, *, times: int = 1, path: str = "/infer") -> None:
        """Promise the whole answer, send `keep` bytes of its body, close."""
        self._add(_Fault(path, times, cut=keep))

    def garbage(
        self, body: bytes = b"\x00not an answer", *, times: int = 1, path: str = "/infer"
    ) -> None:
        """Answer 200 with bytes that are no answer."""
        self._add(_Fault(path, times, instead=_Answer(200, body)))

    def alter(
        self, change: Callable[[bytes], bytes], *, times: int = 1, path: str = "/infer"
    ) -> None:
        """Answer with `change(body)` in place of the body; the headers stay as they were."""
        self._add(_Fault(path, times, alter=change))

    def wrong_shape(self, *, times: int = 1, path: str = "/infer") -> None:
        """Claim another shape than the data has, in JSON and binary answers alike."""
        self.alter(lambda body: body.replace(b'"shape":[', b'"shape":[7,'), times=times, path=path)

    @contextmanager
    def hold(self, *, times: int = 1_000_000, path: str = "/infer") -> Iterator[Gate]:
        """Hold matching requests until the gate's `release()` or the end of the block."""
        gate = Gate()
        fault = _Fault(path, times, before=gate._pass)
        self._add(fault)
        try:
            yield gate
        finally:
            gate.release()
            with self._state.changed:
                fault.times = 0

    def _add(self, fault: _Fault) -> None:
        with self._state.changed:
            self._state.faults.append(fault)

    def close(self) -> None:
        """Stop listening, end every connection and the threads behind them."""
        if self._closed:
            return
        self._closed = True
        self._http.shutdown()
        self._http.end_connections()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = False  # so that `server_close` joins them
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], state: _State) -> None:
        super().__init__(address, _Handler)
        self.state = state
        self._live: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._live.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._live.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to print about."""

    def end_connections(self) -> None:
        with self._lock:
            live = list(self._live)
        for connection in live:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has ended by itself
                continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def _state(self) -> _State:
        return cast("_HttpServer", self.server).state

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Tests want no access log."""

    def _answer(self) -> None:
        request = self._read()
        state = self._state
        fault = _take_fault(state, request)
        if fault is not None and fault.before is not None:
            fault.before()
        if fault is not None and fault.drop:
            self.close_connection = True
            return
        answer = fault.instead if fault is not None and fault.instead else _respond(state, request)
        if fault is not None and fault.alter is not None:
            answer = answer._replace(body=fault.alter(answer.body))
        self._write(answer, None if fault is None else fault.cut)

    def _read(self) -> RecordedRequest:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._chunks() if "chunked" in headers.get("transfer-encoding", "") else b""
        body = body or self.rfile.read(int(headers.get("content-length", "0")))
        path = unquote(urlsplit(self.path).path)
        decoded = _decoded(path, headers, body)
        request = RecordedRequest(self.command, path, headers, body, decoded)
        state = self._state
        with state.changed:
            state.requests.append(request)
            state.changed.notify_all()
        return request

    def _chunks(self) -> bytes:
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _write(self, answer: _Answer, cut: int | None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body if cut is None else answer.body[:cut])
        if cut is not None:
            self.close_connection = True


def _take_fault(state: _State, request: RecordedRequest) -> _Fault | None:
    with state.changed:
        for fault in state.faults:
            if fault.times > 0 and fault.path in request.path:
                fault.times -= 1
                return fault
    return None


def _decoded(path: str, headers: Mapping[str, str], body: bytes) -> InferRequest | None:
    if not path.endswith("/infer"):
        return None
    try:
        return _decode(headers, body)
    except CodecError:
        return None


def _decode(headers: Mapping[str, str], body: bytes) -> InferRequest:
    if headers.get("content-encoding", "identity") != "identity":
        body = inflate(body, _LARGEST_BODY)
    told = headers.get("inference-header-content-length")
    length = None if told is None else parse_header_length(told, len(body))
    return decode_request(bytearray(body), length)


def _respond(state: _State, request: RecordedRequest) -> _Answer:
    try:
        return _route(state, request)
    except FakeError as error:
        return _error(error.status, error.text, error.code)
    except (CodecError, ValueError) as error:
        return _error(400, str(error))
    except Exception as error:
        return _error(500, f"{type(error).__name__}: {error}", "inference_failed")


def _error(status: int, text: str, code: str = "") -> _Answer:
    content = {"error": text, "code": code or _CODES.get(status, "internal")}
    return _json(content, status)


def _json(content: Any, status: int = 200) -> _Answer:
    return _Answer(status, PYDANTIC_JSON.dumps(content), [("Content-Type", "application/json")])


def _route(state: _State, request: RecordedRequest) -> _Answer:
    match request.path.strip("/").split("/"):
        case ["v2", "health", "live"]:
            return _Answer(200, b"")
        case ["v2", "health", "ready"]:
            return _Answer(200, b"") if state.ready else _error(503, "not ready", "model_not_ready")
        case ["v1" | "v2", *_] if not _allowed(state, request):
            return _error(401, "expected 'Authorization: Bearer <key>'")
        case ["v1", "models", *rest] if rest:
            return _task_route(state, request, "/".join(rest))
        case ["v2"]:
            extensions = list(state.extensions)
            return _json({"name": "fake", "version": "1", "extensions": extensions})
        case ["v2", "repository", *rest]:
            return _repository(state, rest)
        case ["v2", "models", "stats"]:
            entries = [model.statistics("") for model in state.models.values() if model.loaded]
            return _json({"model_stats": entries})
        case ["v2", "models", name, "versions", version, *rest]:
            return _model_route(state, request, _find(state, name, version), version, rest)
        case ["v2", "models", name, *rest]:
            return _model_route(state, request, _find(state, name, ""), "", rest)
    raise FakeError(404, f"unknown route {request.path!r}")


def _allowed(state: _State, request: RecordedRequest) -> bool:
    expected = f"Bearer {state.api_key}"
    return not state.api_key or request.headers.get("authorization") == expected


def _find(state: _State, name: str, version: str) -> FakeModel:
    model = state.models.get(name)
    if model is None or not model.loaded:
        text = f"Request for unknown model: {name!r} is not found"
        raise FakeError(404, text, code="model_not_found")
    if version and version not in model.versions:
        text = f"Request for unknown model: {name!r} version {version} is not found"
        raise FakeError(404, text, code="version_not_found")
    return model


def _repository(state: _State, rest: Sequence[str]) -> _Answer:
    match rest:
        case ["index"]:
            return _json([_entry(m, v) for m in state.models.values() for v in m.versions])
        case ["models", name, ("load" | "unload") as verb]:
            model = state.models.get(name)
            if model is None and verb == "load":
                raise FakeError(404, f"model {name!r} is not found", code="model_not_found")
            if model is not None:
                model.loaded = verb == "load"
            return _json({})
    raise FakeError(404, "unknown route")


def _entry(model: FakeModel, version: str) -> dict[str, str]:
    if model.loaded:
        return {"name": model.name, "version": version, "state": "READY"}
    unloaded = {"state": "UNAVAILABLE", "reason": "unloaded"}
    return {"name": model.name, "version": version, **unloaded}


def _model_route(
    state: _State, request: RecordedRequest, model: FakeModel, version: str, rest: Sequence[str]
) -> _Answer:
    match rest:
        case []:
            if not model.inputs:
                raise FakeError(404, "no metadata here", code="not_found")
            return _tagged(request, _json(model.metadata(version)))
        case ["ready"]:
            return _json({"name": model.name, "ready": True})
        case ["config"]:
            return _json(model.config())
        case ["stats"]:
            return _json({"model_stats": [model.statistics(version)]})
        case ["infer"]:
            return _infer(state, request, model, version)
    raise FakeError(404, f"unknown route {request.path!r}")


def _tagged(request: RecordedRequest, answer: _Answer) -> _Answer:
    """With an ETag; 304 without a body for a client that has this very content already."""
    etag = f'"{crc32(answer.body):08x}"'
    headers = [*answer.headers, ("ETag", etag)]
    if request.headers.get("if-none-match") == etag:
        return _Answer(304, b"", headers)
    return answer._replace(headers=headers)


def _infer(state: _State, request: RecordedRequest, model: FakeModel, version: str) -> _Answer:
    if request.method != "POST":
        raise FakeError(405, "Method Not Allowed")
    if request.binary and "binary_tensor_data" not in state.extensions:
        raise FakeError(400, "the body is not JSON", code="invalid_json")
    decoded = _decode(request.headers, request.body)
    answer = InferResponse(model.name, version or model.versions[-1], model.run(decoded))
    answer.id = decoded.id
    return _encoded(encode_response(answer, decoded))


def _task_route(state: _State, request: RecordedRequest, path: str) -> _Answer:
    """`/v1/models/{m}[/versions/{v}][:predict]`."""
    path, colon, verb = path.partition(":")
    name = path.partition("/")[0]
    served = state.tasks.get(name)
    if served is None or (colon and verb != "predict"):
        raise FakeError(404, f"model {name!r} is not found", code="model_not_found")
    if not colon:
        return _json({"id": name, "name": name, "task": served.task, "input": served.kind})
    instances: list[Any] = [request.body]
    params: Mapping[str, Any] = {}
    if request.headers.get("content-type") != "application/octet-stream":
        document = PYDANTIC_JSON.loads(request.body)
        instances, params = document["instances"], document.get("parameters") or {}
    answers = [_predicted(served, instance, params) for instance in instances]
    failed = [answer for answer in answers if isinstance(answer, FakeError)]
    if len(failed) == len(answers):
        raise failed[0]
    entries = [_prediction_entry(answer) for answer in answers]
    answer = _json({"predictions": entries})
    return answer._replace(headers=[*answer.headers, ("X-AIAAS-Task", served.task)])


def _predicted(served: _Task, instance: Any, params: Mapping[str, Any]) -> Any:
    if isinstance(instance, dict) and set(instance) == {"b64"}:
        instance = base64.b64decode(instance["b64"])
    try:
        return served.function(instance, **params)
    except FakeError as error:
        return error
    except ValueError as error:
        return FakeError(400, str(error), code="invalid_request")


def _prediction_entry(answer: Any) -> Any:
    if isinstance(answer, FakeError):
        code = answer.code or _CODES.get(answer.status, "internal")
        return {"error": answer.text, "code": code}
    return answer.model_dump(mode="json") if isinstance(answer, BaseModel) else dict(answer)


def _encoded(encoded: Encoded) -> _Answer:
    headers = [("Content-Type", encoded.content_type)]
    if encoded.json_length is not None:
        headers.append(("Inference-Header-Content-Length", str(encoded.json_length)))
    return _Answer(200, encoded.join(), headers)
