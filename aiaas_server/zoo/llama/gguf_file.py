"""Checkpoints in llama.cpp's format: one file with measures, vocabulary and weights.

Weights of all its types are widened to float32 as they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.zoo.llama.checkpoint import Checkpoint, Weight
from aiaas_server.zoo.llama.config import Floats, LlamaConfig, UnusableCheckpoint, number_of
from aiaas_server.zoo.llama.gguf_tokens import begin_tokens, end_tokens, template_of, tokenizer_of

# Whether the rows of queries and keys have their rotary pairs side by side.
ARCHITECTURES: Final = {"llama": True, "qwen2": False, "qwen3": False}
OUTER: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER: Final = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Factors of relatives of the family, which the graph does not have.
SCALES: Final = ("attention.scale", "embedding_scale", "logit_scale", "residual_scale")
FREQUENCIES: Final = "rope_freqs.weight"


class Fields:
    """The file's settings, by key."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        self._fields = reader.fields
        self.architecture = self.text("general.architecture")

    def get(self, key: str) -> Any:
        """The value; None where there is none. `{}` stands for the architecture."""
        field = self._fields.get(key.format(self.architecture) if "{}" in key else key)
        return None if field is None else field.contents()

    def text(self, key: str) -> str:
        found = self.get(key)
        return found if isinstance(found, str) else ""

    def number(self, key: str, default: float | None = None) -> float:
        """As `number_of`, by its key."""
        return number_of(f"'{key.format(self.architecture)}'", self.get(key), default)

    def whole(self, key: str, default: int | None = None) -> int:
        return int(self.number(key, default))


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor of the file.

    Attributes:
        heads: That its rows are divided into, their pairs side by side; 0 for other tensors.
    """

    found: Any  # gguf.ReaderTensor, or one that a test makes
    heads: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in reversed(self.found.shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        numbers = gguf.quants.dequantize(self.found.data, self.found.tensor_type)
        numbers = numbers.reshape(self.shape).astype(dtype or np.float32, copy=False)
        return half_split(numbers, self.heads) if self.heads else numbers


def half_split(rows: Floats, heads: int) -> Floats:
    """Rows of each head from the order 0 0' 1 1' ... to 0 1 ... 0' 1' ..."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])  # (H, D / 2, 2, in)
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def read_gguf(path: Path) -> Checkpoint:
    """A checkpoint out of one file.

    Raises:
        UnusableCheckpoint: It is damaged, of another family, or lacks something, which is named.
    """
    try:
        reader = gguf.GGUFReader(path)
        fields = Fields(reader)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise UnusableCheckpoint(f"{path.name} is no whole GGUF file: {error}") from None
    _refuse_others(fields)
    config = _config(fields, tensors)
    sides = ARCHITECTURES[fields.architecture]
    return Checkpoint(
        config=config,
        weights=_weights(config, tensors, sides=sides),
        tokenizer=tokenizer_of(fields, config.vocabulary),
        template=template_of(fields),
        begin=begin_tokens(fields),
        end=end_tokens(fields),
        window=fields.whole("{}.attention.sliding_window", 0),
        licence=fields.text("general.license"),
    )


def _refuse_others(fields: Fields) -> None:
    if fields.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnusableCheckpoint(
            f"general.architecture: expected {known}, got '{fields.architecture}'"
        )
    if fields.get("{}.expert_count"):
        raise UnusableCheckpoint("mixtures of experts are not supported (expert_count)")
    for key in SCALES:
        if found := fields.get(f"{{}}.{key}"):
            raise UnusableCheckpoint(f"{key}: expected none, got {found}")
    scaling = fields.text("{}.rope.scaling.type")
    if scaling not in ("", "none", "linear"):
        raise UnusableCheckpoint(f"rope.scaling.type: expected none or linear, got '{scaling}'")


def _config(fields: Fields, tensors: dict[str, Any]) -> LlamaConfig:
    width, heads = fields.whole("{}.embedding_length"), fields.whole("{}.attention.head_count")
    head = fields.whole("{}.attention.key_length", width // max(heads, 1))
    turned = fields.whole("{}.rope.dimension_count", head)
    if turned != head:
        raise UnusableCheckpoint(f"rope.dimension_count: expected all of {head}, got {turned}")
    if (embedding := tensors.get("token_embd.weight")) is None:
        raise UnusableCheckpoint("tensor 'token_embd.weight' is missing")
    return LlamaConfig(
        vocabulary=_Tensor(embedding).shape[0],
        width=width,
        inner=fields.whole("{}.feed_forward_length"),
        layers=fields.whole("{}.block_count"),
        heads=heads,
        kv_heads=fields.whole("{}.attention.head_count_kv", heads),
        head=head,
        context=fields.whole("{}.context_length"),
        theta=fields.number("{}.rope.freq_base", 10_000.0),
        epsilon=fields.number("{}.attention.layer_norm_rms_epsilon"),
        slower=_slower(fields, tensors, head // 2),
    )


def _slower(fields: Fields, tensors: dict[str, Any], half: int) -> tuple[float, ...]:
    if FREQUENCIES in tensors:  # as Llama 3 has them
        return tuple(np.asarray(_Tensor(tensors[FREQUENCIES]), np.float32).tolist())
    factor = fields.number("{}.rope.scaling.factor", 1.0)
    plain = fields.text("{}.rope.scaling.type") == "none" or factor in (0.0, 1.0)
    return () if plain else (factor,) * half  # where no type is told, it is linear


def _weights(config: LlamaConfig, tensors: dict[str, Any], *, sides: bool) -> dict[str, Weight]:
    heads = {"attn_q": config.heads, "attn_k": config.kv_heads} if sides else {}
    weights: dict[str, Weight] = {}
    for name, tensor in tensors.items():
        if name == FREQUENCIES:
            continue
        block, _, rest = name.removeprefix("blk.").partition(".")
        part, _, kind = rest.rpartition(".")
        if name.startswith("blk.") and part in INNER:
            to = f"model.layers.{block}.{INNER[part]}.{kind}"
            weights[to] = _Tensor(tensor, heads.get(part, 0))
        else:
            weights[OUTER.get(name, name)] = _Tensor(tensor)
    return weights
