"""Hashed n-grams: those of the formula, whatever characters a text has."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.tasks.ngrams import hashed_ids, tables_for

PIECES = st.sampled_from(["a", "é", "\u07ff", "\u0800", "评", "\uffff", "😀", " ", "\n", "ab 好"])
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=12
)


def by_formula(text: str, ngrams: tuple[int, ...], buckets: int) -> list[int]:
    text = " ".join(text.split())
    grams = {text[i : i + n] for n in ngrams for i in range(len(text) - n + 1)}
    return sorted({1 + zlib.crc32(gram.encode()) % (buckets - 1) for gram in grams})


@given(
    text=TEXTS,
    ngrams=st.sampled_from([(1,), (2,), (1, 2), (2, 1), (3,), (1, 2, 3), (5, 2), (9,)]),
    buckets=st.sampled_from([2, 101, 65536, 1 << 32]),
)
def test_the_ids_are_those_of_the_formula(text: str, ngrams: tuple[int, ...], buckets: int) -> None:
    assert hashed_ids(text, ngrams, buckets).tolist() == by_formula(text, ngrams, buckets)


@pytest.mark.parametrize(("ngrams", "has_tables"), [((1, 2), True), ((6,), True), ((7,), False)])
def test_tables_are_made_of_short_grams_only(ngrams: tuple[int, ...], has_tables: bool) -> None:
    assert (tables_for(ngrams) is not None) is has_tables
