"""The words of a GGUF file: a `tokenizer.json`, the template of conversations, special tokens.

Byte-level BPE is rebuilt here, SentencePiece in `gguf_sentencepiece`. How a text is cut before
merging is known by a name in the file; the patterns are those of llama.cpp's `llm_load_vocab`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from aiaas_server.zoo.llama.config import UnusableCheckpoint
from aiaas_server.zoo.llama.gguf_sentencepiece import parts_of

# Names of tokens that end an answer, whichever of them the file calls its own.
ENDS: Final = frozenset(
    {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "</s>"}
)
UNKNOWN, CONTROL, ADDED, UNUSED = 2, 3, 4, 5  # types of tokens

_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS: Final = {"type": "Digits", "individual_digits": True}


def _split(pattern: str) -> dict[str, Any]:
    found = {"Regex": pattern}
    return {"type": "Split", "pattern": found, "behavior": "Isolated", "invert": False}


def _byte_level(*, words: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": words,
    }


# `tokenizer.ggml.pre` -> how a text is cut
CUTS: Final[dict[str, list[dict[str, Any]]]] = {
    "": [_byte_level(words=True)],
    "default": [_byte_level(words=True)],
    "gpt-2": [_byte_level(words=True)],
    "smollm": [_DIGITS, _byte_level(words=True)],
    "llama-bpe": [_split(_WORDS % r"\p{N}{1,3}"), _byte_level(words=False)],
    "qwen2": [_split(_WORDS % r"\p{N}"), _byte_level(words=False)],
}


class GgufFields(Protocol):
    def get(self, key: str) -> Any: ...
    def text(self, key: str) -> str: ...


def tokenizer_of(fields: GgufFields, vocabulary: int) -> str:
    """The text of a `tokenizer.json`.

    Raises:
        UnusableCheckpoint: Another kind of tokenizer, or more tokens than the model has rows.
    """
    kind = fields.text("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise UnusableCheckpoint(
            f"tokenizer.ggml.model: expected gpt2 (byte-level BPE) or llama (SentencePiece), "
            f"got '{kind}'"
        )
    tokens = _texts(fields, "tokens")
    if len(tokens) > vocabulary:
        raise UnusableCheckpoint(
            f"tokenizer.ggml.tokens: expected at most the {vocabulary} that the model has, "
            f"got {len(tokens)}"
        )
    types = _numbers(fields, "token_type", tokens) or [1] * len(tokens)
    parts = _byte_pairs(fields, tokens) if kind == "gpt2" else _pieces(fields, tokens, types)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(tokens, types),
        "post_processor": None,
        **parts,
    }
    return json.dumps(document, ensure_ascii=False)


def _byte_pairs(fields: GgufFields, tokens: Sequence[str]) -> Mapping[str, Any]:
    cut = fields.text("tokenizer.ggml.pre")
    if cut not in CUTS:
        known = ", ".join(name for name in CUTS if name)
        raise UnusableCheckpoint(f"tokenizer.ggml.pre: expected one of {known}; got '{cut}'")
    return {
        # Qwen's texts are composed before they are cut.
        "normalizer": {"type": "NFC"} if cut == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": CUTS[cut]},
        "decoder": _byte_level(words=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": cut == "llama-bpe",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [_pair(merge) for merge in _texts(fields, "merges")],
        },
    }


def _pieces(fields: GgufFields, tokens: Sequence[str], types: Sequence[float]) -> Mapping[str, Any]:
    scores = _numbers(fields, "scores", tokens)
    if scores is None:
        raise UnusableCheckpoint("'tokenizer.ggml.scores' is missing")
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    opens = fields.get("tokenizer.ggml.add_space_prefix")
    return parts_of(tokens, scores, unknown, opens_with_space=opens is not False)


def template_of(fields: GgufFields) -> str:
    """The template of conversations, with the special texts it names set in front."""
    tokens = fields.get("tokenizer.ggml.tokens") or []
    texts = {}
    for word in ("bos", "eos"):
        number = fields.get(f"tokenizer.ggml.{word}_token_id")
        if isinstance(number, int) and 0 <= number < len(tokens):
            texts[f"{word}_token"] = tokens[number]
    return with_texts(fields.text("tokenizer.chat_template"), texts)


def with_texts(template: str, texts: dict[str, str]) -> str:
    """Set the variables of a template that are texts of special tokens, where it uses them."""
    set_first = "".join(
        f"{{%- set {name} = {json.dumps(text, ensure_ascii=False)} -%}}"
        for name, text in texts.items()
        if name in template
    )
    return set_first + template


def begin_tokens(fields: GgufFields) -> tuple[int, ...]:
    """The token that opens every text, where the file says that one does."""
    number = fields.get("tokenizer.ggml.bos_token_id")
    opens = fields.get("tokenizer.ggml.add_bos_token")
    if opens is None:  # then llama.cpp goes by the kind of the tokenizer
        kinds = fields.text("tokenizer.ggml.model"), fields.text("tokenizer.ggml.pre")
        opens = kinds[0] == "llama" or kinds[1] == "llama-bpe"
    return (number,) if opens and isinstance(number, int) else ()


def end_tokens(fields: GgufFields) -> tuple[int, ...]:
    """All tokens that end an answer: those that the file names, and known ones it has."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    named = [fields.get(f"tokenizer.ggml.{key}") for key in keys]
    tokens = fields.get("tokenizer.ggml.tokens") or []
    types = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    known = [
        number
        for number, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind == CONTROL and token in ENDS
    ]
    return tuple(dict.fromkeys([n for n in named if isinstance(n, int)] + known))


def _texts(fields: GgufFields, name: str) -> list[str]:
    found = fields.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise UnusableCheckpoint(f"'tokenizer.ggml.{name}': expected a list of texts")
    return found


def _numbers(fields: GgufFields, name: str, tokens: Sequence[str]) -> list[float] | None:
    """A number for each token; None where the file has none."""
    found = fields.get(f"tokenizer.ggml.{name}")
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != len(tokens):
        raise UnusableCheckpoint(f"'tokenizer.ggml.{name}': expected {len(tokens)} numbers")
    return found


def _added(tokens: Sequence[str], types: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != ADDED,
        }
        for number, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind in (UNKNOWN, CONTROL, ADDED, UNUSED)
    ]


def _pair(merge: str) -> list[str]:
    left, _, right = merge.partition(" ")
    return [left, right]
