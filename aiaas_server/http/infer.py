"""The infer route: a bare ASGI callable, because its cost is paid on every request.

One request is: headers in one pass, body, `decode_request`, `pool.resolve`, `model.infer`,
`encode_response`, answer. Work that would hold the event loop (large JSON, inflating, compressing)
goes to a thread; nothing else leaves the loop here.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from aiaas_client.protocol.codec import (
    Encoded,
    InferRequest,
    InferResponse,
    decode_raw_request,
    decode_request,
    encode_response,
    parse_header_length,
)
from aiaas_client.protocol.compression import compress
from aiaas_client.protocol.plans import RequestDecoder
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InvalidInput, NotSupported, OutputTooLarge
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool import ModelPool
from aiaas_server.http.answers import send_chunks, send_problem
from aiaas_server.http.auth import KeyCheck
from aiaas_server.http.body import Body, check_length, read_rest, too_large, unwrap
from aiaas_server.http.classification import classify
from aiaas_server.http.disconnect import ClientGone, while_connected
from aiaas_server.http.errors import problem_of
from aiaas_server.http.fastjson import FAST_JSON
from aiaas_server.http.head import (
    BINARY_TYPE,
    JSON_TYPE,
    NO_STORE,
    NOSNIFF,
    HeaderList,
    Headers,
    deadline_seconds,
    read_headers,
    request_id_of,
)
from aiaas_server.http.negotiation import IDENTITY, answer_coding
from aiaas_server.http.schedule import schedule_of
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.observe.tracing import continue_trace
from aiaas_server.settings import Settings

_COMPRESS_INLINE = 32 << 10  # bytes compressed on the event loop, at most about a millisecond
_JOIN_BELOW = 64 << 10  # smaller answers leave in one piece

Target = tuple[str, int | None]


class InferRoute:
    """`POST /v2/models/{m}[/versions/{v}]/infer`."""

    def __init__(
        self,
        pool: ModelPool,
        settings: Settings,
        key_check: KeyCheck | None,
        metrics: RequestMetrics,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._key_check = key_check
        self._metrics = metrics
        self._max_body = settings.max_body_bytes
        self._decoder = RequestDecoder(json=FAST_JSON, max_json_bytes=settings.max_json_bytes)

    async def serve(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for `target`, whatever happens."""
        headers = read_headers(scope)
        request_id = request_id_of(headers)
        if b"traceparent" in headers:
            continue_trace(headers[b"traceparent"])
        try:
            if self._key_check is not None:
                self._key_check.check(scope, headers)
            encoded = await self._run(target, scope, receive, headers)
            answer, chunks = await self._wrap(encoded, headers)
        except ClientGone:
            return
        except Exception as error:
            problem = problem_of(error)
            self._metrics.refused(problem.code)
            await send_problem(send, problem, request_id)
            return
        answer.append((b"x-request-id", request_id))
        await send_chunks(send, answer, chunks)

    async def _run(
        self, target: Target, scope: Scope, receive: Receive, headers: Headers
    ) -> Encoded:
        loop = asyncio.get_running_loop()
        settings = self._settings
        seconds = deadline_seconds(headers, settings.default_deadline, settings.max_deadline)
        deadline = loop.time() + seconds
        body = await self._body(target, receive, headers, deadline)
        model, request = await self._decode(target, body, headers)
        priority, timeout = schedule_of(request.parameters) if request.parameters else (0, 0.0)
        names = [output.name for output in request.outputs]
        work = model.infer(
            request.inputs, names, priority=priority, timeout=timeout, deadline=deadline
        )
        outcome = await while_connected(work, scope, receive)
        return await self._encode(model, request, outcome.outputs)

    async def _body(
        self, target: Target, receive: Receive, headers: Headers, deadline: float
    ) -> Body:
        limit = self._max_body
        length = check_length(headers, limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body: Body = message.get("body", b"")
        if message.get("more_body", False):
            self._pool.resolve(*target)  # a large body for an unknown model is not worth reading
            body = await read_rest(message, receive, length, limit, deadline)
        elif len(body) > limit:
            raise too_large(limit)
        return await unwrap(body, headers, limit) if b"content-encoding" in headers else body

    async def _decode(
        self, target: Target, body: Body, headers: Headers
    ) -> tuple[LoadedModel, InferRequest]:
        model = self._pool.resolve(*target)
        announced = headers.get(b"inference-header-content-length")
        json_length = None if announced is None else parse_header_length(announced, len(body))
        if json_length == 0:
            return model, raw_request(model, body)
        if len(body) <= self._settings.offload_json_bytes:
            request = self._decoder.decode(body, json_length)
        else:
            request = await asyncio.to_thread(
                decode_request,
                body,
                json_length,
                json=FAST_JSON,
                max_json_bytes=self._settings.max_json_bytes,
            )
            model = self._pool.resolve(*target)  # it may have been reloaded meanwhile
        refuse_shared_memory(request)
        return model, request

    async def _encode(
        self, model: LoadedModel, request: InferRequest, outputs: dict[str, Array]
    ) -> Encoded:
        limit = self._settings.max_answer_bytes
        size = sum([array.nbytes for array in outputs.values()])
        if size > limit:
            raise answer_too_large(model, size, limit)
        if size <= self._settings.offload_json_bytes:
            encoded = encode_outputs(model, request, outputs)
        else:
            encoded = await asyncio.to_thread(encode_outputs, model, request, outputs)
        if encoded.content_length > limit:
            raise answer_too_large(model, encoded.content_length, limit)
        return encoded

    async def _wrap(
        self, encoded: Encoded, headers: Headers
    ) -> tuple[HeaderList, list[bytes | memoryview]]:
        """Compress when asked to, and make the headers that describe the body."""
        chunks = encoded.chunks
        length = encoded.content_length
        answer: HeaderList = [NOSNIFF, NO_STORE]
        if encoded.json_length is None:
            answer.append(JSON_TYPE)
        else:
            answer.append(BINARY_TYPE)
            answer.append((b"inference-header-content-length", b"%d" % encoded.json_length))
        accepted = headers.get(b"accept-encoding")
        if accepted is not None and self._settings.compression:
            coding = answer_coding(accepted)
            if coding != IDENTITY:
                chunks = [await _compress(chunks, coding, length)]
                length = len(chunks[0])
                answer.append((b"content-encoding", coding.encode()))
        if len(chunks) > 1 and length <= _JOIN_BELOW:
            chunks = [b"".join(chunks)]
        answer.append((b"content-length", b"%d" % length))
        return answer, chunks


def raw_request(model: LoadedModel, body: Body) -> InferRequest:
    """Read the raw form: the body is the data of the model's only input.

    Raises:
        InvalidInput: The model has several inputs.
        CodecError: The bytes do not make up one item.
    """
    inputs = model.signature.inputs
    if len(inputs) != 1:
        raise InvalidInput(
            f"model {model.name!r}: the raw form needs a model of one input, it has {len(inputs)}"
        )
    (spec,) = inputs
    batched = model.signature.max_batch_size > 0
    return decode_raw_request(body, spec.name, spec.datatype, spec.shape, batched=batched)


def refuse_shared_memory(request: InferRequest) -> None:
    """Raises `NotSupported` when a tensor is to be found in shared memory, which is off."""
    if request.shared_inputs:
        raise NotSupported("shared memory is off on this server")
    for output in request.outputs:
        if output.shared_memory is not None:
            raise NotSupported("shared memory is off on this server")


def encode_outputs(model: LoadedModel, request: InferRequest, outputs: dict[str, Array]) -> Encoded:
    """Write an answer, classified outputs as text."""
    for output in request.outputs:
        if output.classification:
            outputs[output.name] = classify(
                outputs[output.name],
                output.classification,
                model.labels.get(output.name, ()),
                batched=model.signature.max_batch_size > 0,
                name=output.name,
            )
    response = InferResponse(model.name, str(model.version), outputs, request.id)
    return encode_response(response, request, json=FAST_JSON)


def answer_too_large(model: LoadedModel, size: int, limit: int) -> OutputTooLarge:
    """The error for an answer over the limit."""
    return OutputTooLarge(
        f"model {model.name!r}: the answer has {size} bytes, at most {limit} are sent"
    )


async def _compress(chunks: list[bytes | memoryview], coding: str, length: int) -> bytes:
    if length <= _COMPRESS_INLINE:
        return compress(chunks, coding)
    return await asyncio.to_thread(compress, chunks, coding)
