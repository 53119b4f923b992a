"""Checkpoints as Hugging Face's libraries save them: a directory with `config.json`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from aiaas_server.zoo.llama.checkpoint import Checkpoint
from aiaas_server.zoo.llama.config import (
    LlamaConfig,
    UnusableCheckpoint,
    llama3_slower,
    number_of,
)
from aiaas_server.zoo.llama.gguf_tokens import with_texts
from aiaas_server.zoo.llama.safetensors_file import read_tensors

FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")
# Settings that must have this value, because the graph knows no other.
DEMANDED: Final = {
    "hidden_act": "silu",
    "quantization_config": None,
    "partial_rotary_factor": 1.0,
    "use_parallel_residual": False,
    "num_local_experts": 0,
    "num_experts": 0,
}
CHOICES: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class _Settings:
    """A JSON file of a directory, an empty one where there is none."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.values: dict[str, Any] = {}
        if not path.is_file():
            return
        try:
            values = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise UnusableCheckpoint(f"{path.name} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise UnusableCheckpoint(f"{path.name}: expected an object")
        self.values = values

    def number(self, key: str, default: float | None = None) -> float:
        return number_of(f"{self.name}: '{key}'", self.values.get(key), default)

    def whole(self, key: str, default: int | None = None) -> int:
        return int(self.number(key, default))

    def tokens(self, key: str) -> list[int]:
        """One token or a list of them; none where the key is missing."""
        found = self.values.get(key)
        listed = found if isinstance(found, list) else [found]
        return [token for token in listed if isinstance(token, int)]


def read_directory(directory: Path) -> Checkpoint:
    """A checkpoint out of a directory.

    Raises:
        UnusableCheckpoint: A file is missing or damaged, or the network is of a kind that the
            graph is not; named.
    """
    settings = _Settings(directory / "config.json")
    if not settings.values:
        raise UnusableCheckpoint(f"expected config.json in {directory.name}")
    _refuse_others(settings)
    weights = read_tensors(directory)
    if settings.values.get("tie_word_embeddings"):
        weights.pop("lm_head.weight", None)
    elif "lm_head.weight" not in weights:
        raise UnusableCheckpoint("tensor 'lm_head.weight' is missing, and embeddings are not tied")
    for name in [name for name in weights if name.endswith("rotary_emb.inv_freq")]:
        del weights[name]  # older files keep what follows from the settings
    tokenizer = _text(directory, "tokenizer.json")
    chosen = _Settings(directory / "generation_config.json")
    words = _Settings(directory / "tokenizer_config.json")
    return Checkpoint(
        config=_config(settings),
        weights=weights,
        tokenizer=tokenizer,
        template=_template(directory, words),
        begin=_begin(tokenizer, settings, words),
        end=tuple(dict.fromkeys(chosen.tokens("eos_token_id") + settings.tokens("eos_token_id"))),
        window=_window(settings),
        defaults=_defaults(chosen),
    )


def _refuse_others(settings: _Settings) -> None:
    if (family := settings.values.get("model_type")) not in FAMILIES:
        raise UnusableCheckpoint(
            f"config.json: model_type: expected {', '.join(FAMILIES)}; got {family!r}"
        )
    for key, value in DEMANDED.items():
        found = settings.values.get(key)
        if found and found != value:
            shown = "quantised weights" if isinstance(found, dict) else repr(found)
            raise UnusableCheckpoint(f"config.json: {key}: expected {value!r}, got {shown}")


def _config(settings: _Settings) -> LlamaConfig:
    width, heads = settings.whole("hidden_size"), settings.whole("num_attention_heads")
    rope = {
        **(settings.values.get("rope_scaling") or {}),
        **(settings.values.get("rope_parameters") or {}),  # where transformers 5 has it
    }
    if nested := [key for key, value in rope.items() if isinstance(value, dict)]:
        raise UnusableCheckpoint(f"config.json: rope_parameters: layers differ ({nested[0]})")
    base = float(rope.get("rope_theta") or settings.number("rope_theta", 10_000.0))
    head = settings.whole("head_dim", width // max(heads, 1))
    config = LlamaConfig(
        vocabulary=settings.whole("vocab_size"),
        width=width,
        inner=settings.whole("intermediate_size"),
        layers=settings.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=settings.whole("num_key_value_heads", heads),
        head=head,
        context=settings.whole("max_position_embeddings"),
        theta=base,
        epsilon=settings.number("rms_norm_eps", 1e-6),
    )
    return _stretched(config, rope)


def _stretched(config: LlamaConfig, rope: dict[str, Any]) -> LlamaConfig:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return config
    try:
        if kind == "linear":
            return replace(config, slower=(float(rope["factor"]),) * (config.head // 2))
        if kind == "llama3":
            slower = llama3_slower(
                config,
                float(rope["factor"]),
                float(rope["low_freq_factor"]),
                float(rope["high_freq_factor"]),
                int(rope["original_max_position_embeddings"]),
            )
            return replace(config, slower=slower)
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableCheckpoint(f"config.json: rope_scaling of type {kind}: {error}") from None
    raise UnusableCheckpoint(
        f"config.json: rope_scaling: expected default, linear or llama3; got {kind!r}"
    )


def _window(settings: _Settings) -> int:
    if settings.values.get("use_sliding_window") is False:
        return 0
    return settings.whole("sliding_window", 0)


def _text(directory: Path, name: str) -> str:
    try:
        return (directory / name).read_text("utf-8")
    except FileNotFoundError:
        raise UnusableCheckpoint(f"expected {name} in {directory.name}") from None
    except UnicodeDecodeError:
        raise UnusableCheckpoint(f"{name} is not UTF-8 text") from None


def _template(directory: Path, words: _Settings) -> str:
    template = words.values.get("chat_template") or ""
    if (directory / "chat_template.jinja").is_file():
        template = _text(directory, "chat_template.jinja")
    if isinstance(template, list):  # several by name
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default") or ""
    texts = {}
    for key in ("bos_token", "eos_token"):
        found = words.values.get(key)
        text = found.get("content") if isinstance(found, dict) else found
        if isinstance(text, str):
            texts[key] = text
    return with_texts(str(template), texts)


def _begin(tokenizer: str, settings: _Settings, words: _Settings) -> tuple[int, ...]:
    """The tokens that this tokenizer puts before a text."""
    opens = words.values.get("add_bos_token")
    if opens is False:
        return ()
    try:
        opening = _opening(json.loads(tokenizer).get("post_processor"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableCheckpoint(f"tokenizer.json is no tokenizer: {error}") from None
    return opening or (tuple(settings.tokens("bos_token_id")[:1]) if opens else ())


def _opening(processor: Any) -> tuple[int, ...]:
    """The special tokens that a post-processor's template for one text begins with."""
    if not isinstance(processor, dict):
        return ()
    if processor["type"] == "Sequence":
        parts = [_opening(part) for part in processor["processors"]]
        return next(filter(None, parts), ())
    if processor["type"] != "TemplateProcessing":
        return ()
    found: list[int] = []
    for piece in processor["single"]:
        if "SpecialToken" not in piece:
            break
        found += processor["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return tuple(found)


def _defaults(chosen: _Settings) -> dict[str, float]:
    found = {key: chosen.values.get(key) for key in CHOICES}
    if chosen.values.get("do_sample") is False:
        found |= {"temperature": 0.0}
    return {
        key: value
        for key, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
