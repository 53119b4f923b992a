"""Which bytes the tokens of either family stand for."""

from __future__ import annotations

import pytest
from tokenizers import pre_tokenizers

from aiaas_server.generate.token_bytes import token_bytes

BYTE_LEVEL = {"type": "ByteLevel"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
LLAMA = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


def test_each_byte_has_the_character_that_the_library_gives_it():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bytes_of = token_bytes(BYTE_LEVEL).of
    assert {bytes_of(character) for character in alphabet} == {bytes([b]) for b in range(256)}
    for text in ("Ünï ködé", "世界\n\t", "\x7f\xa0\xad"):
        [(written, _)] = pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(text)
        assert bytes_of(written) == text.encode()


@pytest.mark.parametrize(
    ("decoder", "token", "expected"),
    [
        (BYTE_LEVEL, "Ġfox", b" fox"),
        (BYTE_LEVEL, "a\xadb", "a\xadb".encode()),  # stands for no byte
        (BYTE_LEVEL, "世", "世".encode()),
        (METASPACE, "▁fox▁a", b" fox a"),
        (METASPACE, "<0x0A>", b"<0x0A>"),
        (LLAMA, "▁fox", b" fox"),
        (LLAMA, "<0x0A>", b"\n"),
        (LLAMA, "<0xE4>", b"\xe4"),
        (LLAMA, "<0xE4>x", b"<0xE4>x"),
        (LLAMA, "Ġé", "Ġé".encode()),
    ],
    ids=[
        "a space",
        "no byte",
        "no byte either",
        "spaces",
        "text like a byte",
        "space",
        "line end",
        "half a character",
        "no byte's name",
        "themselves",
    ],
)
def test_tokens_stand_for_bytes(decoder, token, expected):
    assert token_bytes(decoder).of(token) == expected


@pytest.mark.parametrize(
    ("decoder", "spaces"),
    [
        (BYTE_LEVEL, 0),
        (METASPACE, 1),
        ({**METASPACE, "prepend_scheme": "never"}, 0),
        (LLAMA, 1),
        ({"type": "Sequence", "decoders": [BYTE_LEVEL, {"type": "Fuse"}]}, 0),
    ],
    ids=["byte-level", "metaspace", "never", "llama", "sequence"],
)
def test_spaces_that_a_text_does_not_begin_with(decoder, spaces):
    assert token_bytes(decoder).strip == spaces
