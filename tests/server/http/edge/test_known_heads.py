"""Heads that came before never meet the parser: nobody can tell by the answers."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.http.edge.conftest import EdgeServer, hot_echo, hot_routes
from tests.server.http.edge.test_lane import KEY, get, post

_OF_ONE_ANSWER = re.compile(rb"x-request-id: [^\r]*\r\n|date: [^\r]*\r\n")
FIRST, SECOND = post(b"abc", path=b"/one"), post(b"defg", path=b"/two")


def heads_of(server: EdgeServer) -> set[bytes]:
    """The heads that are remembered, without what is each request's own."""
    heads = server.protocol.edge.heads
    return set(server.on_loop(lambda: (*heads._whole, *heads._cut)))


def head_of(sent: bytes) -> bytes:
    return sent.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def plain(answers: bytes) -> bytes:
    """Answers without what differs each time."""
    return re.sub(rb'"request_id":"[^"]*"', b"", _OF_ONE_ANSWER.sub(b"", answers))


def all_answers(server: EdgeServer, *pieces: bytes) -> bytes:
    """Send pieces, stop sending, and read all that comes."""
    wire = server.connect()
    for piece in pieces:
        wire.send(piece)
    wire.sock.shutdown(1)
    return plain(wire.rest())


@pytest.mark.parametrize("sent", [FIRST, get(), get(b"/a%20b"), post(b"", b"X: \xe9 a\tb")])
def test_the_second_time_is_answered_as_the_first(serve_edge: Any, sent: bytes) -> None:
    server = serve_edge()
    wire = server.connect()
    answers = []
    for _ in range(3):
        head = wire.send(sent).until(b"\r\n\r\n")
        size = int(re.findall(rb"content-length: (\d+)", head)[0])
        while len(wire.buffer) < size:
            assert wire._fill()
        answers.append(plain(head + wire.buffer))
        wire.buffer = b""
    assert answers[0] == answers[1] == answers[2]
    assert heads_of(server) == {head_of(sent)}


NOT_KNOWN = {
    "query": get(b"/a?b"),
    "expect": post(b"ab", b"Expect: 100-continue"),
    "close": get(b"/", b"Connection: close"),
    "http-1.0": get().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "http-1.0-kept": get(b"/", b"Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "repeated-header": get(b"/", b"X: a", b"x: b"),
    "content-encoding": post(b"ab", b"Content-Encoding: identity"),
    "chunked": get(b"/", b"Transfer-Encoding: chunked").replace(b"GET", b"POST")
    + b"1\r\na\r\n0\r\n\r\n",
    "own-id-in-small-letters": get(b"/", b"x-request-id: a"),
    "own-id-that-is-none": get(b"/", b"X-Request-Id: a b"),
    "no-own-id": get(b"/", b"X-Request-Id: "),
    "trace-that-is-none": get(b"/", b"traceparent: x"),
    "long": get(b"/", b"X: " + b"a" * 1024),
    "head": get().replace(b"GET", b"HEAD"),
    "get-with-a-body": post(b"ab").replace(b"POST", b"GET"),
    "empty-line-before": b"\r\n" + get(),
    "not-found-in-a-request-of-its-own": get() + get(),
}


@pytest.mark.parametrize("sent", NOT_KNOWN.values(), ids=NOT_KNOWN.keys())
def test_a_head_that_says_more_is_read_each_time(serve_edge: Any, sent: bytes) -> None:
    server = serve_edge()
    first = all_answers(server, sent)
    assert first.startswith(b"HTTP/1.1 ")
    kept = heads_of(server)
    assert not kept or kept == {get()}  # of an empty line before it, and it alone
    assert all_answers(server, sent) == first


OWN = [b"X-Request-Id: ", b"X-Request-Timeout-Ms: ", b"traceparent: "]
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def asked_with(id: bytes, limit: bytes, trace: bytes) -> bytes:
    """A request with values of its own."""
    return get(b"/", OWN[0] + id, OWN[1] + limit, OWN[2] + trace)


def test_values_of_one_request_alone_are_read_each_time(serve_edge: Any) -> None:
    seen: list[Any] = []

    def endpoint(call: Any) -> bool:
        seen.append((call.context, call.head.headers))
        return hot_echo(call)

    server = serve_edge(hot=hot_routes(endpoint))
    wire = server.connect()
    for number in range(3):
        wire.send(
            asked_with(b"id-%d" % number, b"%d000" % (number + 9), TRACE[:-1] + b"%d" % number)
        )
        assert wire.answer().headers["x-request-id"] == f"id-{number}"
    assert len(heads_of(server)) == 1
    for number, (context, headers) in enumerate(seen):
        assert context.caller.traceparent.endswith(f"-0{number}")
        assert headers[b"x-request-timeout-ms"] == b"%d000" % (number + 9)
    assert wire.send(get()).answer().headers["x-request-id"] != "id-2"
    assert seen[-1][0].caller.traceparent == ""


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(asked_with(b"a", b"", TRACE), 400, id="no-deadline"),
        pytest.param(asked_with(b"a", b"0", TRACE), 400, id="deadline-0"),
        pytest.param(asked_with(b"a", b"x", TRACE), 400, id="deadline-that-is-none"),
        pytest.param(asked_with(b"a", b"1" * 19, TRACE), 400, id="deadline-too-long"),
        pytest.param(asked_with(b"", b"9000", TRACE), 200, id="no-id"),
        pytest.param(asked_with(b"a" * 129, b"9000", TRACE), 200, id="id-too-long"),
        pytest.param(asked_with(b"a", b"9000", b""), 200, id="no-trace"),
        pytest.param(asked_with(b"a", b"9000", b"0" * 20_000), 431, id="trace-over-the-limit"),
        pytest.param(asked_with(b"a", b"1" * 20_000, TRACE), 431, id="deadline-over-the-limit"),
        pytest.param(asked_with(b"a\r\nX-Request-Id: b", b"9000", TRACE), 200, id="two-ids"),
        pytest.param(asked_with(b"a\rb", b"9000", TRACE), 400, id="bare-cr"),
        pytest.param(asked_with(b"a", b"9000", b"a\nHost: b"), 400, id="bare-lf"),
    ],
)
def test_values_that_are_not_plain_are_told_as_ever(
    serve_edge: Any, sent: bytes, expected: int
) -> None:
    wire = serve_edge().connect()
    for _ in range(2):
        assert wire.send(asked_with(b"a", b"9000", TRACE)).answer().status == 200
    answer = wire.send(sent).answer()
    assert answer.status == expected
    assert answer.headers["x-request-id"]


REFUSED = {
    "bare-lf-in-the-head": FIRST.replace(b"a\r\nContent", b"a\nContent"),
    "bare-lf-at-the-end": get()[:-2] + b"\n",
    "folded": get(b"/", b"X: a", b" b"),
    "two-hosts": get(b"/", b"Host: a"),
    "no-host": b"GET / HTTP/1.1\r\n\r\n",
    "two-lengths": post(b"ab", b"Content-Length: 2"),
    "length-and-chunked": post(b"ab", b"Transfer-Encoding: chunked"),
    "absolute-target": get(b"http://a/"),
    "broken-escape": get(b"/%zz"),
    "dot-dot": get(b"/a/../b"),
    "nul": get(b"/", b"X: a\0b"),
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_is_not_remembered(serve_edge: Any, sent: bytes) -> None:
    server = serve_edge()
    for _ in range(2):
        answer = server.ask(sent)
        assert answer.status == 400
        assert json.loads(answer.body)["code"] == "invalid_request"
    assert not heads_of(server)


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_is_refused_behind_known_heads_too(serve_edge: Any, sent: bytes) -> None:
    wire = serve_edge().connect()
    for _ in range(2):
        assert wire.send(FIRST).answer().body == b"POST /one abc"
    assert wire.send(sent).answer().status == 400


@pytest.mark.parametrize("behind", [b"", FIRST, SECOND, get(b"/a?b"), NOT_KNOWN["chunked"]])
@pytest.mark.parametrize("adapter", ["lane", "asgi"])
def test_known_requests_may_come_in_any_two_pieces(
    serve_edge: Any, adapter: str, behind: bytes
) -> None:
    server = serve_edge()
    parts = [FIRST, behind] if behind else [FIRST]
    bodies = [server.ask(part).body for part in parts]
    data = FIRST + behind
    wire = server.connect()
    for cut in range(0, len(data) + 1, 4 if behind else 1):
        wire.send(data[:cut])
        server.on_loop(server.loop.time)  # the first piece is read alone, as a rule
        wire.send(data[cut:])
        assert [wire.answer().body for _ in parts] == bodies, cut
    assert wire.buffer == b""


def test_a_body_shorter_or_longer_than_announced_is_framed_by_its_length(serve_edge: Any) -> None:
    wire = serve_edge().connect()
    for _ in range(2):
        assert wire.send(FIRST).answer().body == b"POST /one abc"
    wire.send(FIRST[:-1])  # known, and one byte is missing
    assert wire.send(b"d").answer().body == b"POST /one abd"
    wire.send(FIRST + SECOND[:10])  # known, and the next has begun
    assert wire.answer().body == b"POST /one abc"
    assert wire.send(SECOND[10:]).answer().body == b"POST /two defg"
    assert wire.send(FIRST + b"\r\n").answer().body == b"POST /one abc"  # an empty line behind it
    assert wire.send(FIRST).answer().body == b"POST /one abc"


def test_a_head_that_begins_like_a_known_one_is_another(serve_edge: Any) -> None:
    wire = serve_edge().connect()
    for _ in range(2):
        assert wire.send(get()).answer().body == b"GET / "
    longer = get(b"/", b"X: a")
    assert head_of(longer).startswith(get()[:-2])
    for _ in range(2):
        assert wire.send(longer).answer().body == b"GET / "
    with_body = post(b"ab").replace(b"POST", b"GET")
    assert wire.send(with_body).answer().body == b"GET / ab"


def test_a_body_that_looks_like_a_head_is_a_body(serve_edge: Any) -> None:
    wire = serve_edge().connect()
    inner = b"\r\n\r\n" + FIRST
    for _ in range(3):
        assert wire.send(post(inner)).answer().body == b"POST / " + inner
        assert wire.send(FIRST).answer().body == b"POST /one abc"


def test_heads_that_clients_make_up_are_not_remembered_for_ever(serve_edge: Any) -> None:
    server = serve_edge()
    wire = server.connect()
    for number in range(2100):
        wire.send(get(b"/", b"X: %d" % number, *([OWN[0] + b"a"] if number % 2 else [])))
        assert wire.answer().status == 200
    assert 0 < len(heads_of(server)) <= 2048


def test_a_known_head_is_refused_while_the_server_stops(serve_edge: Any) -> None:
    counted: list[Any] = []
    server = serve_edge(on_refusal=counted.append)
    wire = server.connect()
    assert wire.send(FIRST).answer().status == 200

    def drain() -> None:
        server.protocol.edge.draining = True

    server.on_loop(drain)
    answer = wire.send(FIRST).answer()
    assert (answer.status, json.loads(answer.body)["code"]) == (503, "draining")
    assert answer.headers["connection"] == "close"
    assert len(counted) == 1
    healthy = get(b"/v2/health/live")
    for _ in range(2):
        answer = server.ask(healthy)
        assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_a_known_head_ends_its_connection_where_the_server_leaves(serve_edge: Any) -> None:
    server = serve_edge()
    wire = server.connect()
    assert "connection" not in wire.send(FIRST).answer().headers

    def leave() -> None:
        server.protocol.edge.leaving = True

    server.on_loop(leave)
    answer = wire.send(FIRST).answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert wire.rest() == b""


def test_the_key_of_each_request_is_looked_at(serve_edge: Any) -> None:
    server = serve_edge(hot=hot_routes(hot_echo, api_key=KEY))
    wire = server.connect()
    right, wrong, none = (
        post(b"abc", b"Authorization: Bearer " + key) for key in (KEY.encode(), b"x" * 32, b"")
    )
    for _ in range(3):
        for sent, status in ((right, 200), (wrong, 401), (none, 401), (post(b"abc"), 401)):
            answer = wire.send(sent).answer()
            assert answer.status == status
            assert ("www-authenticate" in answer.headers) == (status == 401)


def test_an_address_that_guesses_keys_is_slowed_down_with_known_heads_too(serve_edge: Any) -> None:
    server = serve_edge(hot=hot_routes(hot_echo, api_key=KEY))
    wire = server.connect()
    wrong = post(b"abc", b"X-API-Key: " + b"x" * 32)
    statuses = [wire.send(wrong).answer().status for _ in range(22)]
    assert statuses == [401] * 20 + [429] * 2
    right = post(b"abc", b"X-API-Key: " + KEY.encode())
    assert wire.send(right).answer().status == 429


KINDS = [
    FIRST, SECOND, get(), get(b"/a?b"), post(b"x" * 3000), NOT_KNOWN["chunked"],
    NOT_KNOWN["expect"].replace(b"100-continue", b"nothing"), NOT_KNOWN["repeated-header"],
    NOT_KNOWN["content-encoding"], get(b"/", b"Upgrade: h2c", b"Connection: upgrade"),
]  # fmt: skip


@pytest.mark.parametrize("adapter", ["lane", "asgi"])
def test_requests_in_any_pieces_have_the_same_answers(serve_edge: Any) -> None:
    server = serve_edge()
    one_by_one = [all_answers(server, sent).partition(b"\r\n\r\n")[2] for sent in KINDS]

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(
        kinds=st.lists(st.integers(0, len(KINDS) - 1), min_size=1, max_size=8),
        places=st.lists(st.floats(0, 1), max_size=6),
    )
    def in_pieces(kinds: list[int], places: list[float]) -> None:
        data = b"".join([KINDS[kind] for kind in kinds])
        cuts = sorted({0, len(data), *[round(place * len(data)) for place in places]})
        wire = server.connect()
        for start, end in pairwise(cuts):
            wire.send(data[start:end])
        assert [wire.answer().body for _ in kinds] == [one_by_one[kind] for kind in kinds]
        assert wire.buffer == b""
        wire.sock.close()

    in_pieces()
