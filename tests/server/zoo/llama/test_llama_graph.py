"""The graph says what the network says, for each family, form and precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from aiaas_server.runtimes.onnx import open_session
from aiaas_server.zoo.llama.checkpoint import Checkpoint
from aiaas_server.zoo.llama.config import LlamaConfig, UnusableCheckpoint, llama3_slower, rotary
from aiaas_server.zoo.llama.graph import Cache, build, cache_for
from aiaas_server.zoo.llama.parity import compare
from aiaas_server.zoo.llama.projections import Precision
from aiaas_server.zoo.llama.reference import forward
from tests.llama_checkpoints import FAMILIES, TINY, tensors_of

CACHES: tuple[Cache, ...] = ("shared", "separate")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_the_logits_of_the_network(family: str, cache: Cache, tied: bool) -> None:
    tensors = tensors_of(family, tied=tied)
    graph = build(TINY, tensors, cache)
    onnx.checker.check_model(graph, full_check=True)
    found = compare(open_session(graph.SerializeToString()), Checkpoint(TINY, tensors, ""), 64)
    assert found.difference < 1e-5
    assert found.agreed == 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_has_besides_changes_its_logits(family: str) -> None:
    """Or the test above would not see that it is left out."""
    plain = forward(TINY, tensors_of("llama"), range(20))
    changed = np.abs(forward(TINY, tensors_of(family), range(20)) - plain).max() > 0.1
    assert changed == (family in ("qwen2", "qwen3"))


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    ("precision", "most"), [("float16", 2e-3), ("int8", 0.1)], ids=["float16", "int8"]
)
def test_smaller_weights_give_nearly_the_same_logits(
    precision: Precision, most: float, cache: Cache
) -> None:
    tensors = tensors_of("qwen2", tied=False)
    model = build(TINY, tensors, cache, precision)
    onnx.checker.check_model(model, full_check=True)
    graph = model.SerializeToString()
    whole = build(TINY, tensors, cache).SerializeToString()
    assert len(graph) < 0.85 * len(whole)  # names and tables are much of so small a model
    found = compare(open_session(graph), Checkpoint(TINY, tensors, ""), 64)
    assert 0 < found.difference < most


@pytest.mark.parametrize("cache", CACHES)
def test_a_stretched_context_turns_slower(cache: Cache) -> None:
    slower = llama3_slower(TINY, 8.0, 1.0, 4.0, 16)
    stretched = replace(TINY, slower=slower)
    tensors = tensors_of("llama")
    session = open_session(build(stretched, tensors, cache).SerializeToString())
    assert compare(session, Checkpoint(stretched, tensors, ""), 64).difference < 1e-5
    assert compare(session, Checkpoint(TINY, tensors, ""), 64).difference > 1e-3


def test_llama3_divides_long_waves_only() -> None:
    """Against the rule as Meta's reference code has it, wave by wave."""
    factor, low, high, original = 32.0, 1.0, 4.0, 8192
    config = replace(TINY, head=64, theta=500_000.0)
    slower = llama3_slower(config, factor, low, high, original)
    for i, divisor in enumerate(slower):
        wave = 2 * np.pi * 500_000.0 ** (2 * i / 64)
        if wave < original / high:
            expected = 1.0
        elif wave > original / low:
            expected = factor
        else:
            smooth = (original / wave - low) / (high - low)
            expected = 1 / ((1 - smooth) / factor + smooth)
        assert divisor == pytest.approx(expected)
    assert {slower[0], slower[-1]} == {1.0, factor}


def test_positions_turn_as_they_should() -> None:
    cos, sin = rotary(replace(TINY, head=4, theta=100.0, context=3))
    angles = np.array([[0, 0], [1, 0.1], [2, 0.2]])
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-7)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-7)


def test_heads_that_the_operator_does_not_take_get_the_other_form() -> None:
    assert cache_for(TINY) == "shared"
    assert cache_for(replace(TINY, head=24)) == "separate"


def test_a_shared_cache_is_seen_in_the_graph() -> None:
    tensors = tensors_of("llama")
    graphs = [build(TINY, tensors, cache).SerializeToString() for cache in CACHES]
    assert [open_session(graph).graph.shared_cache for graph in graphs] == [True, False]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("model.norm.weight", None, r"tensor 'model.norm.weight': expected \(64,\), and it is"),
        (
            "model.layers.1.mlp.up_proj.weight",
            np.zeros((64, 96), np.float32),
            r"'model.layers.1.mlp.up_proj.weight': expected \(96, 64\), got \(64, 96\)",
        ),
        (
            "model.layers.0.self_attn.sinks",
            np.zeros(4, np.float32),
            "tensor 'model.layers.0.self_attn.sinks' is no part of a Llama",
        ),
        (
            "model.layers.0.self_attn.q_proj.bias",
            np.zeros(64, np.float32),
            "expected biases for all of model.layers.0.self_attn.q_proj, .*, or for none",
        ),
    ],
    ids=["missing", "shape", "unknown", "one bias"],
)
def test_tensors_that_are_wrong_are_named(name: str, value: np.ndarray | None, reason: str) -> None:
    tensors = tensors_of("llama")
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    with pytest.raises(UnusableCheckpoint, match=reason):
        build(TINY, tensors, "shared")


def test_numbers_beyond_float16_are_not_made_infinite() -> None:
    tensors = tensors_of("llama")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = 1e5
    with pytest.raises(UnusableCheckpoint, match="float16 holds numbers up to 65504, got 100000"):
        build(TINY, tensors, "shared", "float16")


@pytest.mark.parametrize(
    ("measures", "reason"),
    [
        ({"heads": 3}, "heads: expected a multiple of the 2 that are asked, got 3"),
        ({"head": 15}, "head: expected an even size, got 15"),
        ({"layers": 0}, "layers: expected at least 1, got 0"),
        ({"slower": (1.0,)}, "rotary factors: expected 8, got 1"),
    ],
    ids=["heads", "head", "layers", "factors"],
)
def test_measures_that_fit_no_network_are_told(measures: dict[str, int], reason: str) -> None:
    with pytest.raises(UnusableCheckpoint, match=reason):
        replace(TINY, **measures)


def test_keys_and_values_of_a_token_are_counted() -> None:
    # 30 layers, 3 heads of 64, keys and values, 4 bytes a number
    smollm = LlamaConfig(49_152, 576, 1536, 30, 9, 3, 64)
    assert smollm.bytes_per_token() == 46_080
