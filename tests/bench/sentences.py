"""Real sentences of mixed length: those of Python's own manual, which comes with it."""

from __future__ import annotations

import random
import re
from functools import cache
from pydoc_data.topics import topics

import inprocess
from zoo import minilm

SHORTEST, LONGEST = 5, 120
"""In tokens, with the two that the tokenizer adds."""

_ends = re.compile(r"(?<=[.!?])\s+(?=[A-Z])").split
_plain = re.compile(r"[A-Z][^|{}<>=_\\]{10,}[.!?:]").fullmatch


def feeds(count: int) -> list[inprocess.Feed]:
    """`count` sentences and paragraphs as MiniLM's inputs, each `(1, tokens)`, in mixed order."""
    found = _encoded()
    return [found[i % len(found)] for i in range(count)]


@cache
def _encoded() -> list[inprocess.Feed]:
    tokenizer = minilm.tokenizer()
    tokenizer.no_padding()
    texts = manual()
    random.Random(0).shuffle(texts)
    rows = (minilm.encode(tokenizer, [text]) for text in texts)
    return [row for row in rows if SHORTEST <= row["input_ids"].shape[1] <= LONGEST]


def manual() -> list[str]:
    """All of them, as text."""
    found: dict[str, None] = {}
    for page in topics.values():
        for paragraph in page.split("\n\n"):
            text = " ".join(paragraph.split())
            found.update(dict.fromkeys(filter(_plain, (text, *_ends(text)))))
    return list(found)
