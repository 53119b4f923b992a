"""SentencePiece vocabularies of GGUF files, as those of Llama 2 and the first Mistral.

Such a file has a score for each token and no list of merges: the pair whose token has the highest
score is merged first. Written as byte-pair merges in that order, the result is the same. Source:
`convert_slow_tokenizer.py` of Hugging Face's `transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"


def merges_of(tokens: Sequence[str], scores: Sequence[float]) -> list[list[str]]:
    """All pairs of tokens that make another, those of the highest score first."""
    score = dict(zip(tokens, scores, strict=True))
    found: list[tuple[float, list[str]]] = []
    for token in tokens:
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [(left, right) for left, right in halves if left in score and right in score]
        pairs.sort(key=lambda pair: (score[pair[0]], score[pair[1]]), reverse=True)
        found += [(score[token], list(pair)) for pair in pairs]
    found.sort(key=lambda entry: entry[0], reverse=True)
    return [pair for _, pair in found]


def parts_of(
    tokens: Sequence[str], scores: Sequence[float], unknown: str | None, *, opens_with_space: bool
) -> Mapping[str, Any]:
    """What differs of a `tokenizer.json`: how a text is prepared, merged, and put together again.

    Args:
        unknown: Stands for what has no token; the file has one for each byte, so that is rare.
        opens_with_space: Whether a text is read as if a space stood before it.
    """
    prepend = [{"type": "Prepend", "prepend": SPACE}] if opens_with_space else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if opens_with_space else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, spaces]},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges_of(tokens, scores),
        },
    }
