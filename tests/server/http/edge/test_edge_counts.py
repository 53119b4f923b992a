"""What the edge counts: connections by address, and the errors it answers itself."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.edge.limits import LOOPBACK, EdgeLimits

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
PROXY = ip_network("192.0.2.0/28")


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("127.0.0.1", None),
        ("127.1.2.3", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("192.0.2.9", None),
        ("::ffff:192.0.2.9", None),
        ("192.0.2.99", "192.0.2.99"),
        ("::ffff:192.0.2.99", "192.0.2.99"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_is_counted_unless_many_clients_share_it(
    client: str, expected: str | None
) -> None:
    limits = EdgeLimits(shared_addresses=(*LOOPBACK, PROXY))
    assert limits.counted_as(client) == expected


def test_without_a_limit_of_an_address_none_is_counted() -> None:
    assert EdgeLimits(max_connections_per_address=0).counted_as("192.0.2.99") is None


def test_this_machine_has_no_limit_of_an_address(serve_edge: Any) -> None:
    server = serve_edge(max_connections_per_address=2)
    wires = [server.connect() for _ in range(9)]
    assert [wire.send(GET).answer().status for wire in wires] == [200] * 9


def test_a_unix_socket_has_no_limit_of_an_address(serve_edge: Any, tmp_path: Path) -> None:
    server = serve_edge(uds=str(tmp_path / "s"), max_connections_per_address=2, shared_addresses=())
    wires = [server.connect() for _ in range(9)]
    assert [wire.send(GET).answer().status for wire in wires] == [200] * 9


def test_an_address_with_too_many_connections_is_told_to_the_operator_once(
    serve_edge: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve_edge(max_connections_per_address=1, shared_addresses=())
    with caplog.at_level(logging.WARNING, "aiaas_server"):
        first = server.connect().send(GET)
        assert first.answer().status == 200
        for _ in range(3):
            assert server.connect().answer().status == 503
    (line,) = [record.getMessage() for record in caplog.records]
    assert "127.0.0.1 has 1 connections open" in line
    assert "AIAAS_SERVER_PROXIES" in line


async def breaking(scope: Any, receive: Any, send: Any) -> None:
    """Break as the path says."""
    if scope["path"] == "/hold":
        await asyncio.Event().wait()
    if scope["path"] == "/raise":
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("sent", "limits", "expected"),
    [
        pytest.param(GET[:-2], {"header_timeout": 0.05}, "request_timeout", id="late"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", {}, "invalid_request", id="no-host"),
        pytest.param(b"nonsense\r\n\r\n", {}, "invalid_request", id="no-http"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * 20_000), {},
            "headers_too_large", id="headers",
        ),
        pytest.param(b"GET /%b HTTP/1.1\r\n" % (b"x" * 20_000), {}, "uri_too_long", id="line"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n",
            {"max_body_bytes": 10}, "payload_too_large", id="body",
        ),
        pytest.param(b"", {"max_connections": 0}, "too_many_connections", id="connections"),
        pytest.param(GET, {}, "internal", id="no-answer"),
        pytest.param(GET.replace(b"/ ", b"/raise ", 1), {}, "internal", id="raise"),
    ],
)  # fmt: skip
def test_errors_that_the_application_has_not_seen_are_counted(
    serve_edge: Any, sent: bytes, limits: dict[str, Any], expected: str
) -> None:
    counted: list[ErrorCode] = []
    server = serve_edge(breaking, on_refusal=counted.append, **limits)
    answer = server.connect().send(sent).answer()
    assert answer.status >= 400
    assert counted == [ErrorCode(expected)]


def test_what_is_refused_while_the_process_stops_is_counted(serve_edge: Any) -> None:
    counted: list[ErrorCode] = []
    server = serve_edge(on_refusal=counted.append)

    def drain() -> None:
        server.protocol.edge.draining = True

    server.on_loop(drain)
    assert server.ask(GET).status == 503
    assert counted == [ErrorCode.DRAINING]


def test_a_refusal_nobody_is_told_of_is_not_counted(serve_edge: Any) -> None:
    counted: list[ErrorCode] = []
    server = serve_edge(on_refusal=counted.append, header_timeout=0.05)
    wire = server.connect()
    assert wire.rest() == b""
    assert counted == []
