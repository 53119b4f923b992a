"""Datatypes, BYTES serialisation and compression at their edges."""

from __future__ import annotations

import gzip
import os
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_client.protocol.compression import BodyTooLarge, compress, inflate
from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.inference import CodecError
from aiaas_client.protocol.tensors import (
    DATATYPES,
    TensorError,
    config_name_of,
    datatype_from_config,
    datatype_of,
    dtype_of,
    object_array,
    pack_bytes,
    unpack_bytes,
)


@pytest.mark.parametrize("name", sorted(DATATYPES))
def test_every_datatype_maps_there_and_back(name: str) -> None:
    assert datatype_of(np.zeros(1, dtype_of(name))) == name
    assert datatype_from_config(config_name_of(name)) == name


def test_text_arrays_are_bytes_tensors() -> None:
    assert datatype_of(np.array(["a", "bc"])) == "BYTES"
    assert pack_bytes(np.array(["é"])) == b"\x02\x00\x00\x00\xc3\xa9"


@pytest.mark.parametrize("name", ["FP8", "", "fp32", "x" * 500])
def test_unknown_datatype_lists_the_known_ones(name: str) -> None:
    with pytest.raises(TensorError, match="FP32") as caught:
        dtype_of(name)
    assert len(str(caught.value)) < 300


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_bytes_elements_round_trip(elements: list[bytes]) -> None:
    packed = pack_bytes(object_array(elements))
    assert unpack_bytes(packed, len(elements)).tolist() == elements


@pytest.mark.parametrize(
    ("buffer", "count"),
    [
        (b"", 1),
        (b"\x01\x00\x00", 1),
        (b"\xff\xff\xff\xffabc", 1),
        (b"\x01\x00\x00\x00ab", 1),
        (b"\x01\x00\x00\x00a", 2),
        (b"\x00\x00\x00\x00", 2**60),
        (b"\x08\x00\x00\x00abcdefgh", 3),
    ],
    ids=["none", "cut length", "length 0xffffffff", "left over", "missing", "huge", "late cut"],
)
def test_malformed_bytes_serialisation_is_refused(buffer: bytes, count: int) -> None:
    with pytest.raises(TensorError):
        unpack_bytes(buffer, count)


@pytest.mark.parametrize("element", [3, None, 1.5, ["a"]])
def test_elements_that_are_not_text_are_refused(element: object) -> None:
    with pytest.raises(TensorError, match="bytes or text"):
        pack_bytes(object_array([element]))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@given(body=st.binary(max_size=2000))
def test_compression_round_trip(encoding: str, body: bytes) -> None:
    assert inflate(compress([body[:7], body[7:]], encoding), 2000) == body


def test_deflate_on_http_is_the_zlib_container() -> None:
    assert zlib.decompress(compress([b"abc"], "deflate")) == b"abc"
    assert gzip.decompress(compress([b"abc"], "gzip")) == b"abc"


def test_several_gzip_members_are_one_body() -> None:
    assert inflate(gzip.compress(b"ab") + gzip.compress(b"cd"), 4) == b"abcd"


def test_members_are_found_wherever_they_end():
    parts = [os.urandom(300_000), b"", bytes(1 << 20), b"ab"]
    body = b"".join(gzip.compress(part) for part in parts)
    assert inflate(body, len(body) + (2 << 20)) == b"".join(parts)


def test_a_body_of_countless_members_is_refused():
    with pytest.raises(CodecError, match="more than 1000 members"):
        inflate(gzip.compress(b"") * 1_000_000, 1000)


def test_a_bomb_is_refused_at_the_limit() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    assert len(bomb) < 60_000
    with pytest.raises(BodyTooLarge) as caught:
        inflate(bomb, 1000)
    assert caught.value.code == ErrorCode.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize(
    "body", [b"", b"plain", gzip.compress(b"abc" * 50)[:-9]], ids=["empty", "plain", "cut"]
)
def test_corrupt_compressed_body_is_refused(body: bytes) -> None:
    with pytest.raises(CodecError):
        inflate(body, 1000)
