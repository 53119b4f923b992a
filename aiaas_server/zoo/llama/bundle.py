"""A checkpoint as a bundle: graph, weights beside it, tokenizer, template, card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from aiaas_server.zoo.entry import Bundle, LargeFile
from aiaas_server.zoo.llama.checkpoint import Checkpoint
from aiaas_server.zoo.llama.config import UnusableCheckpoint
from aiaas_server.zoo.llama.graph import build_outside, cache_for
from aiaas_server.zoo.llama.projections import Precision

WEIGHTS: Final = "model.onnx.data"

# What in a template shows the format in which a model writes its calls of tools.
TOOL_MARKS: Final = {
    "<tool_call>": "hermes",
    "[TOOL_CALLS]": "mistral",
    "<|python_tag|>": "llama3",
}


def make_bundle(
    name: str,
    checkpoint: Checkpoint,
    *,
    precision: Precision = "float32",
    context: int = 0,
    tools: str = "",
    card: Mapping[str, Any] | None = None,
    assets: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Make the bundle; weights are read when it is written.

    Args:
        context: Most tokens, prompt and answer together; 0 is what the checkpoint allows.
        tools: The form in which it writes calls; "" for the one that its template shows, if any.
        card: Further content of the card.
        assets: Further files.
    Raises:
        UnusableCheckpoint: A tensor is missing or wrong, or `context` is more than the model has.
    """
    config = replace(checkpoint.config, context=_context(checkpoint, context))
    cache = cache_for(config)
    graph, size, chunks = build_outside(config, checkpoint.weights, cache, precision, WEIGHTS)
    words = {"tokenizer.json": checkpoint.tokenizer.encode()}
    if checkpoint.template:
        words["chat_template.jinja"] = checkpoint.template.encode()
    content = {
        "task": "text-generation",
        **(card or {}),
        "generation": _generation(checkpoint, config.context, tools),
    }
    model: bytes = graph.SerializeToString(deterministic=True)
    weights = {WEIGHTS: LargeFile(size, chunks)}
    return Bundle(name, model, content, {**words, **(assets or {})}, weights=weights)


def _context(checkpoint: Checkpoint, asked: int) -> int:
    most = checkpoint.config.context
    if checkpoint.window:  # within its window a layer that slides sees all, as ours do
        most = min(most, checkpoint.window)
    if asked > most:
        kind = "sliding window" if most == checkpoint.window else "context"
        raise UnusableCheckpoint(
            f"context: expected at most the model's {kind} of {most}, got {asked}"
        )
    return asked or most


def _generation(checkpoint: Checkpoint, context: int, tools: str) -> dict[str, Any]:
    template = checkpoint.template
    shown = next((name for mark, name in TOOL_MARKS.items() if mark in template), "")
    found: dict[str, Any] = {"context": context, "end": list(checkpoint.end)}
    if checkpoint.begin:
        found["begin"] = list(checkpoint.begin)
    if not template:
        found["template"] = ""
    if tools or shown:
        found["tools"] = tools or shown
    if checkpoint.defaults:
        found["defaults"] = dict(checkpoint.defaults)
    return found
