"""Stop texts, wherever the pieces of a text are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.core.errors import InvalidInput
from aiaas_server.generate.stops import Stops

pieces = st.lists(st.text("ab", max_size=4), max_size=15)
stop_texts = st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=4)


def ended(text, stops):
    """The plain way: look at every beginning of the text. Gives what is left, and if it ended."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, found))], True
    return text, False


@settings(max_examples=300)
@given(pieces, stop_texts)
def test_the_cuts_between_pieces_make_no_difference(cut, stops):
    text = "".join(cut)
    expected, stopped = ended(text, stops)
    reading = Stops(stops)
    given_out, read = "", ""
    for piece in cut:
        given_out += reading.feed(piece)
        read += piece
        # What is given is never taken back, and nothing waits that no stop text could swallow.
        assert expected.startswith(given_out)
        if not reading.stopped:
            held = read[len(given_out) :]
            assert held == "" or any(stop.startswith(held) for stop in stops)
    assert reading.stopped == stopped
    assert given_out + reading.finish() == expected


@pytest.mark.parametrize(
    ("stops", "text", "kept"),
    [
        (["END"], "the END of it", "the "),
        (["END"], "the EN", "the EN"),
        (["aab"], "aaab", "a"),
        (["abab", "ba"], "xaba", "xa"),  # complete first
        (["bc", "abc"], "xabc", "x"),  # complete together: the longer
        (["\n\n"], "a\n\nb", "a"),
        (["世界"], "你好，世界。", "你好，"),
        (["x"], "x", ""),
    ],
    ids=["found", "begun", "again", "first", "longest", "lines", "chinese", "at once"],
)
def test_where_an_answer_ends(stops, text, kept):
    for size in (1, 2, 100):
        reading = Stops(stops)
        found = "".join(reading.feed(text[i : i + size]) for i in range(0, len(text), size))
        assert found + reading.finish() == kept


def test_nothing_comes_after_the_end():
    reading = Stops(["."])
    assert reading.feed("a.b") == "a"
    assert (reading.stopped, reading.feed("c"), reading.finish()) == (True, "", "")


def test_a_stop_text_that_is_empty_is_refused():
    with pytest.raises(InvalidInput, match="'stop': expected texts of at least one character"):
        Stops(["a", ""])


def test_a_long_hostile_stop_text_takes_a_step_a_character():
    """Text and stop text that agree for long, again and again, must not cost their product."""
    steps = 0

    class Counted(str):
        def __eq__(self, other):
            nonlocal steps
            steps += 1
            return str.__eq__(self, other)

        def __ne__(self, other):
            nonlocal steps
            steps += 1
            return str.__ne__(self, other)

        __hash__ = str.__hash__

    stop = "a" * 2000 + "b"
    reading = Stops([stop])
    [only] = reading._texts
    text = ("a" * 1500 + "c") * 10
    for character in text:
        only.step(Counted(character))
    assert only.read == 0
    assert len(text) <= steps <= 6 * len(text)
    assert reading.feed(text) == text
