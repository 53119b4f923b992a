"""The header list: ids, deadlines, lengths."""

from __future__ import annotations

import pytest

from aiaas_server.http.errors import HttpError
from aiaas_server.http.gate import deadline_seconds, request_id_of
from aiaas_server.http.incoming import content_length, read_headers


def test_repeated_headers_are_joined() -> None:
    pairs = [(b"accept-encoding", b"gzip"), (b"x", b"1"), (b"accept-encoding", b"deflate")]
    assert read_headers({"headers": pairs}) == {b"accept-encoding": b"gzip, deflate", b"x": b"1"}


@pytest.mark.parametrize("given", [b"a", b"A-b_c.9", b"x" * 128])
def test_a_plain_request_id_is_kept(given: bytes) -> None:
    assert request_id_of({b"x-request-id": given}) == given


@pytest.mark.parametrize("given", [b"", b"x" * 129, b"a b", b"a\r\nb", b"a\n", b"\xff"], ids=repr)
def test_any_other_request_id_is_replaced(given: bytes) -> None:
    made = request_id_of({b"x-request-id": given})
    assert made != given
    assert made != request_id_of({})


@pytest.mark.parametrize(("text", "seconds"), [(b"1", 0.001), (b"300000", 300.0), (b"042", 0.042)])
def test_a_deadline_is_milliseconds(text: bytes, seconds: float) -> None:
    assert deadline_seconds({b"x-request-timeout-ms": text}, 30.0, 300.0) == seconds


def test_no_deadline_is_the_default() -> None:
    assert deadline_seconds({}, 30.0, 300.0) == 30.0


@pytest.mark.parametrize("text", [b"0", b"300001", b"-1", b"1.5", b"", b"1e3", b"9" * 5000])
def test_a_bad_deadline_is_400(text: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        deadline_seconds({b"x-request-timeout-ms": text}, 30.0, 300.0)
    assert caught.value.status == 400


@pytest.mark.parametrize("text", [b"-1", b"x", b"1, 1", b"9" * 5000])
def test_a_bad_content_length_is_400(text: bytes) -> None:
    with pytest.raises(HttpError):
        content_length({b"content-length": text})
