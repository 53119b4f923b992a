"""Answers of a model that knows nothing: random logits, kept to a format by its masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from aiaas_server.generate.constraint import Matcher, words
from tests.tiny_llm import CONFIG, tokenizer_json

ENDS = (0, 2)
_TOKENIZER = Tokenizer.from_str(tokenizer_json())
# Without a liking for what closes, few documents would ever finish.
_LIKED = np.zeros(CONFIG.vocabulary)
for _text, _liking in (('"', 4.0), ("}", 4.0), ("]", 4.0), ("[", -2.0), ("{", -2.0)):
    _LIKED[_TOKENIZER.token_to_id(_text)] = _liking


class Answer(NamedTuple):
    tokens: tuple[int, ...]
    finished: bool
    failed: bool

    @property
    def text(self) -> str:
        content = [token for token in self.tokens if token not in ENDS]
        return str(_TOKENIZER.decode(content, skip_special_tokens=False))


def permitted(matcher: Matcher) -> list[int]:
    """The tokens that may come next."""
    masks = np.zeros((1, words(CONFIG.vocabulary)), np.int32)
    matcher.fill(masks, 0)
    bits = np.unpackbits(masks.view(np.uint8), bitorder="little", count=CONFIG.vocabulary)
    return [int(token) for token in np.flatnonzero(bits)]


def write(matcher: Matcher, seed: int, most: int = 200) -> Answer:
    """Draw until the matcher is over, an end is drawn, or `most` tokens are there."""
    random = np.random.default_rng(seed)
    tokens: list[int] = []
    while len(tokens) < most and not matcher.is_over:
        may = permitted(matcher)
        if matcher.failure is not None:
            return Answer(tuple(tokens), False, True)
        logits = random.gumbel(size=CONFIG.vocabulary) + _LIKED
        token = max(may, key=lambda one: logits[one])
        if not matcher.accept(token):
            return Answer(tuple(tokens), False, True)
        tokens.append(token)
        if token in ENDS:
            break
    ended = bool(tokens) and tokens[-1] in ENDS
    return Answer(tuple(tokens), matcher.is_over or ended, False)


def encode(text: str) -> list[int]:
    return list(_TOKENIZER.encode(text, add_special_tokens=False).ids)
