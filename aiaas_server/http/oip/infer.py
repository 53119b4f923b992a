"""Hot inference: its cost is paid on every request.

One request is: body, the model, tensors, the model's run, answer; all by plain calls, for a
connection of ours and for the route in `infer_route` alike. A text that was read before and an
answer like one that was written before are remembered in `plans`; all else is read by
`infer_request` and written by `infer_answer`.
"""

from __future__ import annotations

from aiaas_client.protocol.inference import InferRequest
from aiaas_client.protocol.tensors import Body
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.http.answers import Reply
from aiaas_server.http.hot import HotCall
from aiaas_server.http.incoming import Headers, SizeLimit, too_large
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.negotiation import IDENTITY, answer_coding
from aiaas_server.http.oip.infer_answer import AnswerWriter
from aiaas_server.http.oip.infer_request import RequestReader
from aiaas_server.http.oip.parameters import schedule_of
from aiaas_server.http.oip.plans import LONGEST_TEXT, AnswerPlans, RequestPlans
from aiaas_server.http.scopes import INFER, forbidden
from aiaas_server.settings import Settings

_DIGITS = len(str(LONGEST_TEXT))
_BINARY = {"binary_data_output": True}  # says nothing of the queue, and most requests say it


class HotInfer:
    """Answers what can be read, run and written without waiting for anything but the model.

    Attributes:
        reader: Reads the requests that are not like one before.
    """

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._serving = pool.serving
        self._may_compress = settings.compression
        self._max_body = SizeLimit(settings.max_body_bytes, "max_body_bytes")
        self._plans = RequestPlans()
        self.reader = RequestReader(pool, settings, self._plans, self._max_body)
        self._answers = AnswerPlans(FAST_JSON)
        self._writer = AnswerWriter(settings, self._answers)

    def begin(self, name: str, version: int | str | None, call: HotCall) -> bool:
        """Answer one request for a model: `HotEndpoint` when the first two are given.

        Not for it are models that are not there yet or whose answers are cached, shared memory,
        compressed answers, and bodies that would hold the event loop.
        """
        context, body = call.context, call.body
        if "infer" not in context.caller.identity.scopes:
            raise forbidden(INFER)
        if len(body) > self._max_body.bytes:
            raise too_large(self._max_body, str(len(body)))
        headers = context.headers
        model = self._serving.find(name, version, context.caller)
        if model is None or not model.starts or self.coding(headers) != IDENTITY:
            return False
        request = self.read(model, body, headers.get(b"inference-header-content-length"))
        if request is None or request.shared_inputs:
            return False
        names: list[str] = []
        for output in request.outputs:
            if output.shared_memory is not None:
                return False
            names.append(output.name)
        priority, timeout = 0, 0.0
        if request.parameters and request.parameters != _BINARY:
            priority, timeout = schedule_of(request.parameters)
        call.model, call.request, call.finish = model, request, self._finish
        deadline = context.deadline
        begun = model.start(
            call, request.inputs, names, priority=priority, timeout=timeout, deadline=deadline
        )
        if isinstance(begun, Outcome):
            self._finish(call, begun)
        elif not begun.settled:
            call.queued = begun
        return True

    def _finish(self, call: HotCall, outcome: Outcome) -> None:
        """Write the outputs as the request wants them, and send the answer."""
        model, request, outputs = call.model, call.request, outcome.outputs
        timing = _timing(outcome)
        reply = self._answers.recall(model, request, outputs, timing)
        if reply is not None:
            call.answer(reply)
            return
        reply = self._writer.write_now(model, request, outputs)
        if reply is None:
            call.later(self.written(model, request, outcome, IDENTITY))
        else:
            call.answer(reply._replace(timing=timing))

    def read(self, model: LoadedModel, body: Body, announced: bytes | None) -> InferRequest | None:
        """What a body says; None where reading it would hold the event loop."""
        if announced is not None and len(announced) <= _DIGITS and announced.isdigit():
            request = self._plans.recall(body, int(announced))
            if request is not None:
                return request
        return self.reader.decode(model, body, announced)

    def coding(self, headers: Headers) -> str:
        """In what coding the answer is wanted."""
        accepted = headers.get(b"accept-encoding")
        if accepted is None or not self._may_compress:
            return IDENTITY
        return answer_coding(accepted)

    async def written(
        self, model: LoadedModel, request: InferRequest, outcome: Outcome, coding: str
    ) -> Reply:
        """Write an answer, however large, in the coding wanted.

        Raises:
            As `AnswerWriter.write`.
        """
        reply = await self._writer.write(model, request, outcome.outputs, coding)
        return reply._replace(timing=_timing(outcome))


def _timing(outcome: Outcome) -> bytes:
    """Server-Timing: milliseconds, whose nanoseconds are written by the exponent."""
    _, queue_ns, input_ns, infer_ns, output_ns, _ = outcome
    return b"queue;dur=%de-6, compute;dur=%de-6" % (queue_ns, input_ns + infer_ns + output_ns)
