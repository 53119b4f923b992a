"""Content codings are chosen as protocol 6 says."""

from __future__ import annotations

import pytest

from aiaas_server.http.errors import HttpError
from aiaas_server.http.negotiation import answer_coding, body_coding


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (b"", "identity"),
        (b"gzip", "gzip"),
        (b"GZIP", "gzip"),
        (b"gzip, deflate", "gzip"),
        (b"deflate, gzip", "deflate"),
        (b"gzip;q=0.5, deflate;q=0.9", "deflate"),
        (b"gzip;q=0.5, identity", "identity"),
        (b"identity;q=0.1, gzip;q=0.2", "gzip"),
        (b"gzip;q=0", "identity"),
        (b"br, zstd, *", "identity"),
        (b"br;q=1, gzip;q=0.1", "gzip"),
        (b"gzip;q=nonsense", "identity"),
        (b"gzip;q=nan", "identity"),
        (b"gzip;level=3;q=0.7", "gzip"),
        (b";;,,=", "identity"),
        (b"\xff\xfe", "identity"),
    ],
    ids=repr,
)
def test_the_answer_coding_has_the_greatest_weight(header: bytes, coding: str) -> None:
    assert answer_coding(header) == coding


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (b"", "identity"),
        (b"identity", "identity"),
        (b" GZip ", "gzip"),
        (b"deflate", "deflate"),
    ],
    ids=repr,
)
def test_known_body_codings(header: bytes, coding: str) -> None:
    assert body_coding(header) == coding


@pytest.mark.parametrize("header", [b"br", b"gzip, gzip", b"x" * 1000, b"\xff"], ids=repr)
def test_an_unknown_body_coding_is_415_and_says_what_is_known(header: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        body_coding(header)
    assert caught.value.status == 415
    assert caught.value.headers == ((b"accept-encoding", b"gzip, deflate"),)
