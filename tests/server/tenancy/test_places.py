"""Requests in flight: however one ends, its place is free again."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aiaas_client.protocol.tenants import UNLIMITED, Limits
from aiaas_server.app import Application, create_app
from aiaas_server.core.events import Identity
from aiaas_server.embedded import EmbeddedServer
from aiaas_server.settings import Settings
from aiaas_server.tenancy.identities import Directory, KnownKey
from aiaas_server.tenancy.limited import Limited
from aiaas_server.tenancy.quota import Quotas
from tests.server.http.edge_caller import EdgeCaller, whole_answer, wire_form
from tests.server.http.scripted_generator import ScriptedGenerator, pieces, scripted_app
from tests.server.http.serving import LiveServer, serving
from tests.tenants import Tenants
from tests.waiting import until, wait_until

ROUNDS, AT_ONCE = 10, 100
BATCHED = json.dumps({"instance_group": [{"count": 1}]})
CACHED = json.dumps({"response_cache": {"enable": True}})


def limits(**some: Any) -> Limits:
    return UNLIMITED.model_copy(update=some)


class Here:
    """A server with one tenant whose requests in flight are counted."""

    def __init__(self, server: LiveServer, key: str) -> None:
        self.server, self.key = server, key

    @property
    def acme(self) -> Limited:
        return acme_of(self.server.app)

    def wire(self, method: str, path: str, body: bytes = b"", *, length: int = -1) -> bytes:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.server.address}\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body) if length < 0 else length}\r\n\r\n"
        )
        return head.encode() + body

    def send(self, data: bytes) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.server.port))
        made.sendall(data)
        return made

    def ask(self, method: str, path: str, document: Any = None) -> tuple[bytes, bytes]:
        """Head and body of an answer."""
        body = b"" if document is None else json.dumps(document).encode()
        with self.send(self.wire(method, path, body)) as made:
            found = b""
            while b"\r\n\r\n" not in found:
                found += made.recv(65536)
            head, _, rest = found.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            while len(rest) < length:
                rest += made.recv(65536)
        return head, rest


def acme_of(app: Application) -> Limited:
    platform = app._platform
    assert platform is not None
    return platform.tenancy.quotas.limited["acme"]


def cut(made: socket.socket) -> None:
    """As a client that is killed: no farewell."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.close()


Start = Callable[..., Here]


@pytest.fixture(params=["lane", "edge", "uvicorn"])
def start(
    request: pytest.FixtureRequest, tmp_path: Path, make_repository: Any, onnx_models: Any
) -> Iterator[Start]:
    """`here = start(**limits)`: behind each of the ways by which requests come."""
    with ExitStack() as stack:

        def make(**some: Any) -> Here:
            root = make_repository(
                {name: getattr(onnx_models, name)() for name in ("busy", "scale")}
                | {"kept": onnx_models.scale()},
                configs={"busy": BATCHED, "kept": CACHED},
            )
            tenants = Tenants(tmp_path / "data")
            tenants.tenant("acme", limits(**{"in_flight": 10_000, **some}))
            key = tenants.key("acme")
            data = tmp_path / "data"
            app = create_app(
                Settings(models=root, data=data, tenants=True, max_connections_per_address=0)
            )
            ways = {"edge": request.param != "uvicorn", "lane": request.param == "lane"}
            return Here(stack.enter_context(serving(app, **ways)), key)

        yield make


def infer(value: float = 1.0) -> Any:
    return {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [value] * 4}]}


def steps(count: int) -> Any:
    return {"inputs": [{"name": "steps", "shape": [1], "datatype": "INT64", "data": [count]}]}


BUSY = steps(20_000)  # seconds: nothing is answered while others come


def abandoned(here: Here) -> dict[str, bytes]:
    """What is begun and left, by how far it had come."""
    busy = json.dumps(BUSY).encode()
    return {
        "in the queue or running": here.wire("POST", "/v2/models/busy/infer", busy),
        "while its body comes": here.wire(
            "POST", "/v2/models/scale/infer", busy[:10], length=len(busy)
        ),
        "in a large body": here.wire("POST", "/v2/models/scale/infer", b"{" * 10, length=4 << 20),
        "a stream of changes": here.wire("GET", "/api/v1/events"),
    }


@pytest.mark.slow
def test_a_thousand_that_leave_leave_nothing_behind(start: Start) -> None:
    here = start()
    acme = here.acme
    here.ask("POST", "/v2/models/busy/infer", steps(1_000))  # it is known to be slow now
    for what, data in abandoned(here).items():
        for _ in range(ROUNDS):
            made = [here.send(data) for _ in range(AT_ONCE)]
            wait_until(lambda: acme.in_flight == AT_ONCE, f"{what}: not all came in")
            for one in made:
                cut(one)
            wait_until(lambda: acme.in_flight == 0, f"{what}: not all were freed")
    head, _ = here.ask("POST", "/v2/models/scale/infer", infer())
    assert head.startswith(b"HTTP/1.1 200")
    assert acme.in_flight == 0


ANSWERED: list[tuple[str, str, Any, int]] = [
    ("POST", "/v2/models/scale/infer", infer(), 200),
    ("POST", "/v2/models/scale/infer", {"inputs": []}, 400),
    ("POST", "/v2/models/none/infer", infer(), 404),
    ("GET", "/v1/models/scale", None, 200),
    ("GET", "/v2/models/scale", None, 200),
    ("GET", "/api/v1/models", None, 200),
    ("GET", "/api/v1/models/none", None, 404),
    ("DELETE", "/v2/models/scale", None, 405),
    ("POST", "/v2/models/kept/infer", infer(7), 200),
    ("POST", "/v2/models/kept/infer", infer(7), 200),
]


def test_answers_and_errors_free_their_place_and_tell_what_is_left(start: Start) -> None:
    here = start(requests_per_second=0.001, burst=100)
    for count, (method, path, document, status) in enumerate(ANSWERED, 1):
        head, body = here.ask(method, path, document)
        assert head.startswith(b"HTTP/1.1 %d" % status), body
        lines = head.lower().split(b"\r\n")
        assert b'ratelimit-policy: "requests";q=100;w=100000' in lines, path
        told = next(line for line in lines if line.startswith(b'ratelimit: "requests";r='))
        assert told.split(b";")[1] == b"r=%d" % (100 - count), "each is counted once"
        wait_until(lambda: here.acme.in_flight == 0)


def test_who_is_refused_is_told_which_limit_and_when(start: Start) -> None:
    here = start(requests_per_second=0.5, burst=1)
    here.ask("GET", "/v2/models/scale")
    for path in ("/v2/models/scale/infer", "/api/v1/models/scale/promotions"):
        head, body = here.ask("POST", path, infer())
        assert head.startswith(b"HTTP/1.1 429")
        told = json.loads(body)
        assert told["code"] == "rate_limited"
        assert told["retryable"] is True
        assert "requests_per_second: tenant 'acme' may ask 0.5 times a second" in told["error"]
        lines = head.lower().split(b"\r\n")
        assert b'ratelimit-policy: "requests";q=1;w=2' in lines
        assert b'ratelimit: "requests";r=0;t=2' in lines
        wait = next(line for line in lines if line.startswith(b"retry-after: "))
        assert 1 <= int(wait.partition(b": ")[2]) <= 3
    assert here.acme.in_flight == 0
    head, _ = here.ask("GET", "/v2/health/ready")
    assert b"ratelimit" not in head.lower()


def test_a_server_that_stops_leaves_no_place_taken(start: Start) -> None:
    here = start()
    acme = here.acme
    made = [here.send(data) for data in abandoned(here).values() for _ in range(5)]
    wait_until(lambda: acme.in_flight == 20)
    for one in made[5:]:
        one.shutdown(socket.SHUT_WR)
        one.close()
    wait_until(lambda: acme.in_flight <= 5)
    for one in made[:5]:
        one.close()
    wait_until(lambda: acme.in_flight == 0)


def test_inside_a_program_whoever_calls_is_the_operator_and_has_no_limits(
    tmp_path: Path, make_repository: Any, onnx_models: Any
) -> None:
    root = make_repository({"busy": onnx_models.busy()}, configs={"busy": BATCHED})
    tenants = Tenants(tmp_path / "data")
    tenants.tenant("acme", limits(in_flight=1))
    headers = [(b"Authorization", f"Bearer {tenants.key('acme')}".encode())]
    server = EmbeddedServer(Settings(models=root, data=tmp_path / "data", tenants=True))
    try:
        server.start()
        acme = acme_of(server._app)
        path, body = "/v2/models/busy/infer", json.dumps(BUSY).encode()
        asked = [server.submit(server.answer("POST", path, headers, [body])) for _ in range(10)]
        for one in asked:
            one.cancel()
        answer = server.submit(server.answer("GET", "/v2/models/busy", headers, [])).result()
        assert answer.status == 200
        assert acme.in_flight == 0
    finally:
        server.close()


# Without a socket


@pytest.fixture(params=[True, False], ids=["lane", "asgi"])
async def caller(
    request: pytest.FixtureRequest, tmp_path: Path, make_repository: Any, onnx_models: Any
) -> AsyncIterator[tuple[EdgeCaller, Mapping[str, str]]]:
    """An application behind the edge, and the headers of a key."""
    root = make_repository({"busy": onnx_models.busy()}, configs={"busy": BATCHED})
    tenants = Tenants(tmp_path / "data")
    tenants.tenant("acme", limits(in_flight=100))
    headers = {"authorization": f"Bearer {tenants.key('acme')}"}
    async with create_app(Settings(models=root, data=tmp_path / "data", tenants=True)) as app:
        yield EdgeCaller(app, lane=request.param), headers


@pytest.mark.parametrize("running", [True, False], ids=["running", "its body comes"])
async def test_what_is_cut_at_the_end_of_a_drain_is_told_so_and_gone(
    running: bool, caller: tuple[EdgeCaller, Mapping[str, str]]
) -> None:
    call, headers = caller
    await call("POST", "/v2/models/busy/infer", steps(1_000), headers)
    acme = acme_of(call.app)
    connection, pipe = call.connect()
    whole = b"".join(wire_form("POST", "/v2/models/busy/infer", steps(5_000), headers))
    pipe.send(whole if running else whole[:-5])
    await until(lambda: acme.in_flight == 1)
    assert connection.cut()
    answer = await whole_answer(pipe)
    assert (answer.status, answer.json()["code"]) == (503, "draining")
    await until(lambda: acme.in_flight == 0)
    pipe.close()


async def test_what_the_lane_passes_on_is_gone_with_its_connection(
    caller: tuple[EdgeCaller, Mapping[str, str]],
) -> None:
    call, headers = caller
    acme = acme_of(call.app)
    whole = b"".join(wire_form("POST", "/v2/models/none/infer", steps(1), headers))
    asked = acme.asked
    assert (await call("POST", "/v2/models/none/infer", steps(1), headers)).status == 404
    assert acme.in_flight == 0
    assert acme.asked == asked + 1
    for _ in range(50):
        _, pipe = call.connect()
        pipe.send(whole)
        pipe._protocol.connection_lost(None)  # the application's task has not begun
    await until(lambda: acme.in_flight == 0)


@pytest.mark.parametrize("leaves", [False, True], ids=["to its end", "left"])
async def test_streams_of_text_are_here_until_they_end(leaves: bool, tmp_path: Path) -> None:
    gate = asyncio.Event()
    steps_of = [*pieces("a", finish=None), gate, *pieces("b")]
    app = scripted_app(tmp_path / "models", ScriptedGenerator(steps_of))
    quotas = Quotas()
    known = KnownKey(Identity("default"), b"", None, None)
    quotas.follow(Directory({"": known}, {"default": limits(in_flight=1)}))
    app._gate._entrance = quotas
    document = {"model": "writer", "messages": [{"role": "user", "content": "x"}], "stream": True}
    async with app:
        call = EdgeCaller(app)
        _, pipe = call.connect()
        pipe.send(b"".join(wire_form("POST", "/v1/chat/completions", document, {})))
        while b"data:" not in pipe.written:
            await pipe.more()
        one = quotas.limited["default"]
        assert one.in_flight == 1
        assert (await call("GET", "/v2/models/writer")).status == 429
        if leaves:
            pipe.close()
        else:
            gate.set()
            await whole_answer(pipe)
        await until(lambda: one.in_flight == 0)
        assert (await call("GET", "/v2/models/writer")).status == 200
        pipe.close()
