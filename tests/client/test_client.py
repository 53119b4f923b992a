"""Clients: how they are made, what they send, and how they end."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import pickle
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client import (
    AiaasError,
    APIConnectionError,
    APIStatusError,
    AsyncClient,
    AuthenticationError,
    Client,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    ModelNotFoundError,
    RetryPolicy,
    Timeouts,
)
from aiaas_client._api import oip as calls
from tests.waiting import wait_until

KEY = "secret-key-123"
THREADS = pytest.mark.parametrize("backend", ["httpx2", "urllib3"])


def test_the_address_and_the_key_come_from_the_environment(
    wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = wire()
    monkeypatch.setenv("AIAAS_BASE_URL", f" {server.url}/ ")
    monkeypatch.setenv("AIAAS_API_KEY", KEY)
    with Client() as client:
        client.health()
    assert server.received[0].headers["authorization"] == f"Bearer {KEY}"


def test_arguments_come_before_the_environment(wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = wire()
    monkeypatch.setenv("AIAAS_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AIAAS_API_KEY", "other")
    with Client(server.url, api_key="mine") as client:
        client.health()
    assert server.received[0].headers["authorization"] == "Bearer mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({}, "AIAAS_BASE_URL", id="nothing"),
        pytest.param({"base_url": []}, "got nothing", id="an empty list"),
        pytest.param({"base_url": "127.0.0.1:8000"}, "expected http://host", id="no scheme"),
        pytest.param({"base_url": "ftp://host"}, "expected http://host", id="another scheme"),
        pytest.param({"base_url": "http://"}, "expected http://host", id="no host"),
        pytest.param({"base_url": "http://host:port"}, "base_url", id="no port number"),
        pytest.param({"base_url": "http://me:pw@host"}, "no user name", id="credentials"),
        pytest.param({"base_url": "http://host?x=1"}, "no user name, query", id="query"),
        pytest.param(
            {"base_url": "http://models.example", "api_key": KEY}, "unencrypted", id="key in clear"
        ),
        pytest.param({"base_url": "http://h", "api_key": "a\nb"}, "printable", id="key"),
        pytest.param({"base_url": "http://h", "deadline": 0}, "deadline", id="no time"),
        pytest.param({"base_url": "http://h", "backend": "x"}, "'httpx2'", id="backend"),
        pytest.param({"base_url": "http://h", "headers": {"X": "a\r\nY:b"}}, "one line", id="CR"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_cannot_be_a_client_is_refused_with_the_reason(
    kind: Any, arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIAAS_BASE_URL", raising=False)
    monkeypatch.delenv("AIAAS_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=message) as caught:
        kind(**arguments)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_url": "https://models.example", "api_key": KEY},
        {"base_url": "http://localhost:8000", "api_key": KEY},
        {"base_url": "http://[::1]:8000", "api_key": KEY},
        {"base_url": "http://models.example", "api_key": KEY, "allow_insecure_http": True},
        {"base_url": "http://models.example"},
    ],
)
def test_a_key_may_travel_encrypted_or_at_home(arguments: dict[str, Any]) -> None:
    Client(**arguments).close()


def test_the_key_is_never_shown() -> None:
    client = Client("http://127.0.0.1:1", api_key=KEY, retry=RetryPolicy(max_retries=0))
    assert KEY not in repr(client)
    with pytest.raises(APIConnectionError) as caught:
        client.health()
    assert KEY not in repr(caught.value)


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
def test_a_deadline_may_be_as_far_off_as_one_likes(
    kind: str, call_through: Any, wire: Any, seconds: float
) -> None:
    given = {"deadline": seconds, "timeout": seconds}
    with call_through(kind, wire().url, **given) as caller:
        assert caller.send(calls.server_metadata()).name == "wire"


def test_redirects_are_not_followed_so_the_key_stays(
    flavour: str, call_through: Any, wire: Any, steps: Any
) -> None:
    other = wire()
    server = wire(default=steps.answer(307, b"", Location=f"{other.url}/v2"))
    with (
        call_through(flavour, server.url, api_key=KEY) as caller,
        pytest.raises(APIStatusError, match="not followed"),
    ):
        caller.send(calls.server_metadata())
    assert other.received == []


def test_proxy_variables_are_ignored(
    kind: str, call_through: Any, wire: Any, monkeypatch: pytest.MonkeyPatch, dead_url: str
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, dead_url)
    with call_through(kind, wire().url) as caller:
        assert caller.send(calls.server_metadata()).name == "wire"


def test_a_request_says_who_asks_and_wants_no_compression(
    flavour: str, call_through: Any, wire: Any
) -> None:
    server = wire()
    with call_through(flavour, server.url, headers={"X-Team": "blue"}) as caller:
        caller.send(calls.server_metadata())
    headers = server.received[0].headers
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("aiaas-client/")
    assert headers["x-team"] == "blue"
    assert len(headers["x-request-id"]) == 24
    assert headers["host"] == server.url.removeprefix("http://")


def test_a_base_url_may_have_a_path(flavour: str, call_through: Any, wire: Any) -> None:
    server = wire()
    with call_through(flavour, f"{server.url}/models/east/") as caller:
        caller.send(calls.server_metadata())
    assert server.received[0].target == "/models/east/v2"


def test_options_change_a_copy_on_the_same_connections(wire: Any) -> None:
    server = wire()
    with Client(server.url, headers={"X-A": "1"}) as client:
        other = client.with_options(deadline=5.0, timeout=2.0, headers={"x-a": "2", "X-B": "3"})
        client.metadata()
        other.metadata()
    first, second = (received.headers for received in server.received)
    assert (first["x-a"], "x-b" in first) == ("1", False)
    assert (second["x-a"], second["x-b"]) == ("2", "3")
    assert int(second["x-request-timeout-ms"]) <= 5_000 < int(first["x-request-timeout-ms"])
    assert {received.connection for received in server.received} == {1}


def test_retries_can_be_turned_off_for_one_call(wire: Any, steps: Any) -> None:
    server = wire(default=steps.answer(503, {"error": "busy"}))
    with Client(server.url) as client, pytest.raises(APIStatusError):
        client.with_options(max_retries=0).metadata()
    assert len(server.received) == 1


@pytest.mark.parametrize("again", [False, True])
def test_closing_is_final_for_all_that_share(wire: Any, again: bool) -> None:
    client = Client(wire().url)
    other = client.with_options(deadline=1.0)
    client.health()
    (client if again else other).close()
    client.close()
    for one in (client, other):
        assert one.is_closed
        assert "closed" in repr(one)
        with pytest.raises(ClientClosedError, match="was closed"):
            one.health()


async def test_closing_an_async_client_is_final(wire: Any) -> None:
    server = wire()
    async with AsyncClient(server.url) as client:
        await client.health()
    await client.close()
    with pytest.raises(ClientClosedError):
        await client.health()
    await asyncio.to_thread(server.wait_closed)


@THREADS
def test_closing_closes_the_connections(wire: Any, backend: str) -> None:
    server = wire()
    with Client(server.url, backend=backend) as client:
        client.health()
    server.wait_closed()


@THREADS
def test_closing_ends_a_call_that_waits_in_another_thread(
    wire: Any, steps: Any, backend: str
) -> None:
    server = wire(default=steps.fall_silent)
    client = Client(server.url, backend=backend, deadline=300)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            client.health()
        except AiaasError as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    wait_until(lambda: bool(server.received))
    client.close()
    thread.join(30)
    assert [type(error) for error in raised] == [ClientClosedError]


@THREADS
def test_many_threads_share_one_client(wire: Any, backend: str) -> None:
    server = wire()
    names: list[str] = []
    with Client(server.url, backend=backend) as client:

        def work() -> None:
            names.extend(client.metadata().name for _ in range(20))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert names == ["wire"] * 160
    assert server.connections <= 8


@pytest.mark.parametrize("backend", ["httpx2", "aiohttp"])
@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
@pytest.mark.filterwarnings("ignore:unclosed resource:ResourceWarning")  # uvloop says so itself
def test_a_second_event_loop_gets_connections_of_its_own(
    wire: Any, backend: str, loops: str
) -> None:
    new_loop = pytest.importorskip(loops, reason=f"needs {loops}").new_event_loop
    server = wire()
    client = AsyncClient(server.url, backend=backend)

    async def twice() -> list[str]:
        return [(await client.metadata()).name for _ in range(2)]

    for work in (twice, twice, client.close):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(work())
    assert [received.connection for received in server.received] == [1, 1, 2, 2]
    server.wait_closed()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@THREADS
def test_a_forked_child_gets_connections_of_its_own(wire: Any, backend: str) -> None:
    server = wire()
    client = Client(server.url, backend=backend)
    client.health()
    held = client._sender._shared.endpoints._lock.acquire()  # as if another thread were inside
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if client.metadata().name == "wire" else 2
        finally:
            os._exit(status)
    client._sender._shared.endpoints._lock.release()
    _, code = os.waitpid(child, 0)
    assert held
    assert code == 0
    client.health()
    assert [received.connection for received in server.received] == [1, 2, 1]
    client.close()


def test_health_and_readiness_are_answers_not_errors(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    server = wire(default=steps.answer(503, {"error": "draining", "code": "draining"}))
    with call_through(kind, server.url) as caller:
        assert caller.send(calls.health()) is False
        assert caller.send(calls.ready()) is False
        assert caller.send(calls.ready("m")) is False
    assert [received.target for received in server.received] == [
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/m/ready",
    ]


def test_waiting_ends_when_the_server_is_ready(wire: Any, steps: Any, fake_clock: Any) -> None:
    server = wire(steps.answer(503, {"error": "loading"}), steps.answer(400, b""), steps.answer())
    with Client(server.url, retry=fake_clock.policy()) as client:
        client.wait_ready(30)
    assert len(server.received) == 3
    assert fake_clock.slept == [0.05, 0.1]


def test_waiting_in_vain_says_why(dead_url: str, fake_clock: Any) -> None:
    with (
        Client(dead_url, retry=fake_clock.policy(), breaker=None) as client,
        pytest.raises(DeadlineExceededError, match="model 'm' was not ready within 3 s") as caught,
    ):
        client.wait_ready(3, model="m")
    assert isinstance(caught.value.__cause__, APIConnectionError)


async def test_an_async_client_waits_too(wire: Any, steps: Any, fake_clock: Any) -> None:
    server = wire(steps.answer(503, {"error": "loading"}))
    async with AsyncClient(server.url, retry=fake_clock.policy()) as client:
        await client.wait_ready(30)
    assert len(server.received) == 2


def test_waiting_with_a_wrong_key_ends_at_once(wire: Any, steps: Any, fake_clock: Any) -> None:
    server = wire(default=steps.answer(401, {"error": "no", "code": "unauthorized"}))
    with (
        Client(server.url, retry=fake_clock.policy()) as client,
        pytest.raises(AuthenticationError),
    ):
        client.wait_ready(30)


def test_an_error_tells_about_its_call(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    told = {"error": "queue of 'm' is full", "code": "queue_full", "retryable": True}
    server = wire(default=steps.answer(503, told, X_Request_Id="from-server"))
    with (
        call_through(kind, server.url, retry=fake_clock.policy()) as caller,
        pytest.raises(APIStatusError) as caught,
    ):
        caller.send(calls.config("m"))
    error = caught.value
    assert type(error).__name__ == "QueueFullError"
    assert (error.model, error.attempts, error.code) == ("m", 3, "queue_full")
    assert error.request_id == "from-server"
    assert error.endpoint == server.url
    assert error.elapsed >= sum(fake_clock.slept)
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


def test_a_trust_store_is_loaded_once_and_only_when_needed() -> None:
    from aiaas_client._transport import pools

    pools.ssl_context.cache_clear()
    clients = [Client("https://models.example") for _ in range(3)]
    assert pools.ssl_context.cache_info().currsize == 0
    assert len({id(client._sender._trust()()) for client in clients}) == 1
    own = ssl.create_default_context()
    assert Client("https://models.example", verify=own)._sender._trust()() is own


def test_timeouts_are_clipped_to_what_is_left() -> None:
    clipped = Timeouts(connect=5, read=None, write=1, pool=5).clipped(2.0)
    assert clipped == Timeouts(connect=2.0, read=2.0, write=1, pool=2.0)
    assert Timeouts().clipped(60.0) == Timeouts()
    assert Timeouts(read=None).longest() == math.inf  # so that what is left always bounds it
    assert Timeouts().longest() == 30.0


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context and the CA that vouches for it."""
    trustme = pytest.importorskip("trustme", reason="needs trustme")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return context, tmp_path / "ca.pem"


def test_tls_is_verified(
    kind: str, call_through: Any, wire: Any, certificate: tuple[ssl.SSLContext, Path]
) -> None:
    context, authority = certificate
    server = wire()
    server.speak_tls(context)
    once = RetryPolicy(max_retries=0)
    with (
        call_through(kind, server.url, retry=once) as caller,
        pytest.raises(APIConnectionError, match="certificate"),
    ):
        caller.send(calls.server_metadata())
    for trust in (str(authority), False):
        with call_through(kind, server.url, retry=once, verify=trust) as caller:
            assert caller.send(calls.server_metadata()).name == "wire"


def test_local_models_need_the_server_part() -> None:
    code = (
        "import sys\n"
        "sys.modules['aiaas_server'] = None\n"
        "from aiaas_client import Client\n"
        "try:\n    Client.local('.')\n"
        "except Exception as error:\n    print(error)\n"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "aiaas-client[server]"' in done.stdout


def test_local_models_answer_as_a_server_would(make_repository: Any, onnx_models: Any) -> None:
    pytest.importorskip("onnxruntime", reason="needs the server part")
    path = make_repository({"m": onnx_models.identity()})
    x = np.ones((2, 3), np.float32)
    with Client.local(path) as client:
        assert client.ready()
        assert client.metadata().name == "aiaas"
        assert [entry.name for entry in client.models.list()] == ["m"]
        assert (client.model("m").infer(x=x)["y"] == x).all()
        with pytest.raises(ModelNotFoundError):
            client.models.get("missing")


async def test_local_models_answer_an_event_loop_too(
    make_repository: Any, onnx_models: Any
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the server part")
    path = make_repository({"m": onnx_models.identity()})
    x = np.ones((2, 3), np.float32)
    async with AsyncClient.local(path) as client:
        assert ((await client.model("m").infer(x=x))["y"] == x).all()


def test_a_local_call_with_more_than_tensors_is_encoded_after_all(
    make_repository: Any, onnx_models: Any
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the server part")
    with Client.local(make_repository({"m": onnx_models.scale(2.0)})) as client:
        ranked = client.model("m").infer(x=[[1, 9, 3, 4]], classification=2)
        assert [text.split(b":")[1] for text in ranked["y"][0]] == [b"1", b"3"]
        named = client.model("m").infer(x=[[1, 2, 3, 4]], request_id="mine", parameters={"a": 1})
        assert named.request_id == "mine"
        assert named["y"].tolist() == [[2, 4, 6, 8]]


@pytest.mark.parametrize("backend", ["httpx2", "aiohttp"])
async def test_a_client_that_nobody_holds_lets_go_of_its_connections(
    wire: Any, backend: str
) -> None:
    server = wire()

    async def ask() -> None:
        assert (await AsyncClient(server.url, backend=backend).metadata()).name == "wire"

    await ask()
    await asyncio.to_thread(server.wait_closed)


@pytest.mark.parametrize("backend", ["httpx2", "aiohttp"])
def test_so_does_one_whose_loop_is_gone(wire: Any, backend: str) -> None:
    server = wire()
    client = AsyncClient(server.url, backend=backend)
    with asyncio.Runner() as runner:
        runner.run(client.metadata())
    del client
    server.wait_closed()


@pytest.mark.parametrize("backend", ["httpx2", "aiohttp"])
async def test_a_handle_holds_the_connections_of_its_client(wire: Any, backend: str) -> None:
    server = wire()
    other = AsyncClient(server.url, backend=backend).with_options(deadline=5.0)
    for _ in range(2):
        assert (await other.metadata()).name == "wire"
        gc.collect()
    assert server.connections == 1
    await other.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_local_client_made_before_a_fork_says_so(
    make_repository: Any, onnx_models: Any, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the server part")
    told = tmp_path / "told"
    with Client.local(make_repository({"m": onnx_models.identity()})) as client:
        model = client.model("m")
        x = np.ones((1, 2), np.float32)
        model.infer(x=x)
        child = os.fork()
        if child == 0:
            try:
                model.infer(x=x)
            except Exception as error:
                told.write_text(f"{type(error).__name__}: {error}")
            try:
                client.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert (model.infer(x=x)["y"] == x).all()
    expected = "made before a fork: make a Client.local in each process"
    assert told.read_text().startswith("ConfigurationError: ")
    assert told.read_text().endswith(expected)


def test_waiting_in_vain_tells_what_was_heard_last(wire: Any, steps: Any, fake_clock: Any) -> None:
    server = wire(default=steps.answer(502, {"error": "no upstream"}))
    with (
        Client(server.url, retry=fake_clock.policy()) as client,
        pytest.raises(DeadlineExceededError, match=r"not ready within 40 s; last: no upstream"),
    ):
        client.wait_ready(40)


def test_waiting_for_an_only_server_is_not_cut_short_by_a_circuit(
    dead_url: str, fake_clock: Any
) -> None:
    with (
        Client(dead_url, retry=fake_clock.policy()) as client,
        pytest.raises(DeadlineExceededError, match="last: cannot connect") as caught,
    ):
        client.wait_ready(60)
    assert isinstance(caught.value.__cause__, APIConnectionError)
