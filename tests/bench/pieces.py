"""What each feature costs a request: a loop over the functions that do it, with what they get.

A loop has warm caches, so that these figures are lower bounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import direct
from table import Goal, value_at_most
from unplugged import Nowhere, configuration
from uvicorn.server import ServerState

from aiaas_client.protocol.codec import decode_request
from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.inference import InferRequest
from aiaas_server.app import Application
from aiaas_server.core.describe.config import QueuePolicy
from aiaas_server.core.events import NOBODY, InferenceRecord
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.schedule.accounting import Accounts
from aiaas_server.core.schedule.cost import Costs, Placement
from aiaas_server.core.schedule.pending import Pending
from aiaas_server.core.schedule.queues import Queue, QueueBudget
from aiaas_server.core.schedule.requests import Outcome, Request
from aiaas_server.core.signature import total_bytes
from aiaas_server.core.statistics import Statistics
from aiaas_server.http.answers import Reply
from aiaas_server.http.auth import KeyCheck, one_key
from aiaas_server.http.edge.connection import EdgeProtocol
from aiaas_server.http.edge.edge import Edge
from aiaas_server.http.edge.heads import Heads, LaneHead
from aiaas_server.http.edge.lane import LaneCall
from aiaas_server.http.edge.lifetime import IDLE
from aiaas_server.http.edge.target import read_target
from aiaas_server.http.gate import Gate, deadline_seconds, request_id_of
from aiaas_server.http.incoming import Headers, RequestContext
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.oip.infer_answer import AnswerWriter
from aiaas_server.http.oip.plans import AnswerPlans, RequestPlans
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.observe.tracing import trace_of
from aiaas_server.process import edge_limits

KEY = "a-key-for-the-benchmark-of-some-length"
EACH = value_at_most(2)
PATIENCE = 3600.0


class Piece(NamedTuple):
    """A feature: the calls that do it, and calls whose time is not its own and comes off.

    Attributes:
        times: How often one call does it.
    """

    name: str
    call: Callable[[], object]
    without: Callable[[], object] = lambda: None
    goal: Goal | None = EACH
    times: int = 1

    def seconds(self) -> float:
        calls = max(5_000 // self.times, 1)
        return (_each(self.call, calls) - _each(self.without, calls)) / self.times


@dataclass(frozen=True, slots=True)
class Served:
    """A request, and what it is on its way."""

    app: Application
    model: LoadedModel
    wire: bytes
    head: LaneHead
    body: bytes
    request: InferRequest
    outcome: Outcome

    @property
    def headers(self) -> Headers:
        return self.head.headers

    @property
    def text_length(self) -> int:
        return int(self.headers[b"inference-header-content-length"])


async def served(app: Application, name: str, wire: bytes) -> Served:
    """Take the request `wire` apart, and have it answered once."""
    text, _, body = wire.partition(b"\r\n\r\n")
    first, *lines = text.split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    target = read_target(first.split(b" ")[1])
    endpoint = app.hot.find("POST", target.path)
    assert endpoint is not None
    head = LaneHead("POST", target, headers, len(body), endpoint)
    model = app.pool.resolve(name, None)
    request = decode_request(body, int(headers[b"inference-header-content-length"]))
    outcome = await model.infer(request.inputs)
    return Served(app, model, wire, head, body, request, outcome)


def pieces(one: Served) -> Iterator[Piece]:
    """All of them; called on the event loop."""
    yield from _head(one)
    yield from _door(one)
    yield from _request(one)
    yield from _schedule(one)
    yield from _answer(one)
    yield from _connection(one)


def _head(one: Served) -> Iterator[Piece]:
    ours, least = _connection_of(one, _HeadOnly), _BareHead({})
    heads, text = Heads(), one.wire[: -len(one.body)]
    heads.learn(text, one.head)
    yield Piece("head that came before: known again", lambda: heads.recall(text))
    yield Piece(
        "new head: limits, strictness, host, path, beyond the floor's parsing",
        lambda: ours.data_received(one.wire),
        lambda: least.data_received(one.wire),
    )


def _door(one: Served) -> Iterator[Piece]:
    settings, clock, path = one.app.settings, asyncio.get_running_loop().time, one.head.target.path
    gate = Gate(settings, RequestMetrics(), observed=False)
    keyed = {**one.headers, b"authorization": b"Bearer " + KEY.encode()}
    traced = {**one.headers, b"traceparent": b"00-%032x-%016x-01" % (7, 7)}
    timed = {**one.headers, b"x-request-timeout-ms": b"5000"}
    key_check = KeyCheck(one_key(KEY))
    yield Piece("request id", lambda: request_id_of(one.headers))
    yield Piece(
        "who asks, and how long", lambda: gate.open(b"an-id", one.headers, path, b"", "127.0.0.1")
    )
    yield Piece(
        "deadline read from the header",
        lambda: clock() + deadline_seconds(timed, settings.default_deadline, settings.max_deadline),
    )
    yield Piece("trace read, where one comes", lambda: trace_of(traced))
    yield Piece("key check, off by default", lambda: key_check.check(keyed, b"", "127.0.0.1"))
    yield Piece("an error counted", lambda: gate.refused(ErrorCode.INVALID_REQUEST))


def _request(one: Served) -> Iterator[Piece]:
    plans, signature = RequestPlans(), one.model.signature
    plans.learn(one.body, one.text_length, one.request)
    inputs, length = one.request.inputs, one.text_length
    yield Piece("model found", lambda: one.app.pool.serving.find("digits"))
    yield Piece("body decoded", lambda: plans.recall(one.body, length))
    yield Piece("validation of names, types, shapes", lambda: signature.check(inputs))


def _schedule(one: Served) -> Iterator[Piece]:
    loop, inputs = asyncio.get_running_loop(), one.request.inputs
    size, until = total_bytes(inputs), loop.time() + PATIENCE
    plain = Accounts("digits", 1, Statistics(), ())
    observed = Accounts("digits", 1, Statistics(), (_look_on,))
    queue, costs = Queue(1, QueueBudget()), Costs(Placement(ceiling=1 << 20))
    pending = Pending("digits", queue, [QueuePolicy()], plain, None)
    request = Request(inputs, ("logits",), 1, size, None, loop.create_future(), time.monotonic_ns())

    def queued() -> None:
        queue.has_room(0, size, 0)
        queue.push(request, 0)
        queue.remove(request)

    def counted(accounts: Accounts) -> None:
        accounts.executed(1, 1000, 4000, 1000)
        accounts.accepted(request)
        accounts.answered(request, one.outcome, 20_000)

    yield Piece("deadline kept", lambda: pending.limit(request, until, 0.0, loop))
    yield Piece("room in the queue, place by priority and shape", queued)
    yield Piece("placement: loop or thread", lambda: costs.is_inline(None, total_bytes(inputs)))
    yield Piece("placement and batches learned", lambda: costs.measured(None, 1, 1, size, 6000))
    yield Piece("statistics and metrics", lambda: counted(plain))
    yield Piece(
        "an observer told, none by default", lambda: counted(observed), lambda: counted(plain)
    )


def _answer(one: Served) -> Iterator[Piece]:
    plans, outputs = AnswerPlans(FAST_JSON), one.outcome.outputs
    AnswerWriter(one.app.settings, plans).write_now(one.model, one.request, outputs)
    connection = _connection_of(one, EdgeProtocol)

    def recalled() -> Reply:
        timing = b"queue;dur=%de-6, compute;dur=%de-6" % (1234, 5678)
        found = plans.recall(one.model, one.request, outputs, timing)
        assert found is not None
        return found

    def call() -> LaneCall:
        made = LaneCall(connection, one.head)
        made._request_id = b"0123456789abcdef-12345"
        made.context = RequestContext(one.headers, made._request_id, NOBODY, 0.0)
        return made

    reply, answered = recalled(), call()
    yield Piece("answer's text, around its numbers", recalled)
    yield Piece("answer's head and body written", lambda: call().answer(reply), call)
    yield Piece("access log's record, off by default", lambda: answered.record("127.0.0.1"))


def _connection(one: Served) -> Iterator[Piece]:
    edge = Edge(edge_limits(one.app.settings))
    edge._swept = 0.0  # the sweep has been started
    connection = _connection_of(one, EdgeProtocol)
    now = connection.loop.time()

    def counted() -> None:
        edge.opened(connection, "192.0.2.1")
        edge.closed(connection, "192.0.2.1")

    yield Piece("connection counted, of all and of its address: once", counted)
    yield Piece("connection's time limits: twice a second", lambda: connection.check_time(now, 0.5))


class _HeadOnly(EdgeProtocol):
    """Reads a head and checks it; the request goes no further."""

    def _is_known(self, data: bytes) -> bool:
        return False

    def _open_hot(self, *_: object) -> bool:
        return True

    def on_body(self, body: bytes) -> None: ...

    def on_message_complete(self) -> None:
        self._phase = IDLE


class _BareHead(direct.Direct):
    """Reads a head as the floor does."""

    def on_message_complete(self) -> None: ...


def _connection_of(one: Served, kind: type[EdgeProtocol]) -> EdgeProtocol:
    edge = Edge(edge_limits(one.app.settings), hot=one.app.hot)
    bound = type("Bound", (kind,), {"edge": edge})
    loop = asyncio.get_running_loop()
    connection: EdgeProtocol = bound(configuration(one.app, bound), ServerState(), {}, loop)
    connection.connection_made(Nowhere(lambda _: None))
    return connection


def _look_on(record: InferenceRecord) -> None: ...


def _each(call: Callable[[], object], times: int = 5_000) -> float:
    """CPU seconds of one call: the best of some rounds."""
    found = []
    for _ in range(5):
        began = time.thread_time()
        for _ in range(times):
            call()
        found.append((time.thread_time() - began) / times)
    return min(found)
