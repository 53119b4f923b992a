"""Tiny checkpoints of the Llama family with random weights, saved as others save them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from aiaas_server.zoo.llama.config import LlamaConfig
from tests.tiny_llm import CONFIG, TEMPLATE, tokenizer_json, weights

Arrays = dict[str, npt.NDArray[np.float32]]

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
TINY = replace(CONFIG, context=64, theta=50_000.0, epsilon=1e-6)


def tensors_of(family: str, config: LlamaConfig = TINY, *, tied: bool = True) -> Arrays:
    """Random weights with what the family has besides: biases, norms of queries and keys."""
    found = weights(config, seed=3)
    random = np.random.default_rng(4)

    def vector(size: int, middle: float = 0.0) -> npt.NDArray[np.float32]:
        return (middle + 0.3 * random.standard_normal(size)).astype(np.float32)

    if not tied:
        shape = config.vocabulary, config.width
        found["lm_head.weight"] = (random.standard_normal(shape) / 8).astype(np.float32)
    for name in [n for n in found if n.endswith("norm.weight")]:
        found[name] = vector(config.width, 1.0)
    for layer in range(config.layers):
        name = f"model.layers.{layer}.self_attn"
        for part in "qkv" if family == "qwen2" else "":
            count = config.heads if part == "q" else config.kv_heads
            found[f"{name}.{part}_proj.bias"] = vector(count * config.head)
        for part in "qk" if family == "qwen3" else "":
            found[f"{name}.{part}_norm.weight"] = vector(config.head, 1.0)
    return found


def settings_of(family: str, config: LlamaConfig = TINY, **further: Any) -> dict[str, Any]:
    """The content of `config.json`."""
    return {
        "model_type": family,
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.inner,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head,
        "max_position_embeddings": config.context,
        "rope_theta": config.theta,
        "rms_norm_eps": config.epsilon,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "bos_token_id": 1,
        **further,
    }


def save_directory(
    directory: Path, family: str, tensors: Arrays, *, shards: int = 1, **settings: Any
) -> Path:
    """A directory as `save_pretrained` leaves it."""
    directory.mkdir(parents=True, exist_ok=True)
    content = settings_of(family, **settings)
    (directory / "config.json").write_text(json.dumps(content), "utf-8")
    (directory / "tokenizer.json").write_text(tokenizer_json(), "utf-8")
    (directory / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return directory
    names = sorted(tensors)
    places = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in names[shard::shards]}, directory / file)
        places |= dict.fromkeys(names[shard::shards], file)
    index = {"metadata": {}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return directory


_TO_GGUF = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permuted(rows: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """As llama.cpp's `LlamaModel.permute` writes queries and keys."""
    return (
        rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
        .swapaxes(1, 2)
        .reshape(rows.shape)
    )


def save_gguf(
    path: Path,
    architecture: str,
    tensors: Arrays,
    config: LlamaConfig = TINY,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    keys: dict[str, Any] | None = None,
) -> Path:
    """One file as llama.cpp's converter leaves it; `keys` set further numbers and texts."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.inner)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head)
    writer.add_rope_freq_base(config.theta)
    writer.add_layer_norm_rms_eps(config.epsilon)
    _add_words(writer)
    for key, value in (keys or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(key, value)
    for name, numbers in tensors.items():
        _add_tensor(writer, architecture, name, numbers, config, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensor(
    writer: gguf.GGUFWriter,
    architecture: str,
    name: str,
    numbers: npt.NDArray[np.float32],
    config: LlamaConfig,
    kind: gguf.GGMLQuantizationType,
) -> None:
    stem, _, last = name.rpartition(".")
    if stem.startswith("model.layers."):
        layer, _, part = stem.removeprefix("model.layers.").partition(".")
        heads = {"self_attn.q_proj": config.heads, "self_attn.k_proj": config.kv_heads}.get(part)
        if heads and architecture == "llama":
            numbers = permuted(numbers, heads)
        name = f"blk.{layer}.{_TO_GGUF[part]}.{last}"
    else:
        name = f"{_TO_GGUF.get(stem, stem)}.{last}"
    kind = kind if numbers.ndim == 2 else gguf.GGMLQuantizationType.F32
    writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)


def _add_words(writer: gguf.GGUFWriter) -> None:
    document = json.loads(tokenizer_json())
    numbers: dict[str, int] = document["model"]["vocab"]
    special = {token["id"] for token in document["added_tokens"]}
    tokens = sorted(numbers, key=numbers.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if number in special else 1 for number in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in document["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
