"""Text files of every editor have the same text."""

from __future__ import annotations

import pytest

from aiaas_client.protocol.texts import decode_text

TEXT = "cat\r\nHündchen\n犬"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TEXT.encode(), id="UTF-8"),
        pytest.param(TEXT.encode("utf-8-sig"), id="UTF-8 with a mark"),
        pytest.param(b"\xff\xfe" + TEXT.encode("utf-16-le"), id="UTF-16, little end first"),
        pytest.param(b"\xfe\xff" + TEXT.encode("utf-16-be"), id="UTF-16, big end first"),
    ],
)
def test_the_mark_is_no_part_of_the_text(content: bytes) -> None:
    assert decode_text(content) == TEXT


def test_a_mark_alone_and_an_empty_file() -> None:
    assert decode_text(b"") == ""
    assert decode_text(b"\xef\xbb\xbf") == ""


@pytest.mark.parametrize("content", [b"\xff\xfe", b"caf\xe9", b"\xff\xfe\x00", b"\x80"])
def test_other_bytes_are_no_text(content: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode_text(content)
