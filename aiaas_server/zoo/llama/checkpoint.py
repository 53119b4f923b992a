"""A language model as it was found: its measures, its weights, its words.

Weights are named as in Hugging Face's checkpoints, projections are `(out, in)`, and the rows of
queries and keys are in the half-split order of rotary positions. They are read when asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt

from aiaas_server.zoo.llama.config import LlamaConfig, UnusableCheckpoint


class Weight(Protocol):
    """An array, or what reads one: `np.asarray(weight, np.float32)` gives the numbers."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]: ...


Weights = Mapping[str, Weight]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model.

    Attributes:
        tokenizer: The text of a `tokenizer.json`.
        template: Of conversations, in Jinja; "" for a model that has none.
        begin: Tokens put before every prompt that is plain text.
        end: Tokens that end an answer.
        window: Tokens that a layer sees; 0 where it sees all of them.
        licence: As the checkpoint tells it.
        defaults: How tokens are chosen where a request does not say.
    """

    config: LlamaConfig
    weights: Weights
    tokenizer: str
    template: str = ""
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    window: int = 0
    licence: str = ""
    defaults: Mapping[str, float] = field(default_factory=dict)


def expected(config: LlamaConfig, weights: Weights) -> dict[str, tuple[int, ...]]:
    """The tensors of such a network, by name, with those options that the weights show.

    Biases and norms of queries and keys are options; so is an output projection of its own.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocabulary, config.width),
        "model.norm.weight": (config.width,),
    }
    if "lm_head.weight" in weights:
        shapes["lm_head.weight"] = (config.vocabulary, config.width)
    for layer in range(config.layers):
        for name, shape in _of_layer(config):
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
            if len(shape) == 2 and f"model.layers.{layer}.{name}.bias" in weights:
                shapes[f"model.layers.{layer}.{name}.bias"] = shape[:1]
        for part in ("q", "k"):
            name = f"model.layers.{layer}.self_attn.{part}_norm.weight"
            if name in weights:
                shapes[name] = (config.head,)
    return shapes


def _of_layer(config: LlamaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    asking, asked = config.heads * config.head, config.kv_heads * config.head
    yield "input_layernorm", (config.width,)
    yield "post_attention_layernorm", (config.width,)
    yield "self_attn.q_proj", (asking, config.width)
    yield "self_attn.k_proj", (asked, config.width)
    yield "self_attn.v_proj", (asked, config.width)
    yield "self_attn.o_proj", (config.width, asking)
    yield "mlp.gate_proj", (config.inner, config.width)
    yield "mlp.up_proj", (config.inner, config.width)
    yield "mlp.down_proj", (config.width, config.inner)


def check_weights(config: LlamaConfig, weights: Weights) -> None:
    """See that all tensors are there, of the right shape, and none besides.

    A tensor that the graph would leave out is part of another kind of network.

    Raises:
        UnusableCheckpoint: The first that is wrong, by name.
    """
    shapes = expected(config, weights)
    for name, shape in shapes.items():
        if name not in weights:
            raise UnusableCheckpoint(f"tensor '{name}': expected {shape}, and it is missing")
        if (found := tuple(weights[name].shape)) != shape:
            raise UnusableCheckpoint(f"tensor '{name}': expected {shape}, got {found}")
    if further := sorted(set(weights) - set(shapes)):
        raise UnusableCheckpoint(
            f"tensor '{further[0]}' is no part of a Llama, Mistral, Qwen2 or Qwen3 network"
        )
