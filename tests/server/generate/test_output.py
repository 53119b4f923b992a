"""Tokens into text as they come: whole characters, and nothing that a stop text swallows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.core.errors import InvalidInput
from aiaas_server.generate.output import TextOutput
from aiaas_server.generate.vocabulary import Vocabulary
from tests.server.generate.tokenizers_made import byte_fallback_json
from tests.tiny_llm import END, tokenizer_json

VOCABULARY = Vocabulary.open(tokenizer_json())
TOKEN = {VOCABULARY.bytes_of(token): token for token in range(VOCABULARY.size)}

whole = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def one_by_one(text):
    """Each byte its own token."""
    return [TOKEN[bytes([byte])] for byte in text.encode()]


@settings(max_examples=100)
@given(whole)
def test_a_character_comes_with_its_last_byte_and_not_before(text):
    output = TextOutput(VOCABULARY)
    read, given_out = b"", ""
    for token in one_by_one(text):
        read += VOCABULARY.bytes_of(token)
        given_out += output.push([token])
        assert given_out == read.decode("utf-8", "ignore")
    assert output.finish() == ""
    assert given_out == text


@settings(max_examples=100)
@given(st.lists(st.integers(-1, VOCABULARY.size + 3), max_size=40), st.integers(1, 7))
def test_however_tokens_come_the_text_is_theirs(tokens, size):
    output = TextOutput(VOCABULARY)
    pieces = [output.push(tokens[i : i + size]) for i in range(0, len(tokens), size)]
    text = "".join(pieces) + output.finish()
    assert text == VOCABULARY.decode(tokens)
    text.encode()  # no half of a pair


def test_half_a_character_at_the_end_is_told_as_such():
    output = TextOutput(VOCABULARY)
    assert output.push(one_by_one("a😀")[:3]) == "a"
    assert output.finish() == "\ufffd"


def test_a_stop_text_is_found_across_tokens_and_inside_characters():
    for stop in ("😀!", "é", "界。"):
        tokens = one_by_one(f"ab{stop}cd")
        output = TextOutput(VOCABULARY, [stop])
        given_out = [output.push([token]) for token in tokens[: 2 + len(stop.encode())]]
        assert "".join(given_out[:-1]) == "ab"
        assert (given_out[-1], output.stopped, output.used) == ("", True, 1)
        assert output.finish() == ""


def test_tokens_behind_the_stop_text_are_not_the_answers():
    tokens = VOCABULARY.encode("the fox. jumps over")
    output = TextOutput(VOCABULARY, ["."])
    assert output.push(tokens) == "the fox"
    assert b"".join(map(VOCABULARY.bytes_of, tokens[: output.used])).decode().count(".") == 1
    assert output.used < len(tokens)
    assert (output.push(tokens), output.used) == ("", 0)


def test_what_began_like_a_stop_text_comes_when_it_is_none():
    output = TextOutput(VOCABULARY, ["###"])
    assert [output.push(one_by_one(c)) for c in "a##b##"] == ["a", "", "", "##b", "", ""]
    assert (output.finish(), output.stopped) == ("##", False)


def test_special_tokens_are_no_text():
    end = VOCABULARY.token(END)
    output = TextOutput(VOCABULARY, [END])
    assert output.push([*VOCABULARY.encode("fox"), end]) == "fox"
    assert not output.stopped


def test_an_answer_keeps_the_space_it_begins_with():
    """It goes on behind the prompt; a text of its own has none there."""
    vocabulary = Vocabulary.open(byte_fallback_json())
    tokens = [vocabulary.token("▁fox"), vocabulary.token("▁runs")]
    output = TextOutput(vocabulary)
    assert output.push(tokens) + output.finish() == " fox runs"
    assert vocabulary.decode(tokens) == "fox runs"


def test_an_empty_stop_text_is_refused():
    with pytest.raises(InvalidInput, match="'stop': expected"):
        TextOutput(VOCABULARY, [""])
