"""Streams, on every transport: events as they come, retries before the first, early closing."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from aiaas_client import (
    APIConnectionError,
    APITimeoutError,
    AsyncClient,
    Client,
    ConfigurationError,
    DeadlineExceededError,
    InferenceFailedError,
    Limits,
    ModelNotFoundError,
    NotSupportedError,
    PoolTimeoutError,
    ProtocolError,
    QueueFullError,
    Timeouts,
)
from aiaas_client._api import oip as calls
from aiaas_client._api.call import Call, ServerEvent, StreamCall
from tests.client.conftest import END

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def endless(connection: Any, received: Any) -> bool:
    """One event, and silence until the other side leaves."""
    connection.sendall(HEAD + b"\r\ndata: a\n\n")
    with suppress(OSError):
        while connection.recv(4096):
            pass
    return False


def texts(end: str = "") -> StreamCall[str]:
    """A call that gives the data of each event."""
    return StreamCall(Call("POST", "/s", lambda response: None), lambda event: event.data, end)


def test_events_come_as_they_are_sent(
    flavour: str, call_through: Any, wire: Any, steps: Any
) -> None:
    go_on = threading.Event()
    server = wire(steps.events("a", then=go_on, rest=["b", "c"]))
    with call_through(flavour, server.url) as caller:
        take, _ = caller.stream(texts())
        assert take() == "a"  # the others are not even written
        go_on.set()
        assert [take(), take(), take()] == ["b", "c", END]
        caller.send(calls.server_metadata())
    assert [received.connection for received in server.received] == [1, 1]


def test_a_marker_ends_a_stream(flavour: str, call_through: Any, wire: Any, steps: Any) -> None:
    never = threading.Event()
    server = wire(steps.events("a", "[DONE]", then=never))
    with call_through(flavour, server.url) as caller:
        take, _ = caller.stream(texts("[DONE]"))
        assert [take(), take()] == ["a", END]
    never.set()


def test_a_stream_without_its_marker_has_broken_off(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    with call_through(kind, wire(steps.events("a")).url) as caller:
        take, _ = caller.stream(texts("[DONE]"))
        assert take() == "a"
        with pytest.raises(APIConnectionError, match="before its last event"):
            take()


def test_a_stream_that_is_cut_is_an_error(
    flavour: str, call_through: Any, wire: Any, steps: Any
) -> None:
    server = wire(default=steps.say(CHUNKED + b"9\r\ndata: a\n\n\r\n"))
    with call_through(flavour, server.url) as caller:
        take, _ = caller.stream(texts())
        assert take() == "a"
        with pytest.raises(APIConnectionError):
            take()
    assert len(server.received) == 1  # what has begun is not begun again


def test_nothing_is_sent_before_the_first_step(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    server = wire(steps.events("a"))
    with call_through(kind, server.url) as caller:
        take, close = caller.stream(texts())
        assert server.received == []
        close()
        assert take() is END
    assert server.received == []


def test_leaving_early_closes_the_connection(
    flavour: str, call_through: Any, wire: Any, steps: Any
) -> None:
    server = wire(default=endless)
    with call_through(flavour, server.url, limits=Limits(max_connections=1)) as caller:
        take, close = caller.stream(texts())
        assert take() == "a"
        close()
        server.wait_closed()
        (endpoint,) = caller.client._sender._shared.endpoints._endpoints
        assert endpoint.in_flight == 0
        take, close = caller.stream(texts())  # the place is free again
        assert take() == "a"
        close()


@pytest.mark.parametrize("backend", ["httpx2", "urllib3"])
def test_a_broken_loop_over_a_dropped_stream_closes_it(wire: Any, steps: Any, backend: str) -> None:
    silent = threading.Event()
    server = wire(default=steps.events("a", "b", then=silent))
    with Client(server.url, backend=backend) as client:
        for value in client._sender.stream(texts()):
            assert value == "a"
            break
        gc.collect()
        (endpoint,) = client._sender._shared.endpoints._endpoints
        assert endpoint.in_flight == 0
        with client._sender.stream(texts()) as stream:
            assert next(stream) == "a"
        assert endpoint.in_flight == 0
    silent.set()


@pytest.mark.parametrize("backend", ["httpx2", "aiohttp"])
async def test_a_cancelled_stream_closes_its_connection(
    wire: Any, steps: Any, backend: str
) -> None:
    server = wire(default=endless)
    begun = asyncio.Event()

    async def read(client: AsyncClient) -> None:
        async with client._sender.stream(texts()) as stream:
            async for _ in stream:
                begun.set()

    async with AsyncClient(server.url, backend=backend) as client:
        reading = asyncio.create_task(read(client))
        await begun.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.to_thread(server.wait_closed)
        (endpoint,) = client._sender._shared.endpoints._endpoints
        assert endpoint.in_flight == 0


@pytest.mark.parametrize("backend", ["httpx2", "aiohttp"])
async def test_steps_may_be_taken_in_different_tasks(wire: Any, steps: Any, backend: str) -> None:
    server = wire(steps.events("a", "b", "c"))
    async with AsyncClient(server.url, backend=backend) as client:
        stream = client._sender.stream(texts())
        taken = [await asyncio.create_task(anext(stream)) for _ in range(3)]
        with pytest.raises(StopAsyncIteration):
            await asyncio.create_task(anext(stream))
    assert taken == ["a", "b", "c"]


@pytest.mark.parametrize("backend", ["httpx2", "urllib3"])
def test_an_open_stream_holds_its_place(wire: Any, steps: Any, backend: str) -> None:
    go_on = threading.Event()
    server = wire(steps.events("a", then=go_on))
    limits, timeouts = Limits(max_connections=1), Timeouts(pool=0.05)
    with Client(server.url, limits=limits, timeout=timeouts, backend=backend) as client:
        stream = client._sender.stream(texts())
        assert next(stream) == "a"
        with pytest.raises(PoolTimeoutError):
            client.health()
        go_on.set()
        assert list(stream) == []
        assert client.health()


def test_the_deadline_travels_with_the_stream(
    flavour: str, call_through: Any, wire: Any, steps: Any
) -> None:
    drops = b"".join(b"data: %d\n\n" % number for number in range(400))
    server = wire(default=steps.drip(HEAD + b"\r\n" + drops, 0.005))
    began = time.monotonic()
    with call_through(flavour, server.url, deadline=0.6) as caller:
        take, _ = caller.stream(texts())
        with pytest.raises((DeadlineExceededError, APITimeoutError)):
            while take() is not END:
                pass
    assert time.monotonic() - began < 15  # dripping it all takes 20 s


def test_a_call_in_between_does_not_end_the_deadline_of_a_stream(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    go_on = threading.Event()
    server = wire(steps.events("a", then=go_on, rest=["b"]))
    with call_through(kind, server.url) as caller:
        take, _ = caller.stream(texts())
        assert take() == "a"
        assert caller.send(calls.server_metadata()).name == "wire"
        go_on.set()
        assert [take(), take()] == ["b", END]


def test_silence_between_events_is_a_read_timeout(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    never = threading.Event()
    server = wire(steps.events("a", then=never))
    with call_through(kind, server.url, timeout=0.1) as caller:
        take, _ = caller.stream(texts())
        assert take() == "a"
        with pytest.raises(APITimeoutError, match=r"read took longer than 0\.1 s"):
            take()
    never.set()


def test_retries_end_with_the_first_event(
    flavour: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(
        steps.answer(503, {"error": "busy"}), steps.say(CHUNKED + b"5\r\n"), steps.events("a")
    )
    with call_through(flavour, server.url, retry=fake_clock.policy()) as caller:
        take, _ = caller.stream(texts())
        assert [take(), take()] == ["a", END]
    assert len(server.received) == 3


def test_a_refusal_is_the_error_of_an_ordinary_call(
    flavour: str, call_through: Any, wire: Any, steps: Any
) -> None:
    told = {"error": "unknown model 'm'", "code": "model_not_found"}
    server = wire(default=steps.answer(404, told, X_Request_Id="theirs"))
    with call_through(flavour, server.url) as caller:
        take, _ = caller.stream(calls.generate_stream("m", None, {"x": 1}))
        with pytest.raises(ModelNotFoundError, match="unknown model") as caught:
            take()
    assert (caught.value.request_id, caught.value.model) == ("theirs", "m")
    assert (caught.value.attempts, caught.value.endpoint) == (1, server.url)


def test_a_server_without_the_extension_says_so(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    server = wire(default=steps.answer(404, {"detail": "Not Found"}))
    with call_through(kind, server.url) as caller, pytest.raises(NotSupportedError):
        caller.stream(calls.generate_stream("m", None, {}))[0]()


def test_what_is_no_stream_is_refused(kind: str, call_through: Any, wire: Any, steps: Any) -> None:
    server = wire(default=steps.answer(200, {}, Content_Type="application/json"))
    with (
        call_through(kind, server.url) as caller,
        pytest.raises(ProtocolError, match="expected text/event-stream, got 'application/json'"),
    ):
        caller.stream(texts())[0]()


@pytest.mark.parametrize(
    ("told", "kind_of_error"),
    [
        ('{"error": "queue of m is full", "code": "queue_full"}', QueueFullError),
        ('{"error": "it broke"}', InferenceFailedError),
        ('{"error": {"message": "it broke", "code": "internal"}}', Exception),
        ("[1]", ProtocolError),
        ("nonsense", ProtocolError),
    ],
)
def test_an_event_may_tell_of_an_error(
    kind: str,
    call_through: Any,
    wire: Any,
    steps: Any,
    told: str,
    kind_of_error: type[Exception],
) -> None:
    server = wire(steps.events('{"y": 1}', told))
    with call_through(kind, server.url) as caller:
        take, _ = caller.stream(calls.generate_stream("m", None, {"x": 1}))
        assert take() == {"y": 1}
        with pytest.raises(kind_of_error) as caught:
            take()
    assert type(caught.value).__module__ == "aiaas_client._errors"
    assert len(server.received) == 1


def test_an_event_has_a_limit(kind: str, call_through: Any, wire: Any, steps: Any) -> None:
    server = wire(steps.events("a", "b" * 2000))
    with call_through(kind, server.url, max_answer_bytes=1000) as caller:
        take, _ = caller.stream(texts())
        assert take() == "a"
        with pytest.raises(ProtocolError, match="larger than 1000 bytes"):
            take()


def test_middleware_sees_the_head_and_may_change_the_request(wire: Any, steps: Any) -> None:
    seen = []

    def watch(request: Any, send: Any) -> Any:
        request.headers.append((b"X-Mine", b"1"))
        response = send(request)
        seen.append((response.status, bytes(response.body)))
        return response

    server = wire(steps.events("a"))
    with Client(server.url, middleware=[watch]) as client:
        assert list(client._sender.stream(texts())) == ["a"]
    assert seen == [(200, b"")]
    assert server.received[0].headers["x-mine"] == "1"


def test_a_transport_that_cannot_stream_says_so() -> None:
    class Plain:
        def send(self, request: Any) -> Any: ...

        def close(self) -> None: ...

    with Client(transport=Plain()) as client, pytest.raises(ConfigurationError, match="stream"):
        list(client._sender.stream(texts()))


def test_an_event_keeps_what_the_stream_told(wire: Any, steps: Any) -> None:
    raw = b"id: 7\nevent: x\nretry: 250\ndata: a\ndata: b\n\n"
    server = wire(steps.answer(body=raw, Content_Type="text/event-stream"))
    whole: StreamCall[ServerEvent] = StreamCall(
        Call("GET", "/s", lambda response: None), lambda event: event
    )
    with Client(server.url) as client:
        assert list(client._sender.stream(whole)) == [ServerEvent("a\nb", "x", "7", 0.25)]


# the generate extension, against the real server


@pytest.fixture
def models(onnx_models: Any, make_repository: Any) -> Any:
    pytest.importorskip("onnxruntime", reason="needs the server part")
    return make_repository({"double": onnx_models.scale(2.0)})


@pytest.fixture
def served(models: Any) -> Any:
    from aiaas_server.app import create_app
    from aiaas_server.settings import Settings
    from tests.server.http.serving import serving

    with serving(create_app(Settings(models=models))) as server:
        yield server.url


def test_a_tensor_model_generates_one_event(flavour: str, call_through: Any, served: str) -> None:
    document = {"x": np.ones(4, np.float32), "id": "r1"}
    wanted = {"id": "r1", "model_name": "double", "model_version": "1", "y": [2.0] * 4}
    with call_through(flavour, served) as caller:
        assert caller.send(calls.generate("double", None, document)) == wanted
        take, _ = caller.stream(calls.generate_stream("double", None, document))
        assert [take(), take()] == [wanted, END]


def test_handles_generate(served: str) -> None:
    with Client(served) as client:
        model = client.model("double")
        assert model.generate(x=[1, 2, 3, 4])["y"] == [2, 4, 6, 8]
        with model.generate_stream({"x": [1, 2, 3, 4]}, request_id="r", deadline=9.0) as stream:
            assert [answer["y"] for answer in stream] == [[2, 4, 6, 8]]
        with pytest.raises(ModelNotFoundError):
            list(client.model("missing").generate_stream(x=1))


async def test_handles_generate_on_an_event_loop(served: str) -> None:
    async with AsyncClient(served) as client:
        model = client.model("double")
        assert (await model.generate(x=[1, 2, 3, 4]))["y"] == [2, 4, 6, 8]
        stream = model.generate_stream({"x": [1, 2, 3, 4]})
        assert [answer["y"] async for answer in stream] == [[2, 4, 6, 8]]


def test_local_models_stream_too(models: Any) -> None:
    with Client.local(models) as client:
        model = client.model("double")
        assert model.generate(x=[1, 2, 3, 4])["y"] == [2, 4, 6, 8]
        assert [one["y"] for one in model.generate_stream(x=[1, 2, 3, 4])] == [[2, 4, 6, 8]]
        with pytest.raises(ModelNotFoundError):
            list(client.model("missing").generate_stream(x=1))


async def test_local_models_stream_on_an_event_loop(models: Any) -> None:
    async with AsyncClient.local(models) as client:
        stream = client.model("double").generate_stream(x=[1, 2, 3, 4])
        assert [one["y"] async for one in stream] == [[2, 4, 6, 8]]
        stream = client.model("double").generate_stream(x=[1, 2, 3, 4])
        await stream.aclose()
        with pytest.raises(ModelNotFoundError):
            await anext(client.model("missing").generate_stream(x=1))


@pytest.mark.parametrize("backend", ["httpx2", "aiohttp"])
async def test_a_cancel_storm_leaves_every_place_free(wire: Any, steps: Any, backend: str) -> None:
    """Streams are left at all stages: queued, connecting, waiting, reading."""
    server = wire(default=steps.events("a", "b"))
    limits, patient = Limits(max_connections=4), Timeouts(pool=30.0)
    async with AsyncClient(
        server.url, limits=limits, timeout=patient, breaker=None, backend=backend
    ) as client:

        async def read() -> list[str]:
            async with client._sender.stream(texts()) as stream:
                return [value async for value in stream]

        for turn in range(12):
            tasks = [asyncio.create_task(read()) for _ in range(20)]
            for _ in range(turn):
                await asyncio.sleep(0)
            if turn % 3 == 0:
                await asyncio.sleep(0.002)
            for task in tasks[:: 1 + turn % 3]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert await asyncio.gather(*[read() for _ in range(8)]) == [["a", "b"]] * 8
        (endpoint,) = client._sender._shared.endpoints._endpoints
        assert endpoint.in_flight == 0
