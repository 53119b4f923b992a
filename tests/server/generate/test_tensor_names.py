"""A graph that cannot be run token by token is refused by the name of what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.session import GraphFacts
from aiaas_server.core.signature import TensorSpec
from aiaas_server.generate.tensor_names import read_first, read_tensors


@dataclass
class Graph:
    """What a session tells of its graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    graph: GraphFacts = field(default_factory=GraphFacts)


WHOLE = (-1, -1)
KEYS = (-1, 2, -1, 16)
IDS = TensorSpec("input_ids", "INT64", WHOLE)
MASK = TensorSpec("attention_mask", "INT64", WHOLE)
PAST = TensorSpec("past_key_values.0.key", "FP16", KEYS)
PRESENT = TensorSpec("present.0.key", "FP16", KEYS)
LOGITS = TensorSpec("logits", "FP32", (-1, -1, 300))


def graph(
    *, inputs: Sequence[TensorSpec] = (IDS, MASK, PAST), outputs: Sequence[TensorSpec] = ()
) -> Graph:
    return Graph(tuple(inputs), tuple(outputs or (LOGITS, PRESENT)))


def test_what_a_graph_takes_is_found() -> None:
    found = read_tensors(graph())
    assert (found.vocabulary, found.token_bytes, found.keep_rank) == (300, 2 * 16 * 2, None)
    assert (found.ids, found.mask, found.positions) == (np.dtype("int64"), np.dtype("int64"), None)
    assert [(c.past, c.present) for c in found.caches] == [(PAST.name, PRESENT.name)]
    assert found.caches[0].empty(3).shape == (3, 2, 0, 16)
    assert not found.one_token


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            graph(inputs=[IDS, MASK]),
            "it has no input 'past_key_values.0.key'; got 'input_ids', 'attention_mask'",
        ),
        (graph(inputs=[MASK, PAST]), "it has no input 'input_ids'; got 'attention_mask', "),
        (graph(outputs=[PRESENT]), "it has no output 'logits'; got 'present.0.key'"),
        (graph(outputs=[LOGITS]), "it has no output 'present.0.key'; got 'logits'"),
        (
            graph(inputs=[IDS, PAST, TensorSpec("token_type_ids", "INT64", WHOLE)]),
            "input 'token_type_ids': nothing to give it; expected 'generation.constants' to name",
        ),
        (
            graph(inputs=[IDS, TensorSpec(PAST.name, "FP16", (-1, -1, 2, 16))]),
            r"input 'past_key_values.0.key': expected FP32 or FP16 of shape \(-1, heads, -1, head\)"
            r", got FP16 of shape \(-1, -1, 2, 16\)",
        ),
        (
            graph(inputs=[IDS, TensorSpec(PAST.name, "INT8", KEYS)]),
            "input 'past_key_values.0.key': expected FP32 or FP16 .* got INT8",
        ),
        (
            graph(inputs=[TensorSpec("input_ids", "FP32", WHOLE), PAST]),
            "input 'input_ids': expected INT64 of rank 2, got FP32",
        ),
        (
            graph(inputs=[IDS, PAST, TensorSpec("position_ids", "INT64", (3, -1, -1))]),
            "input 'position_ids': expected INT64 of rank 2, got INT64 of shape",
        ),
        (
            graph(inputs=[IDS, PAST, TensorSpec("num_logits_to_keep", "INT64", (-1, -1))]),
            r"input 'num_logits_to_keep': expected INT64 of shape \(\)",
        ),
        (
            graph(outputs=[PRESENT, TensorSpec("logits", "FP32", (-1, -1, -1))]),
            r"output 'logits': expected FP32 or FP16 of shape \(-1, -1, vocabulary\)",
        ),
    ],
    ids=[
        "no past",
        "no ids",
        "no logits",
        "no present",
        "unknown input",
        "open heads",
        "quantised keys",
        "ids of floats",
        "three positions",
        "keep of rank 2",
        "open vocabulary",
    ],
)
def test_what_is_missing_or_odd_is_named(found: Graph, message: str) -> None:
    with pytest.raises(LoadFailed, match=message):
        read_tensors(found)


def test_a_constant_that_the_graph_has_not_is_named() -> None:
    with pytest.raises(LoadFailed, match="it has no input 'hint'; got 'input_ids', "):
        read_tensors(graph(), ["hint"])


def test_the_graph_that_begins_gives_what_the_other_takes() -> None:
    later = read_tensors(graph())
    first = read_first(graph(inputs=[IDS, MASK]), later, [])
    assert first.caches == later.caches
    with pytest.raises(LoadFailed, match="it has no output 'present.0.key'; got 'logits'"):
        read_first(graph(inputs=[IDS], outputs=[LOGITS]), later, [])
    with pytest.raises(LoadFailed, match="input 'past_key_values.0.key': nothing to give it"):
        read_first(graph(), later, [])


def test_keys_of_an_encoder_are_given_by_the_first_run_alone() -> None:
    taken = TensorSpec("past_key_values.0.encoder.key", "FP32", KEYS)
    given = TensorSpec("present.0.encoder.key", "FP32", KEYS)
    with pytest.raises(LoadFailed, match="it has no output 'present.0.encoder.key'"):
        read_tensors(graph(inputs=[IDS, PAST, taken]))
    brought = read_tensors(graph(inputs=[IDS, PAST, taken]), [taken.name])
    assert (brought.fixed, brought.constants) == ((), (taken,))
    later = read_tensors(graph(inputs=[IDS, PAST, taken]), begins=False)
    assert [cache.past for cache in later.fixed] == [taken.name]
    with pytest.raises(LoadFailed, match="it has no output 'present.0.encoder.key'"):
        read_first(graph(inputs=[IDS]), later, [])
    first = graph(inputs=[IDS], outputs=[LOGITS, PRESENT, given])
    assert read_first(first, later, []).fixed == later.fixed
