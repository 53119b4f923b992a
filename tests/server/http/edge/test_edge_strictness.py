"""Requests that two readers could understand differently are refused, on raw sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest

HOST = b"Host: a\r\n"
GET = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST

MALFORMED = {
    "content-length-and-transfer-encoding": POST
    + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding-and-content-length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    "two-content-lengths": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "content-length-list": POST + b"Content-Length: 1, 1\r\n\r\na",
    "content-length-sign": POST + b"Content-Length: +1\r\n\r\na",
    "content-length-hex": POST + b"Content-Length: 0x1\r\n\r\na",
    "content-length-empty": POST + b"Content-Length:\r\n\r\na",
    "content-length-overflow": POST + b"Content-Length: 99999999999999999999999\r\n\r\na",
    "two-hosts": GET + HOST + HOST + b"\r\n",
    "two-different-hosts": GET + HOST + b"hOST: b\r\n\r\n",
    "no-host": GET + b"\r\n",
    "coding-gzip": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "coding-gzip-chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding-identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "coding-lookalike": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding-vertical-tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "two-codings": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding-in-1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare-lf-everywhere": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare-lf-after-request-line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare-lf-after-header": GET + b"Host: a\nX: b\r\n\r\n",
    "bare-lf-at-the-end": GET + b"Host: a\r\n\n",
    "bare-lf-before": b"\n" + GET + HOST + b"\r\n",
    "bare-cr": GET + b"Host: a\rX: b\r\n\r\n",
    "nul-in-value": GET + HOST + b"X: a\0b\r\n\r\n",
    "control-in-value": GET + HOST + b"X: a\x01b\r\n\r\n",
    "delete-in-value": GET + HOST + b"X: a\x7fb\r\n\r\n",
    "control-in-name": GET + HOST + b"X\x01: a\r\n\r\n",
    "space-before-colon": GET + b"Host : a\r\n\r\n",
    "empty-name": GET + HOST + b": a\r\n\r\n",
    "no-colon": GET + HOST + b"foo\r\n\r\n",
    "folded-with-space": GET + HOST + b"X: a\r\n b\r\n\r\n",
    "folded-with-tab": GET + HOST + b"X: a\r\n\tb\r\n\r\n",
    "folded-first-line": GET + b" Host: a\r\n\r\n",
    "http-0.9": b"GET /\r\n\r\n",
    "http-0.9-named": b"GET / HTTP/0.9\r\n\r\n",
    "http-2.0": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "http-2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http-1.10": b"GET / HTTP/1.10\r\n" + HOST + b"\r\n",
    "space-before-method": b" GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    "tab-behind-method": b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "tab-behind-path": b"GET /\tHTTP/1.1\r\n" + HOST + b"\r\n",
    "space-behind-version": b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n",
    "two-paths": b"GET / /a HTTP/1.1\r\n" + HOST + b"\r\n",
    "lower-case-method": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "unknown-method": b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n",
    "icecast": b"SOURCE / HTTP/1.1\r\n" + HOST + b"\r\n",
    "rtsp": b"DESCRIBE / RTSP/1.0\r\n\r\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n",
    "tls-to-a-plain-port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "chunk-size-with-sign": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nA\r\n0\r\n\r\n",
    "chunk-size-with-0x": POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\nA\r\n0\r\n\r\n",
    "chunk-size-with-space": POST + b"Transfer-Encoding: chunked\r\n\r\n1 \r\nA\r\n0\r\n\r\n",
    "chunk-size-overflow": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\nA",
    "chunk-ended-by-lf": POST + b"Transfer-Encoding: chunked\r\n\r\n1\nA\r\n0\r\n\r\n",
    "chunk-data-ended-by-lf": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nA\n0\r\n\r\n",
    "chunk-extension-with-lf": POST + b"Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nA\r\n0\r\n\r\n",
    "trailer": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: x\r\n\r\n",
}

PATHS = {
    "absolute-url": b"http://a/v2",
    "star": b"*",
    "no-slash": b"v2",
    "backslash": b"/a\\b",
    "nul": b"/a\0b",
    "control": b"/a\x01b",
    "tab": b"/a\tb",
    "high-byte": b"/a\xffb",
    "encoded-nul": b"/a%00b",
    "encoded-slash": b"/a%2fb",
    "encoded-slash-capital": b"/a%2Fb",
    "encoded-backslash": b"/a%5cb",
    "encoded-backslash-capital": b"/a%5Cb",
    "dot": b"/./a",
    "dot-dot": b"/a/../b",
    "dot-dot-last": b"/a/..",
    "encoded-dot-dot": b"/a/%2e%2E/b",
    "half-encoded-dot-dot": b"/.%2e",
    "fragment": b"/a#b",
    "broken-escape": b"/a%zz",
    "cut-escape": b"/a%2",
}


HOSTS = {
    "empty": b"",
    "blank": b" ",
    "10-kilobytes": b"a" * 10_000,
    "256-characters": b"a" * 256 + b":80",
    "space": b"a b",
    "tab": b"a\tb",
    "space-before-port": b"a :80",
    "user": b"me@a",
    "user-and-password": b"me:secret@a:80",
    "list": b"a, b",
    "list-without-space": b"a,b",
    "url": b"http://a",
    "path": b"a/b",
    "query": b"a?b",
    "fragment": b"a#b",
    "backslash": b"a\\b",
    "quote": b'a"b',
    "markup": b"<a>",
    "latin-1": b"\xe4",
    "utf-8": "ä".encode(),
    "broken-escape": b"a%2",
    "port-without-name": b":80",
    "port-name": b"a:http",
    "port-sign": b"a:-1",
    "port-too-large": b"a:65536",
    "port-too-long": b"a:000080",
    "two-ports": b"a:80:80",
    "bare-ipv6": b"::1",
    "open-bracket": b"[::1",
    "closed-bracket": b"::1]",
    "name-in-brackets": b"[a.b]",
    "no-ipv6": b"[1:2:3]",
    "ipv4-in-brackets": b"[127.0.0.1]",
    "behind-bracket": b"[::1]a",
}


@pytest.fixture(params=["asgi", "lane"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Both ways that a request is answered."""
    return request.param


def assert_refused(answer: Any, status: int, code: str) -> None:
    """An error in the server's own form that ends the connection."""
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    document = json.loads(answer.body)
    assert document["code"] == code
    assert document["error"]
    assert document["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED.keys())
def test_an_ambiguous_request_is_refused_and_the_connection_ends(
    serve_edge: Any, request_bytes: bytes
) -> None:
    wire = serve_edge().connect().send(request_bytes)
    assert_refused(wire.answer(), 400, "invalid_request")
    wire.sock.shutdown(1)
    assert wire.rest() == b""


@pytest.mark.parametrize("target", PATHS.values(), ids=PATHS.keys())
def test_a_path_that_could_be_read_as_another_is_refused(serve_edge: Any, target: bytes) -> None:
    answer = serve_edge().ask(b"GET %b HTTP/1.1\r\n%b\r\n" % (target, HOST))
    assert_refused(answer, 400, "invalid_request")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS.keys())
def test_a_host_that_is_no_name_and_no_address_is_refused(
    serve_edge: Any, host: bytes, version: bytes
) -> None:
    answer = serve_edge().ask(b"GET / HTTP/%b\r\nHost: %b\r\n\r\n" % (version, host))
    assert_refused(answer, 400, "invalid_request")


@pytest.mark.parametrize(
    "host",
    [
        b"a", b"A.example:8000", b"a.", b"my_service", b"a:", b"127.0.0.1:1", b"[::1]",
        b"[fe80::1%25eth0]:65535", b"[::ffff:1.2.3.4]", b"%2Frun%2Faiaas.sock", b" a \t",
        b"a" * 255 + b":65535",
    ],
)  # fmt: skip
def test_a_name_or_an_address_is_a_host(serve_edge: Any, host: bytes) -> None:
    wire = serve_edge().connect()
    for _ in range(2):  # looked at, then remembered
        wire.send(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
        assert wire.answer().body == b"GET / "


def test_hosts_that_clients_make_up_are_not_remembered_for_ever(serve_edge: Any) -> None:
    server = serve_edge()
    wire = server.connect()
    for number in range(1100):
        wire.send(b"GET / HTTP/1.1\r\nHost: h%d\r\n\r\n" % number)
        assert wire.answer().status == 200
    assert server.on_loop(lambda: len(server.protocol.edge.hosts)) <= 1024


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(GET + HOST + b"\r\n", id="plain"),
        pytest.param(b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", id="two-spaces-before-the-path"),
        pytest.param(b"GET /  HTTP/1.1\r\n" + HOST + b"\r\n", id="two-spaces-behind-the-path"),
        pytest.param(b"\r\n" + GET + HOST + b"\r\n", id="one-empty-line-before"),
        pytest.param(GET + HOST + b"X: \xc3\xa9\ta\r\n\r\n", id="latin-1-and-tab-in-value"),
        pytest.param(GET + HOST + b"X: a\r\nX: b\r\n\r\n", id="other-headers-may-repeat"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", id="http-1.0-without-host"),
        pytest.param(GET + HOST + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n", id="h2c"),
        pytest.param(
            GET + HOST + b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n",
            id="websocket",
        ),
    ],
)
def test_what_is_merely_unusual_is_answered(serve_edge: Any, request_bytes: bytes) -> None:
    answer = serve_edge().ask(request_bytes)
    assert (answer.status, answer.body) == (200, b"GET / ")


@pytest.mark.parametrize(
    "target",
    [b"/", b"/v2/models/a%20b", b"/a?x=/../%2f", b"/.../a", b"/a..b/.c", b"/%e4%bd%a0"],
)
def test_a_good_path_reaches_the_application_as_it_came(serve_edge: Any, target: bytes) -> None:
    answer = serve_edge().ask(b"GET %b HTTP/1.1\r\n%b\r\n" % (target, HOST))
    assert answer.body == b"GET " + target.partition(b"?")[0] + b" "


def test_a_body_survives_an_upgrade_that_is_not_offered(serve_edge: Any) -> None:
    wire = serve_edge().connect()
    head = POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    wire.send(head + b"Content-Length: 3\r\n\r\nabc" + GET + HOST + b"\r\n")
    assert wire.answer().body == b"POST / abc"
    assert wire.answer().body == b"GET / "


@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_request_may_come_in_any_pieces(serve_edge: Any, step: int) -> None:
    data = POST + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    wire = serve_edge().connect()
    for start in range(0, len(data), step):
        wire.send(data[start : start + step])
    assert wire.answer().body == b"POST / abcde"


def test_a_refusal_keeps_a_plain_request_id_of_the_client(serve_edge: Any) -> None:
    answer = serve_edge().ask(GET + HOST + HOST + b"X-Request-Id: my-id.1\r\n\r\n")
    assert json.loads(answer.body)["request_id"] == "my-id.1"
