"""A language model of a few thousand random weights: a real graph, a real tokenizer, no sense.

Its answers are nonsense that is the same each time, so that whatever the scheduler does can be held
against decoding one by one.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from aiaas_server.zoo.llama.graph import Cache, LlamaConfig, build

CONFIG = LlamaConfig(
    vocabulary=384, width=64, inner=96, layers=2, heads=4, kv_heads=2, head=16, context=1024
)
END = "<|im_end|>"
BEGIN = "<|im_start|>"
SPECIAL = ("<|endoftext|>", BEGIN, END)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = (
    "the quick brown fox jumps over the lazy dog and the river runs to the sea",
    "a model reads tokens and writes tokens, one after another, until it ends",
    "你好，世界。这是一个小模型。 ¿Qué tal? Grüße aus Köln! \N{GRINNING FACE}",
    '{"name": "Ada", "age": 36, "tags": ["a", "b"], "ok": true, "none": null}',
)


@cache
def tokenizer_json() -> str:
    """A byte-level BPE over a few sentences, with the three special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT * 4, trainer)
    return tokenizer.to_str()


def weights(config: LlamaConfig = CONFIG, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Random weights by the names of Hugging Face's checkpoints."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) * columns**-0.5 * 2).astype(np.float32)

    found = {"model.embed_tokens.weight": matrix(config.vocabulary, config.width)}
    one = np.ones(config.width, np.float32)
    for layer in range(config.layers):
        name = f"model.layers.{layer}"
        for part, rows in (("q", config.heads), ("k", config.kv_heads), ("v", config.kv_heads)):
            found[f"{name}.self_attn.{part}_proj.weight"] = matrix(rows * config.head, config.width)
        found[f"{name}.self_attn.o_proj.weight"] = matrix(config.width, config.heads * config.head)
        for part in ("gate", "up"):
            found[f"{name}.mlp.{part}_proj.weight"] = matrix(config.inner, config.width)
        found[f"{name}.mlp.down_proj.weight"] = matrix(config.width, config.inner)
        found[f"{name}.input_layernorm.weight"] = one
        found[f"{name}.post_attention_layernorm.weight"] = one
    found["model.norm.weight"] = one
    return found


@cache
def model_bytes(kept: Cache = "shared") -> bytes:
    """The ONNX file."""
    content: bytes = build(CONFIG, weights(), kept).SerializeToString()
    return content


def card(**generation: Any) -> dict[str, Any]:
    """`model.json`, with what the tests want different."""
    settings = {"context": CONFIG.context, "end": [0, 2], **generation}
    return {"task": "text-generation", "licence": "CC0-1.0", "generation": settings}


def write_model(
    repository: Path, name: str = "tiny", *, kept: Cache = "shared", **generation: Any
) -> Path:
    """Put a bundle into a repository; gives the directory of its version 1."""
    directory = repository / name / "1"
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(model_bytes(kept))
    (directory / "tokenizer.json").write_text(tokenizer_json(), "utf-8")
    (directory / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    (directory / "model.json").write_text(json.dumps(card(**generation)), "utf-8")
    return directory
