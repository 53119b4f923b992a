"""The infer route: a bare ASGI callable, because its cost is paid on every request.

One request is: headers in one pass, body, `decode_request`, `pool.resolve`, `model.infer`,
`encode_response`, answer. Work that would hold the event loop (large JSON, inflating, compressing)
goes to a thread; nothing else leaves the loop here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.types import Message, Receive, Scope, Send

from aiaas_client.protocol.codec import (
    InferRequest,
    SharedMemory,
    decode_raw_request,
    decode_request,
    parse_header_length,
)
from aiaas_client.protocol.plans import RequestDecoder
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InvalidInput, NotSupported, QueueFull
from aiaas_server.core.model import LoadedModel, Outcome
from aiaas_server.core.pool import ModelPool
from aiaas_server.http.answers import send_chunks, send_problem
from aiaas_server.http.auth import KeyCheck
from aiaas_server.http.body import Body, check_length, read_rest, too_large, unwrap
from aiaas_server.http.disconnect import ClientGone, while_connected
from aiaas_server.http.errors import problem_of
from aiaas_server.http.fastjson import FAST_JSON
from aiaas_server.http.head import Headers, deadline_seconds, read_headers, request_id_of
from aiaas_server.http.regions import Region, Regions, is_local, read_input, write_output
from aiaas_server.http.schedule import schedule_of
from aiaas_server.http.writing import Answer, AnswerWriter
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.observe.tracing import take_up
from aiaas_server.settings import Settings

Target = tuple[str, int | None]
Targets = Sequence[tuple[Region, SharedMemory, str]]  # where outputs go, and which


class InferRoute:
    """`POST /v2/models/{m}[/versions/{v}]/infer`."""

    def __init__(
        self,
        pool: ModelPool,
        settings: Settings,
        key_check: KeyCheck | None,
        metrics: RequestMetrics,
        regions: Regions | None = None,
        *,
        observed: bool = False,
    ) -> None:
        self._pool = pool
        self._regions = regions if settings.shared_memory else None
        self._settings = settings
        self._key_check = key_check
        self._metrics = metrics
        self._observed = pool.observed  # somebody wants to know who asked
        self._max_body = settings.max_body_bytes
        self._offload = settings.offload_json_bytes
        self._decoder = RequestDecoder(json=FAST_JSON, max_json_bytes=settings.max_json_bytes)
        self._writer = AnswerWriter(settings)

    async def serve(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for `target`, whatever happens."""
        headers = read_headers(scope)
        request_id = request_id_of(headers)
        if self._observed or b"traceparent" in headers:
            take_up(request_id, headers)
        try:
            if self._key_check is not None:
                self._key_check.check(scope, headers)
            head, chunks = await self._run(target, scope, receive, headers)
        except ClientGone:
            return
        except Exception as error:
            problem = problem_of(error, request_id)
            self._metrics.refused(problem.code)
            await send_problem(send, problem, request_id)
            return
        head.append((b"x-request-id", request_id))
        await send_chunks(send, head, chunks)

    async def _run(
        self, target: Target, scope: Scope, receive: Receive, headers: Headers
    ) -> Answer:
        settings = self._settings
        seconds = deadline_seconds(headers, settings.default_deadline, settings.max_deadline)
        deadline = asyncio.get_running_loop().time() + seconds
        length = check_length(headers, self._max_body)
        if self._pool.loads_on_demand:
            await self._pool.obtain(*target, deadline)
        if b"expect" in headers:  # a body that waits to be asked for
            self._refuse_when_full(self._pool.resolve(*target))
        message = await receive()
        body: Body = message.get("body", b"")
        if message.get("more_body", True) or b"content-encoding" in headers:
            body = await self._whole_body(
                target, scope, message, receive, headers, length, deadline
            )
        model, request = await self._decode(target, body, headers)
        targets: Targets = ()
        if uses_shared_memory(request):
            targets = await self._attach(request, scope)
        priority, timeout = schedule_of(request.parameters) if request.parameters else (0, 0.0)
        names = [output.name for output in request.outputs]
        work = model.infer(
            request.inputs, names, priority=priority, timeout=timeout, deadline=deadline
        )
        outcome = await while_connected(work, scope, receive)
        outputs = outcome.outputs
        if targets:
            await asyncio.to_thread(write_shared, targets, outputs)
        answer = None if targets else self._writer.repeat(model, request, outputs, headers)
        if answer is None:
            answer = await self._writer.write(model, request, outputs, headers)
        answer[0].append((b"server-timing", server_timing(outcome)))
        return answer

    async def _whole_body(
        self,
        target: Target,
        scope: Scope,
        message: Message,
        receive: Receive,
        headers: Headers,
        length: int | None,
        deadline: float,
    ) -> Body:
        """Read what follows the first message, and undo the content coding."""
        limit = self._max_body
        body: Body = message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ClientGone
        if message.get("more_body", False):
            # What cannot be served is refused before its body is read.
            self._refuse_when_full(self._pool.resolve(*target))
            body = await read_rest(scope, message, receive, length, limit, deadline)
        return await unwrap(body, headers, limit)

    def _refuse_when_full(self, model: LoadedModel) -> None:
        model.scheduler.refuse_when_full()
        budget = self._pool.budget
        if budget.count >= budget.max_count or budget.bytes >= budget.max_bytes:
            raise QueueFull("the server's queue is full", retry_after=1.0)

    async def _decode(
        self, target: Target, body: Body, headers: Headers
    ) -> tuple[LoadedModel, InferRequest]:
        size = len(body)
        if size > self._max_body:
            raise too_large(self._max_body)
        model = self._pool.resolve(*target)
        announced = headers.get(b"inference-header-content-length")
        json_length = None if announced is None else parse_header_length(announced, size)
        if json_length == 0:
            return model, raw_request(model, body)
        if size <= self._offload:
            return model, self._decoder.decode(body, json_length)
        request = self._decoder.recall(body, json_length)
        if request is None:
            request = await asyncio.to_thread(
                decode_request,
                body,
                json_length,
                json=FAST_JSON,
                max_json_bytes=self._settings.max_json_bytes,
            )
            self._decoder.learn(body, json_length, request)
            model = self._pool.resolve(*target)  # it may have been reloaded meanwhile
        return model, request

    async def _attach(self, request: InferRequest, scope: Scope) -> Targets:
        """Fetch the inputs that lie in shared memory; gives where outputs are to go.

        Raises:
            NotSupported: It is off, or the client is on another machine.
            HttpError: 404 for an unknown region, 413 for more bytes than a body may have.
        """
        regions = self._regions
        if regions is None or not is_local(scope):
            raise NotSupported("shared memory is off on this server")
        inputs = request.shared_inputs
        if sum(wanted.memory.byte_size for wanted in inputs.values()) > self._max_body:
            raise too_large(self._max_body)
        held = [(regions.find(x.memory.region), name, x) for name, x in inputs.items()]
        targets = [
            (regions.find(output.shared_memory.region), output.shared_memory, output.name)
            for output in request.outputs
            if output.shared_memory is not None
        ]
        for region, memory, _ in targets:
            region.place(memory)
        for region, name, wanted in held:
            request.inputs[name] = await asyncio.to_thread(read_input, region, name, wanted)
        return targets


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


def server_timing(outcome: Outcome) -> bytes:
    """The value of `Server-Timing`: milliseconds, nanoseconds in them written by the exponent."""
    return b"queue;dur=%de-6, compute;dur=%de-6" % (outcome.queue_ns, outcome.compute_ns)


def uses_shared_memory(request: InferRequest) -> bool:
    """Whether a tensor is to be found in shared memory, or to be put there."""
    if request.shared_inputs:
        return True
    for output in request.outputs:  # noqa: SIM110  # a generator costs more than the loop
        if output.shared_memory is not None:
            return True
    return False


def write_shared(targets: Targets, outputs: dict[str, Array]) -> None:
    """Put outputs into shared memory.

    Raises:
        InvalidInput: One does not fit.
    """
    for region, memory, name in targets:
        write_output(region, memory, outputs[name])
