"""Forms are read as they come, however they are cut; what is none is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.http.errors import HttpError
from aiaas_server.http.multipart import MOST_PARTS, Multipart, boundary_of

Field = tuple[str, str | None, bytes]


async def pieces_of(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def read(boundary: bytes, pieces: Iterable[bytes]) -> list[Field]:
    """Name, file name and content of all parts."""

    async def work() -> list[Field]:
        return [
            (part.name, part.filename, b"".join([piece async for piece in part.content]))
            async for part in Multipart(pieces_of(pieces), boundary).parts()
        ]

    return asyncio.run(work())


BODY = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n{}\r\n--\r\n--\r\n--b--\r\n"
)
ONE = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n'
FIELDS: list[Field] = [("purpose", None, b"batch"), ("file", "a.jsonl", b"{}\r\n--\r\n--")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_form_is_read_however_it_is_cut(size: int) -> None:
    """Boundaries may lie across pieces."""
    pieces = [BODY[at : at + size] for at in range(0, len(BODY), size)]
    assert read(b"b", pieces) == FIELDS


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "ü b", 'q"']), st.binary(max_size=60)), max_size=4),
    st.integers(1, 40),
)
def test_what_a_client_writes_is_what_is_read(files: list[tuple[str, bytes]], size: int) -> None:
    """A form of httpx2, read back."""
    if not files:
        return
    request = httpx2.Request(
        "POST", "http://x/", files=[("file", (name, content)) for name, content in files]
    )
    body = request.read()
    boundary = boundary_of(request.headers["content-type"])
    found = read(boundary, [body[at : at + size] for at in range(0, len(body), size)])
    assert [content for _, _, content in found] == [content for _, content in files]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "ends before its last boundary"),
        (BODY[:-8], "ends before its last boundary"),
        (b"preamble\r\n" + BODY, "boundary at the beginning"),
        (BODY.replace(b"form-data", b"attachment", 1), "expected Content-Disposition form-data"),
        (BODY.replace(b'name="purpose"', b""), "expected a name"),
        (b"--b\r\nX: y\r\n\r\n\r\n--b--", "expected a Content-Disposition"),
        (b"--bX" + BODY, "end of the line behind the boundary"),
        (b"--b\r\n" + b"h" * 9000 + b"\r\n\r\n", "a header of at most 8192 bytes"),
        (ONE * (MOST_PARTS + 1) + b"--b--", "expected at most 32 parts"),
        (b"--b\r\nContent-Disposition: \xff\r\n\r\n\r\n--b--", "in UTF-8"),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, message: str) -> None:
    """With a 400 that says what was expected."""
    with pytest.raises(HttpError, match=message) as raised:
        read(b"b", [body])
    assert raised.value.status == 400


def test_as_many_parts_as_there_may_be() -> None:
    """The last one allowed is read."""
    assert len(read(b"b", [ONE * MOST_PARTS + b"--b--"])) == MOST_PARTS


@pytest.mark.parametrize(
    ("stated", "status"),
    [
        ("application/json", 415),
        ("multipart/form-data", 415),
        ("multipart/form-data; charset=x", 400),
        (f"multipart/form-data; boundary={'b' * 71}", 400),
        ("multipart/form-data; boundary=a\x00b", 400),
    ],
)
def test_a_boundary_is_needed(stated: str, status: int) -> None:
    """Another type is a 415, a form without a usable boundary a 400."""
    with pytest.raises(HttpError) as raised:
        boundary_of(stated)
    assert raised.value.status == status
    assert boundary_of('Multipart/Form-Data; charset=x; boundary="a b c"') == b"a b c"
