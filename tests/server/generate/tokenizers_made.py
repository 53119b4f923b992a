"""Tokenizers of the other family: SentencePiece's way of writing spaces and bytes."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

WORDS = (
    "▁the",
    "▁fox",
    "▁runs",
    "▁世界",
    "▁",
    "the",
    "th",
    "e",
    "t",
    "h",
    "o",
    "x",
    "f",
    "世",
    "界",
)


@cache
def byte_fallback_json() -> str:
    """As Llama 2 and Mistral have it: `▁` for spaces, `<0x0A>` for bytes that no token covers."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    tokenizer = Tokenizer(
        models.BPE(
            {name: place for place, name in enumerate(names)},
            [("t", "h"), ("th", "e"), ("▁", "the")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return tokenizer.to_str()


@cache
def metaspace_json() -> str:
    """As T5 and NLLB have it: pieces of a unigram model."""
    words = [(word, -float(place)) for place, word in enumerate(WORDS, 1)]
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *words]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return tokenizer.to_str()


def changed(definition: str, **members: object) -> str:
    """A `tokenizer.json` with other members."""
    return json.dumps({**json.loads(definition), **members})
