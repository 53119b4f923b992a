"""What is particular to `backend="urllib3"`: its own reading of heads, and what it keeps."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from aiaas_client import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    Client,
    ConfigurationError,
    Limits,
    PayloadTooLargeError,
    ProtocolError,
    RetryPolicy,
    Timeouts,
)
from aiaas_client._api import oip as calls
from aiaas_client._api.call import Call, Response, ServerEvent, StreamCall

ONCE = RetryPolicy(max_retries=0)
OK = b"HTTP/1.1 200 OK\r\n"


def whole(path: str = "/echo", content: list[bytes | memoryview] | None = None) -> Call[Response]:
    """A call that gives the whole answer."""
    length = sum(map(len, content or []))
    return Call("POST", path, lambda answer: answer, content=content, content_length=length)


def texts() -> StreamCall[str]:
    """A call that gives the data of each event."""

    def read(event: ServerEvent) -> str:
        return event.data

    return StreamCall(Call("POST", "/s", lambda response: None), read)


@pytest.fixture
def ask(wire: Any, steps: Any) -> Iterator[Any]:
    """Give the answer to one call, for a server that says just these bytes."""
    clients: list[Client] = []

    def answer(data: bytes, call: Call[Response] | None = None) -> Response:
        url = wire(default=steps.say(data)).url
        clients.append(Client(url, retry=ONCE, backend="urllib3"))
        answered: Response = clients[-1]._sender.send(call or whole())
        return answered

    yield answer
    for one in clients:
        one.close()


@pytest.mark.parametrize(
    ("data", "body"),
    [
        pytest.param(OK + b"Content-Length: 2\r\n\r\nab", b"ab", id="length"),
        pytest.param(OK + b"content-length:2  \r\n\r\nab", b"ab", id="no space, and more of it"),
        pytest.param(OK + b"\r\nab", b"ab", id="until the end"),
        pytest.param(b"HTTP/1.0 200\r\n\r\nab", b"ab", id="HTTP/1.0, no reason"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nab", b"ab", id="line feeds alone"),
        pytest.param(
            OK + b"Transfer-Encoding: Chunked\r\n\r\n1;x=y\r\na\r\n1\r\nb\r\n0\r\nX: y\r\n\r\n",
            b"ab",
            id="chunks, an extension, a trailer",
        ),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
            + OK
            + b"Content-Length: 2\r\n\r\nab",
            b"ab",
            id="after interim answers",
        ),
    ],
)
def test_a_body_ends_where_the_answer_says(ask: Any, data: bytes, body: bytes) -> None:
    assert bytes(ask(data).body) == body


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b"HTTP/2 200 OK\r\n\r\n", ProtocolError, id="another version"),
        pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", ProtocolError, id="no status"),
        pytest.param(b"HTTP/1.1 +20 OK\r\n\r\n", ProtocolError, id="a signed status"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x50", ProtocolError, id="TLS"),
        pytest.param(OK + b"no colon\r\n\r\n", ProtocolError, id="no header"),
        pytest.param(OK + b"A : b\r\n\r\n", ProtocolError, id="a space before the colon"),
        pytest.param(OK + b": b\r\n\r\n", ProtocolError, id="no name"),
        pytest.param(OK + b" a: b\r\n\r\n", ProtocolError, id="goes on from nothing"),
        pytest.param(OK + b"Content-Length: -1\r\n\r\n", ProtocolError, id="a negative length"),
        pytest.param(OK + b"Content-Length: 1, 2\r\n\r\na", ProtocolError, id="two lengths"),
        pytest.param(
            OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na", ProtocolError, id="one each"
        ),
        pytest.param(OK + b"Transfer-Encoding: gzip\r\n\r\n", ProtocolError, id="not chunked"),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n-2\r\nab\r\n0\r\n\r\n",
            ProtocolError,
            id="a negative chunk",
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", ProtocolError, id="no chunk"
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n",
            ProtocolError,
            id="a size as Python writes it",
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabXX2\r\ncd\r\n0\r\n\r\n",
            ProtocolError,
            id="a chunk without an end",
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 5000,
            ProtocolError,
            id="a long extension",
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab",
            APIConnectionError,
            id="half the chunks",
        ),
        pytest.param(OK + b"A: " + b"b" * 70_000, ProtocolError, id="a long header"),
        pytest.param(OK + b"A: b\r\n" * 20_000, ProtocolError, id="very many headers"),
        pytest.param(b"HTTP/1.1 200 O", APIConnectionError, id="half a line"),
        pytest.param(OK + b"A: b\r\n", APIConnectionError, id="half a head"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", APIConnectionError, id="interim alone"),
    ],
)
def test_what_is_no_answer_gives_no_value(ask: Any, data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        ask(data)


def test_a_header_of_several_lines_is_one(ask: Any) -> None:
    answer = ask(OK + b"X-A: one\r\n\t two\r\nX-B: 1\r\nx-b: 2\r\nContent-Length: 0\r\n\r\n")
    assert dict(answer.headers) == {"x-a": "one two", "x-b": "1, 2", "content-length": "0"}


def test_a_switch_of_protocols_that_nobody_wanted_is_a_status(ask: Any) -> None:
    with pytest.raises(APIStatusError, match="101"):
        ask(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")


@pytest.mark.parametrize(
    "header",
    [
        (b"X-A", b"a\r\nX-Forged: 1"),
        (b"X-A", b"a\n"),
        (b"X-A", b"\0"),
        (b"X A", b"a"),
        (b"", b"a"),
        (b"host", b"forged.example"),
        (b"content-Length", b"1"),
        (b"Transfer-Encoding", b"chunked"),
    ],
)
def test_middleware_cannot_forge_a_request(wire: Any, header: tuple[bytes, bytes]) -> None:
    def forge(request: Any, send: Any) -> Response:
        request.headers.append(header)
        answer: Response = send(request)
        return answer

    server = wire()
    with (
        Client(server.url, middleware=[forge], retry=ONCE, backend="urllib3") as client,
        pytest.raises(ConfigurationError, match="cannot be sent") as caught,
    ):
        client.health()
    assert "Forged" not in str(caught.value)
    assert server.received == []


def test_what_stands_behind_an_answer_is_not_the_next_one(wire: Any, steps: Any) -> None:
    good = OK + b"Content-Length: 1\r\n\r\n"
    server = wire(steps.say(good + b"a" + good + b"b", keep=True), steps.answer(body=b"c"))
    with Client(server.url, backend="urllib3") as client:
        assert [bytes(client._sender.send(whole()).body) for _ in range(2)] == [b"a", b"c"]
    assert [received.connection for received in server.received] == [1, 2]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\n", id="said"),
        pytest.param(b"HTTP/1.0 200 OK\r\n", id="HTTP/1.0"),
    ],
)
def test_a_connection_that_ends_is_not_used_again(wire: Any, steps: Any, head: bytes) -> None:
    server = wire(default=steps.say(head + b"Content-Length: 0\r\n\r\n", keep=True))
    with Client(server.url, backend="urllib3") as client:
        for _ in range(2):
            client._sender.send(whole())
    assert [received.connection for received in server.received] == [1, 2]


def test_http_1_0_may_keep_its_connection(wire: Any, steps: Any) -> None:
    head = b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n"
    server = wire(default=steps.say(head, keep=True))
    with Client(server.url, backend="urllib3") as client:
        for _ in range(2):
            client._sender.send(whole())
    assert {received.connection for received in server.received} == {1}


def test_an_idle_connection_expires(wire: Any) -> None:
    server = wire()
    with Client(server.url, limits=Limits(keepalive_expiry=-1.0), backend="urllib3") as client:
        for _ in range(2):
            client.health()
    assert [received.connection for received in server.received] == [1, 2]
    server.wait_closed()


def test_limits_hold_for_all_endpoints_together(wire: Any) -> None:
    servers = [wire(), wire(), wire()]
    limits = Limits(max_connections=2, max_keepalive_connections=2)
    urls = [server.url for server in servers]
    with Client(urls, limits=limits, backend="urllib3") as client:
        for _ in range(3):
            client.health()
        servers[0].wait_closed()  # it had rested longest when the third was opened
        transport = client._sender._shared.transport
        kept = [len(transport._endpoints[url].idle) for url in urls]
    assert kept == [0, 1, 1]


def test_no_idle_connection_is_kept_where_none_may_be(wire: Any) -> None:
    server = wire()
    with Client(server.url, limits=Limits(max_keepalive_connections=0), backend="urllib3") as one:
        one.health()
        server.wait_closed()


def test_closing_ends_a_stream_that_is_open(wire: Any, steps: Any) -> None:
    never = threading.Event()
    server = wire(steps.events("a", then=never))
    client = Client(server.url, backend="urllib3")
    stream = client._sender.stream(texts())
    assert next(stream) == "a"
    client.close()
    with pytest.raises(APIConnectionError):
        next(stream)
    never.set()
    server.wait_closed()


def test_a_client_that_nobody_holds_closes_its_connections(wire: Any) -> None:
    server = wire()
    assert Client(server.url, backend="urllib3").health()
    server.wait_closed()


def test_an_answer_is_heard_although_the_server_stopped_reading(wire: Any) -> None:
    server = wire()

    def refuse(connection: Any, number: int) -> None:
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        with suppress(OSError), connection:
            read = 1
            while read:  # so that no reset overtakes the answer
                read = len(connection.recv(1 << 20))

    server._serve = refuse
    with (
        Client(server.url, retry=ONCE, backend="urllib3") as client,
        pytest.raises(PayloadTooLargeError),
    ):
        client._sender.send(whole(content=[bytes(8 << 20)]))


def test_a_server_that_takes_nothing_is_a_write_timeout(wire: Any) -> None:
    server, over = wire(), threading.Event()

    def refuse(connection: Any, number: int) -> None:
        over.wait(10)
        connection.close()

    server._serve = refuse
    timeouts = Timeouts(write=0.05)
    with (
        Client(server.url, retry=ONCE, timeout=timeouts, backend="urllib3") as client,
        pytest.raises(APITimeoutError, match="write took longer") as caught,
    ):
        client._sender.send(whole(content=[bytes(64 << 20)]))
    over.set()
    assert caught.value.phase == "write"


def test_a_handshake_that_takes_too_long_is_a_connect_timeout(wire: Any) -> None:
    server, over = wire(), threading.Event()

    def say_nothing(connection: Any, number: int) -> None:
        over.wait(10)
        connection.close()

    server._serve = say_nothing
    url = server.url.replace("http:", "https:")
    timeouts = Timeouts(connect=0.05)
    with (
        Client(url, retry=ONCE, timeout=timeouts, verify=False, backend="urllib3") as client,
        pytest.raises(APITimeoutError, match="connect took longer") as caught,
    ):
        client.health()
    over.set()
    assert caught.value.phase == "connect"


@pytest.fixture
def tls(wire: Any) -> tuple[Any, Any]:
    """A TLS server whose certificate names another host, and the authority behind it."""
    trustme = pytest.importorskip("trustme", reason="needs trustme")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    server = wire()
    server.speak_tls(context)
    return server, authority


def test_a_context_of_the_callers_is_used_as_it_is(tls: tuple[Any, Any]) -> None:
    server, authority = tls
    for compares in (True, False):
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.check_hostname = compares
        with Client(server.url, retry=ONCE, verify=context, backend="urllib3") as client:
            if compares:
                with pytest.raises(APIConnectionError, match="not valid for"):
                    client.metadata()
            else:
                assert [client.metadata().name for _ in range(2)] == ["wire"] * 2
        assert context.check_hostname is compares
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert len({received.connection for received in server.received}) == 1


def test_nothing_is_logged_or_warned_of(
    wire: Any, steps: Any, tls: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Warnings are errors here; what a server does wrong is told by an error, not by a log."""
    caplog.set_level(logging.INFO, "urllib3")
    server = wire(
        steps.answer(503, b"", Retry_After="0"),
        steps.answer(307, b"", Location="/elsewhere"),
        steps.say(OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        steps.hang_up,
    )
    with Client(server.url, retry=ONCE, backend="urllib3") as client:
        for error in (APIStatusError, APIStatusError, APIConnectionError, APIConnectionError):
            with pytest.raises(error):
                client._sender.send(whole())
    with Client(tls[0].url, verify=False, backend="urllib3") as client:
        assert client.metadata().name == "wire"
    assert len(server.received) == 4
    assert caplog.records == []


def test_the_host_of_an_address_is_written_as_it_is_in_a_url(wire: Any) -> None:
    server = wire()
    host, port = "[::1]", server.url.rpartition(":")[2]
    with socket.socket(socket.AF_INET6) as listener:
        try:
            listener.bind(("::1", int(port)))
        except OSError:
            pytest.skip("this system does not have ::1 there")
        listener.listen(1)
        told: list[bytes] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                told.append(connection.recv(4096))
                connection.sendall(OK + b"Content-Length: 0\r\n\r\n")

        answering = threading.Thread(target=serve)
        answering.start()
        with Client(f"http://{host}:{port}", backend="urllib3") as client:
            client._sender.send(whole())
        answering.join()
    assert f"\r\nHost: {host}:{port}\r\n".encode() in told[0]


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(ConfigurationError, match=r'pip install "aiaas-client\[urllib3\]"'):
        Client("http://127.0.0.1:1", backend="urllib3")


def test_the_library_of_the_other_client_is_refused() -> None:
    from aiaas_client import AsyncClient

    with pytest.raises(ConfigurationError, match="expected 'httpx2' or 'urllib3', got 'aiohttp'"):
        Client("http://127.0.0.1:1", backend="aiohttp")
    with pytest.raises(ConfigurationError, match="expected 'httpx2' or 'aiohttp', got 'urllib3'"):
        AsyncClient("http://127.0.0.1:1", backend="urllib3")


def test_a_request_that_dies_on_a_kept_connection_is_sent_again(wire: Any, steps: Any) -> None:
    server = wire(steps.answer(), steps.hang_up, steps.answer())
    with Client(server.url, retry=ONCE, backend="urllib3") as client:
        for _ in range(2):
            assert client._sender.send(calls.server_metadata()).name == "wire"
    assert [received.connection for received in server.received] == [1, 1, 2]
