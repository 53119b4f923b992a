"""Server-sent events: the rules of the WHATWG, however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_client import ProtocolError
from aiaas_client._api.call import ServerEvent
from aiaas_client._send.sse import EventDecoder


def decoded(*pieces: bytes, limit: int = 1 << 20) -> list[ServerEvent]:
    decoder = EventDecoder(limit)
    return [event for piece in pieces for event in decoder.feed(piece)]


def by_the_book(text: str) -> list[ServerEvent]:
    """The standard's algorithm as it is written, on the whole text at once."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    found, data, kind, last_id, retry = [], "", "", "", None
    for line in lines:
        if line == "":
            if data != "":
                found.append(
                    ServerEvent(data.removesuffix("\n"), kind or "message", last_id, retry)
                )
            data, kind, retry = "", "", None
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data += value + "\n"
            elif name == "event":
                kind = value
            elif name == "id" and "\0" not in value:
                last_id = value
            elif name == "retry" and value.isascii() and value.isdigit():
                retry = int(value) / 1e3
    return found


LINES = st.sampled_from(
    [
        "data: a",
        "data:b",
        "data",
        "data: ä€𝄞",
        "data:  c",
        ":note",
        "event: x",
        "event",
        "id: 7",
        "id",
        "id: \x00",
        "retry: 250",
        "retry: soon",
        "other: 1",
        "",
        "",
        "",
        "\ufeffdata: d",
    ]
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n", "\r"])), max_size=20).map(
    lambda parts: "".join(line + end for line, end in parts)
)


@settings(deadline=None)
@given(st.booleans(), STREAMS, st.data())
def test_any_cutting_gives_what_the_standard_says(
    mark: bool, text: str, data: st.DataObject
) -> None:
    raw = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert decoded(*pieces) == by_the_book(raw.decode())


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=10))
def test_no_bytes_break_it_and_cutting_changes_nothing(pieces: list[bytes]) -> None:
    assert decoded(*pieces) == decoded(b"".join(pieces))


def test_an_event_without_its_end_is_not_given() -> None:
    assert decoded(b"data: whole\n\ndata: half\n") == [ServerEvent("whole")]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert decoded(b"data: \xff\xe2\x82\n\n") == [ServerEvent("��")]


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"data: " + b"a" * 200], id="in one line"),
        pytest.param([b"data: aaaaaaaa\n"] * 20, id="in many lines"),
        pytest.param([b"a"] * 200, id="drop by drop"),
        pytest.param([b":" + b"a" * 200], id="in a comment"),
    ],
)
def test_an_event_has_a_limit(pieces: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="larger than 100 bytes"):
        decoded(*pieces, limit=100)


def test_a_stream_has_none() -> None:
    assert len(decoded(*[b": still here\ndata: 0123456789\n\n"] * 50, limit=100)) == 50
    assert decoded(*[b": still here\n"] * 50, limit=100) == []
