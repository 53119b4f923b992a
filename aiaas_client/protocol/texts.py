"""Text files as editors write them."""

from __future__ import annotations

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def decode_text(content: bytes) -> str:
    """The text of a file: UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises:
        UnicodeDecodeError: Neither.
    """
    if len(content) > 2 and content.startswith(_UTF_16_MARKS):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")
