"""all-MiniLM-L6-v2: sentences to vectors whose dot product is their similarity.

Source: Reimers and Gurevych 2019, *Sentence-BERT*; the packaged file has 8-bit weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from aiaas_server.zoo import files

MODEL, TOKENIZER = files.MINILM, files.MINILM_TOKENIZER
FILES = (MODEL, TOKENIZER)
MAX_TOKENS = 128


def tokenizer() -> Tokenizer:
    """The model's tokenizer: at most 128 tokens, padded to the longest of a batch."""
    made: Tokenizer = Tokenizer.from_file(str(TOKENIZER.path))
    made.no_padding()
    made.enable_truncation(MAX_TOKENS)
    made.enable_padding()
    return made


def encode(tokenizer: Tokenizer, sentences: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """The model's three inputs, each `(sentences, tokens)` int64."""
    rows = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([r.ids for r in rows], np.int64),
        "attention_mask": np.array([r.attention_mask for r in rows], np.int64),
        "token_type_ids": np.array([r.type_ids for r in rows], np.int64),
    }


def pool(hidden: npt.NDArray[np.float32], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Mean over the unmasked tokens, then length 1: `(n, tokens, 384)` -> `(n, 384)`."""
    weights = mask[:, :, None].astype(np.float32)
    vectors = (hidden * weights).sum(1) / weights.sum(1)
    unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
