"""Which bytes a token stands for, from how a `tokenizer.json` says that its tokens are decoded.

Bytes rather than texts, since a token may be half a character. Two families are known: byte-level
BPE, which writes each byte as a printable character, and SentencePiece, which writes spaces as `▁`
and bytes as `<0x0A>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from aiaas_server.core.errors import LoadFailed

_NO_BYTE = 0xE000
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_KNOWN = "ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Sequence, Strip"

Bytes = Callable[[str], bytes]


class TokenBytes(NamedTuple):
    """How tokens become bytes.

    Attributes:
        of: A token's text in the vocabulary -> its bytes.
        strip: How many spaces are dropped where a text begins.
    """

    of: Bytes
    strip: int


def token_bytes(decoder: Mapping[str, Any] | None) -> TokenBytes:
    """Read the `decoder` of a `tokenizer.json`.

    Raises:
        LoadFailed: It is of another family; its name is told.
    """
    steps = _steps(decoder)
    kinds = {str(step.get("type")) for step in steps}
    if "ByteLevel" in kinds:
        if kinds - {"ByteLevel", "Fuse"}:
            raise _unknown("ByteLevel beside " + ", ".join(sorted(kinds - {"ByteLevel"})))
        return TokenBytes(_byte_level, 0)
    replacements: list[tuple[str, str]] = []
    strip = 0
    for step in steps:
        replaced, stripped = _spaces(step)
        replacements += replaced
        strip += stripped
    return TokenBytes(_sentence_piece(replacements, fallback="ByteFallback" in kinds), strip)


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        raise _unknown("null")
    if decoder.get("type") != "Sequence":
        return [decoder]
    return [step for inner in decoder.get("decoders", []) for step in _steps(inner)]


def _spaces(step: Mapping[str, Any]) -> tuple[list[tuple[str, str]], int]:
    """What a step replaces, and how many spaces it drops where a text begins."""
    kind = step.get("type")
    if kind in ("Fuse", "ByteFallback"):
        return [], 0
    if kind == "Replace" and "String" in (pattern := step.get("pattern", {})):
        return [(str(pattern["String"]), str(step.get("content", "")))], 0
    if kind == "Strip" and step.get("content") == " " and not step.get("stop"):
        return [], int(step.get("start", 0))
    if kind == "Metaspace":
        prepended = step.get("prepend_scheme", "always") != "never"
        return [(str(step.get("replacement", "▁")), " ")], int(prepended)
    raise _unknown(f"{kind}" if kind not in ("Replace", "Strip") else f"{kind} of {dict(step)}")


def _unknown(found: str) -> LoadFailed:
    return LoadFailed(f"tokenizer.json: expected a decoder of {_KNOWN}, got {found}")


def _sentence_piece(replacements: list[tuple[str, str]], *, fallback: bool) -> Bytes:
    def of(token: str) -> bytes:
        if fallback and (found := _BYTE.fullmatch(token)):
            return bytes([int(found[1], 16)])
        for old, new in replacements:
            token = token.replace(old, new)
        return token.encode()

    return of


def _byte_level(token: str) -> bytes:
    try:
        return token.translate(_BYTE_LEVEL).encode("latin-1")
    except UnicodeEncodeError:  # a character that stands for no byte stands for itself
        return token.encode()


def _byte_characters() -> dict[int, int]:
    """Character -> byte: printable ones of Latin-1 are themselves, the rest follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table: dict[int, int] = {byte: byte for byte in printable}
    table.update({0x100 + place: byte for place, byte in enumerate(others)})
    # What is Latin-1 but none of these stands for no byte: moved out of Latin-1, it is noticed.
    table.update(dict.fromkeys(others, _NO_BYTE))
    return table


_BYTE_LEVEL = _byte_characters()
