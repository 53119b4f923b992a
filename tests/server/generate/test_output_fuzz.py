"""Fuzz: any text in any cut, any stop texts; one answer, and nothing of it early or twice."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiaas_server.generate.output import TextOutput
from aiaas_server.generate.vocabulary import Vocabulary
from tests.server.generate.test_stops import ended
from tests.server.generate.tokenizers_made import byte_fallback_json
from tests.tiny_llm import tokenizer_json

VOCABULARIES = [Vocabulary.open(tokenizer_json()), Vocabulary.open(byte_fallback_json())]
# Of one to four bytes, joined ones, right-to-left, line ends, and what tokens are written with.
CHARACTERS = "ab \n\r\0é\u07ff世界\u200d\ufeff\ufffd😀👩\U0001f3fd💻שלוםe\u0301<|>▁#"

texts = st.text(CHARACTERS, max_size=40)
stops = st.lists(st.text(CHARACTERS, min_size=1, max_size=5), max_size=4)


def run(vocabulary, tokens, stop, sizes):
    """Push so many at a time; gives the pieces, whether it stopped, and the tokens it took."""
    output = TextOutput(vocabulary, stop)
    pieces, at = [], 0
    while at < len(tokens) and not output.stopped:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(output.push(tokens[at : at + size]))
        at += output.used
    return [*pieces, output.finish()], output.stopped, at


@settings(max_examples=200)
@given(
    st.sampled_from([0, 1]),
    st.lists(st.integers(3, 600), max_size=60),
    stops,
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
@example(0, [], ["a"], [1])
def test_any_tokens(which, tokens, stop, sizes):
    """Random tokens: mostly no UTF-8. The pieces' sizes make no difference, nor do stop texts."""
    vocabulary = VOCABULARIES[which]
    raw = b"".join(map(vocabulary.shown_bytes, tokens))
    expected, stopped = ended(raw.decode("utf-8", "replace"), stop)
    pieces, found, used = run(vocabulary, tokens, stop, sizes)
    assert ("".join(pieces), found) == (expected, stopped)
    one, found_one, used_one = run(vocabulary, tokens, stop, [1])
    assert ("".join(one), found_one, used_one) == (expected, stopped, used)
    for piece in pieces:
        piece.encode()


@settings(max_examples=200)
@given(st.sampled_from([0, 1]), texts, stops, st.data())
def test_any_text(which, text, stop, data):
    """Stop texts out of the text itself, so that they are often found, and often nearly."""
    if text:
        begin = data.draw(st.integers(0, len(text) - 1))
        stop = [*stop, text[begin : begin + data.draw(st.integers(1, 4))]]
    vocabulary = VOCABULARIES[which]
    tokens = vocabulary.encode(text)
    raw = b"".join(map(vocabulary.shown_bytes, tokens)).decode()
    expected, stopped = ended(raw, stop)
    pieces, found, used = run(vocabulary, tokens, stop, [1])
    assert ("".join(pieces), found) == (expected, stopped)
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text
    # Without the last token that it took, the answer would not have ended.
    if stopped:
        before = b"".join(map(vocabulary.shown_bytes, tokens[: used - 1]))
        assert not ended(before.decode("utf-8", "ignore"), stop)[1]
