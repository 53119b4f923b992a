"""Texts into tokens and tokens into bytes, held against the `tokenizers` library."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.generate.vocabulary import Vocabulary
from tests.server.generate.tokenizers_made import byte_fallback_json, changed, metaspace_json
from tests.tiny_llm import BEGIN, CONFIG, END, tokenizer_json

MADE = {
    "byte-level": tokenizer_json,
    "byte fallback": byte_fallback_json,
    "metaspace": metaspace_json,
}
whole = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def both(name):
    return Vocabulary.open(MADE[name]()), Tokenizer.from_str(MADE[name]())


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=60)
@given(data=st.data())
def test_tokens_read_as_the_library_reads_them(name, data):
    vocabulary, library = both(name)
    tokens = data.draw(st.lists(st.integers(0, vocabulary.size - 1), max_size=30))
    text = vocabulary.decode(tokens)
    expected = library.decode(tokens)
    # Of byte tokens in a row that are no UTF-8 the library gives up whole characters too.
    if name == "byte-level" or "\ufffd" not in expected:
        assert text == expected


@pytest.mark.parametrize("name", ["byte-level", "byte fallback"])
@settings(max_examples=60)
@given(text=whole)
def test_a_text_comes_back_from_its_tokens(name, text):
    vocabulary, library = both(name)
    tokens = vocabulary.encode(text)
    assert tokens == library.encode(text, add_special_tokens=False).ids
    if "▁" not in text and "<" not in text:
        assert vocabulary.decode(tokens) == text
        assert b"".join(map(vocabulary.bytes_of, tokens)).decode().removeprefix(
            " " if name == "byte fallback" else ""
        ) in (text, text.removeprefix(" "))


def test_special_tokens_have_a_name_and_no_text():
    vocabulary = Vocabulary.open(tokenizer_json())
    begin, end = vocabulary.token(BEGIN), vocabulary.token(END)
    assert vocabulary.size == CONFIG.vocabulary
    assert vocabulary.special == {0, begin, end}
    assert vocabulary.encode(f"{BEGIN}fox{END}")[0] == begin
    assert vocabulary.bytes_of(end) == END.encode()
    assert vocabulary.shown_bytes(end) == b""
    assert vocabulary.decode(vocabulary.encode(f"{BEGIN}fox{END}")) == "fox"
    assert vocabulary.token("no such token") is None


def test_special_tokens_are_text_where_that_is_asked_for():
    vocabulary = Vocabulary.open(tokenizer_json(), shown=[BEGIN])
    assert vocabulary.decode(vocabulary.encode(f"{BEGIN}fox{END}")) == f"{BEGIN}fox"
    assert vocabulary.token(BEGIN) not in vocabulary.special


def test_added_tokens_that_are_not_special_are_text():
    vocabulary = Vocabulary.open(byte_fallback_json())
    token = vocabulary.token("<tool_call>")
    assert token is not None
    assert token not in vocabulary.special
    assert vocabulary.shown_bytes(token) == b"<tool_call>"


def test_added_tokens_are_written_as_they_are():
    """Not in the characters that stand for bytes."""
    library = Tokenizer.from_str(tokenizer_json())
    library.add_tokens(["<éĠ>"])
    vocabulary = Vocabulary.open(library.to_str())
    tokens = vocabulary.encode("fox<éĠ>")
    assert vocabulary.bytes_of(tokens[-1]) == "<éĠ>".encode()
    assert vocabulary.decode(tokens) == "fox<éĠ>"


def test_logits_may_be_wider_than_the_vocabulary():
    vocabulary = Vocabulary.open(tokenizer_json())
    for token in (vocabulary.size, 10**9, -1):
        assert vocabulary.bytes_of(token) == vocabulary.shown_bytes(token) == b""
    assert vocabulary.decode([vocabulary.size + 5]) == ""


def test_each_byte_has_its_token():
    vocabulary = Vocabulary.open(tokenizer_json())
    found = {vocabulary.bytes_of(token) for token in range(vocabulary.size)}
    assert {bytes([byte]) for byte in range(256)} <= found


def test_truncation_and_padding_of_the_file_are_not_obeyed():
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    vocabulary = Vocabulary.open(changed(tokenizer_json(), truncation=cut))
    text = "a river runs to the sea, one after another"
    assert vocabulary.decode(vocabulary.encode(text)) == text


@pytest.mark.parametrize("text", ["a\ud800", "\udc00", "x\ud83d y"], ids=["end", "alone", "middle"])
def test_half_a_character_is_refused_with_its_place(text):
    vocabulary = Vocabulary.open(tokenizer_json())
    with pytest.raises(InvalidInput, match="the text: expected whole characters, got half of one"):
        vocabulary.encode(text)
    place = next(i for i, c in enumerate(text) if 0xD800 <= ord(c) < 0xE000)
    with pytest.raises(InvalidInput, match=f"at position {place}$"):
        vocabulary.encode(text)


def test_a_token_far_out_of_range_is_refused():
    """A table with a place for each would take all memory."""
    model = json.loads(tokenizer_json())["model"]
    vocab = {**model["vocab"], "zzz": 4_000_000_000}
    with pytest.raises(LoadFailed, match="expected tokens below 4194304, got 4000000000"):
        Vocabulary.open(changed(tokenizer_json(), model={**model, "vocab": vocab}))


class Watched:
    """A tokenizer that tells what it is given to read."""

    def __init__(self) -> None:
        self.at_once: list[str] = []
        self.beside: list[str] = []
        self._tokenizer = Tokenizer.from_str(tokenizer_json())

    def encode(self, text, **more):
        self.at_once.append(text)
        return self._tokenizer.encode(text, **more)

    def encode_batch_fast(self, texts, **more):
        self.beside += texts
        return self._tokenizer.encode_batch_fast(texts, **more)


def test_a_text_far_longer_than_the_context_is_not_read_to_its_end():
    watched = Watched()
    vocabulary = Vocabulary(watched, [b""], frozenset(), 0)
    text = "the quick brown fox " * 500_000
    with pytest.raises(InvalidInput, match=r"has \d+ tokens in the first 32768 of its 10000000 "):
        vocabulary.encode(text, most=100)
    assert sum(map(len, watched.beside)) == 32768


@pytest.mark.parametrize("most", [None, 100_000], ids=["any", "room"])
def test_a_long_text_that_may_fit_is_read_as_a_whole(most):
    vocabulary, tokenizer = both("byte-level")
    text = "the quick brown fox " * 5000
    assert vocabulary.encode(text, most) == tokenizer.encode(text, add_special_tokens=False).ids


def test_long_texts_are_read_beside_other_threads():
    """`Tokenizer.encode` keeps the interpreter's lock: no other thread runs meanwhile."""
    watched = Watched()
    Vocabulary(watched, [b""], frozenset(), 0).encode("a b " * 1000)
    assert (len(watched.at_once), len(watched.beside)) == (0, 1)


def test_a_text_without_tokens_is_refused():
    """A unigram model without a token for the unknown."""
    without = changed(
        metaspace_json(),
        model={"type": "Unigram", "unk_id": None, "vocab": [["▁", -1.0], ["a", -2.0]]},
        added_tokens=[],
    )
    with pytest.raises(InvalidInput, match="tokenizer cannot read the text"):
        Vocabulary.open(without).encode("z")


@pytest.mark.parametrize(
    ("decoder", "named"),
    [
        ({"type": "CTC", "pad_token": "-", "word_delimiter_token": "|", "cleanup": True}, "CTC"),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "WordPiece"),
        (None, "null"),
        ({"type": "Strip", "content": "x", "start": 1, "stop": 0}, "Strip"),
        ({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}, "Replace"),
    ],
    ids=["ctc", "wordpiece", "none", "strip", "regex"],
)
def test_a_decoder_of_another_family_is_refused_by_name(decoder, named):
    with pytest.raises(LoadFailed, match=f"expected a decoder of ByteLevel.*, got {named}"):
        Vocabulary.open(changed(tokenizer_json(), decoder=decoder))


@pytest.mark.parametrize("text", ["", "{}", "[1]", "\ud800"], ids=["empty", "bare", "list", "half"])
def test_what_is_no_tokenizer_is_refused(text):
    with pytest.raises(LoadFailed, match="tokenizer.json is no tokenizer"):
        Vocabulary.open(text)
