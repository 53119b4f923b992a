"""Whatever the order of joins, leaves and guesses: every network's logits are those of one text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.core.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    LoadFailed,
    ModelUnavailable,
    OutOfMemory,
)
from aiaas_server.core.generation import GenerationLimits
from aiaas_server.core.session import Session, StopToken
from aiaas_server.generate.network import Network
from aiaas_server.generate.networks import open_network
from aiaas_server.generate.separate import SeparateNetwork
from aiaas_server.generate.shared import SharedNetwork
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.zoo.llama.graph import Cache, build
from tests import tiny_llm
from tests.server.generate import forms
from tests.server.generate.reference import hold, tiny_session

SLOTS = 4
CACHES: tuple[Cache, ...] = ("shared", "separate")
CONTEXT = 128


@dataclass(frozen=True)
class Card:
    """The part of a card that networks read."""

    context: int = CONTEXT
    cache: str = "auto"
    with_past: str = ""
    constants: Sequence[str] = ()


class Form(NamedTuple):
    """A way to export a model, and how close it stays to plain float32."""

    model: Callable[[], bytes]
    card: Card = Card()
    later: Callable[[], bytes] | None = None
    within: float = 1e-3


FORMS = {
    "shared": Form(tiny_llm.model_bytes),
    "shared, all logits": Form(lambda: forms.bare("num_logits_to_keep", kept="shared")),
    "shared, copied": Form(tiny_llm.model_bytes, Card(cache="separate")),
    "separate": Form(lambda: tiny_llm.model_bytes("separate")),
    "no positions": Form(lambda: forms.bare("position_ids")),
    "ids alone": Form(lambda: forms.bare("position_ids", "attention_mask", "num_logits_to_keep")),
    "merged": Form(forms.merged),
    "branched": Form(forms.branched),
    "two files": Form(forms.beginning, Card(with_past="later.onnx"), forms.going_on),
    "float16 keys": Form(forms.halved, within=3e-2),
    "constants": Form(forms.shifted, Card(constants=["hint"])),
    "encoder": Form(
        lambda: forms.encoded()[0],
        Card(with_past="later.onnx", constants=["hint"]),
        lambda: forms.encoded()[1],
    ),
}


@cache
def session_of(name: str) -> OnnxPair:
    form = FORMS[name]
    later = open_session(form.later()) if form.later else None
    return OnnxPair(open_session(form.model()), later)


class OnnxPair(NamedTuple):
    first: Session
    later: Session | None


def network(name: str, **limits: Any) -> Network:
    first, later = session_of(name)

    def open_graph(file: str) -> Session:
        assert file == "later.onnx"
        assert later is not None
        return later

    allowed = GenerationLimits(**{"slots": SLOTS, "prefix_bytes": 1 << 20, **limits})
    return open_network(first, open_graph, FORMS[name].card, allowed)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["open", "open", "extend", "step", "step", "step", "truncate", "close"]),
        st.integers(0, SLOTS - 1),
        st.integers(0, 2**32 - 1),
    ),
    min_size=30,
    max_size=80,
)


def write(found: Network, moves: Sequence[tuple[str, int, int]], form: Form) -> None:
    """Play moves; what makes no sense where it stands is left out."""
    texts: dict[int, list[int]] = {}
    hints: dict[int, Any] = {}
    within = form.within
    common = list(range(40, 110))
    for kind, slot, seed in moves:
        random = np.random.default_rng(seed)

        def some(least: int, most: int, random: Any = random) -> list[int]:
            return [int(t) for t in random.integers(0, 384, random.integers(least, most + 1))]

        if kind == "open" and slot not in texts:
            begin = common[: int(random.integers(0, 70))] if seed % 2 else []
            prompt = begin + some(1, 20)
            hints[slot] = np.full(2 + seed % 2, seed % 5, np.float32)
            known = found.open(slot, prompt, dict.fromkeys(form.card.constants, hints[slot]))
            if not form.card.constants:
                hints[slot] = np.zeros(1)
            assert 0 <= known < len(prompt)
            logits = found.extend(slot, prompt[known:], 1)
            hold(logits - hints[slot].sum(), prompt, within)
            texts[slot] = prompt
        elif kind == "extend" and slot in texts:
            more = some(1, 9)
            if len(texts[slot]) + len(more) <= CONTEXT:
                texts[slot] += more
                keep = int(random.integers(0, len(more) + 1))
                logits = found.extend(slot, more, keep)
                assert logits.shape == (keep, 384)
                hold(logits - hints[slot].sum(), texts[slot], within)
        elif kind == "step" and texts:
            taken = [s for s in texts if len(texts[s]) < CONTEXT]
            chosen = random.permutation(taken)[: random.integers(1, len(texts) + 1)]
            if len(chosen):
                slots = [int(s) for s in chosen]
                tokens = [int(t) for t in random.integers(0, 384, len(slots))]
                logits = found.step(slots, tokens)
                assert logits.shape == (len(slots), 384)
                for row, other, token in zip(logits, slots, tokens, strict=True):
                    texts[other].append(token)
                    hold(row[None] - hints[other].sum(), texts[other], within)
        elif kind == "truncate" and slot in texts:
            length = len(texts[slot]) - int(random.integers(0, min(6, len(texts[slot]))))
            found.truncate(slot, length)
            del texts[slot][length:]
        elif kind == "close" and slot in texts:
            found.close(slot, remember=int(random.integers(0, len(texts.pop(slot)) + 1)))
        for open_slot, text in texts.items():
            assert found.length(open_slot) == len(text)


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(moves=MOVES)
def test_any_mix_of_answers_is_written_as_each_alone(name: str, moves: Any) -> None:
    write(network(name), moves, FORMS[name])


@pytest.mark.parametrize("name", ["shared", "separate", "two files"])
def test_a_stop_leaves_all_slots_as_they_were(name: str) -> None:
    found = network(name)
    for slot in (0, 1):
        found.open(slot, [slot, 2, 3], {})
        found.extend(slot, [slot, 2, 3], 1)
    found.step([0], [4])
    stop = StopToken()
    stop.stop()
    with pytest.raises(DeadlineExceeded):
        found.step([0, 1], [5, 6], stop)
    with pytest.raises(DeadlineExceeded):
        found.extend(1, [5, 6, 7], 1, stop)
    assert [found.length(slot) for slot in (0, 1)] == [4, 3]
    logits = found.step([1, 0], [7, 8])
    hold(logits[:1], [1, 2, 3, 7])
    hold(logits[1:], [0, 2, 3, 4, 8])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("shared", SharedNetwork), ("shared, copied", SeparateNetwork), ("merged", SeparateNetwork)],
)
def test_the_graph_says_how_it_is_run(name: str, kind: type) -> None:
    assert type(network(name)) is kind


@pytest.mark.parametrize("name", ["shared", "separate"])
def test_a_prompt_that_begins_alike_is_not_run_again(name: str) -> None:
    found = network(name)
    prompt = [int(t) for t in np.random.default_rng(1).integers(0, 384, 100)]
    assert found.open(0, prompt, {}) == 0
    found.extend(0, prompt[:70], 1)
    assert found.open(1, prompt[:80], {}) == 64  # of a prompt that is still being run
    hold(found.extend(1, prompt[64:80], 1), prompt[:80])
    found.extend(0, prompt[70:], 1)
    found.close(0, remember=100)
    assert found.open(0, prompt[:96], {}) == 64  # never all of it
    assert found.open(2, [*prompt, 5], {}) == 96
    hold(found.extend(2, [*prompt[96:], 5], 2), [*prompt, 5])
    measures = found.measures()
    assert measures["prefix_hit_tokens"] == 64 + 64 + 96
    assert measures["prefix_lookup_tokens"] == 100 + 80 + 96 + 101
    assert 0 < measures["prefix_bytes"] <= 1 << 20


@pytest.mark.parametrize("name", ["shared", "separate"])
def test_what_does_not_fit_changes_nothing(name: str) -> None:
    found = network(name, cache_bytes=128 * 512, prefix_bytes=0)  # 128 tokens of 512 bytes
    prompt = list(range(30))
    assert found.room([64, 64])
    assert not found.room([65, 64])
    assert not found.room([1] * (SLOTS + 1))
    assert not found.room([CONTEXT + 1])
    for slot in (0, 1):
        found.open(slot, prompt, {})
        found.extend(slot, prompt, 1)
    for _ in range(34):
        found.step([0, 1], [7, 8])
    with pytest.raises(OutOfMemory, match="keys and values: expected up to 65536 bytes, got "):
        found.step([0, 1], [7, 8])
    with pytest.raises(OutOfMemory):
        found.extend(0, [7], 1)
    assert [found.length(slot) for slot in (0, 1)] == [64, 64]
    found.close(1, remember=0)
    hold(found.step([0], [9]), [*prompt, *[7] * 34, 9])


@pytest.mark.parametrize("name", ["shared", "separate"])
def test_what_is_closed_takes_no_memory(name: str) -> None:
    found = network(name)
    before = found.measures()["kv_bytes"]
    found.open(0, [1, 2, 3], {})
    found.extend(0, [1, 2, 3], 1)
    assert found.measures()["kv_bytes"] > before == 0
    found.close(0, remember=0)
    assert found.measures()["kv_bytes"] == 0
    assert found.measures()["kv_bytes_limit"] == GenerationLimits().cache_bytes
    found.release()


def test_rows_grow_behind_what_they_first_had_room_for() -> None:
    config = replace(tiny_llm.CONFIG, context=1200)
    models = [build(config, tiny_llm.weights(), cache) for cache in CACHES]
    networks = [
        open_network(
            open_session(model.SerializeToString()), _none, Card(1200), GenerationLimits(SLOTS)
        )
        for model in models
    ]
    random = np.random.default_rng(0)
    for slot, count in ((0, 40), (1, 500)):
        prompt = [int(t) for t in random.integers(0, 384, count)]
        for found in networks:
            found.open(slot, prompt, {})
            found.extend(slot, prompt, 1)
    for count in (20, 560):
        more = [int(t) for t in random.integers(0, 384, count)]
        one, other = (found.extend(1, more, 5).copy() for found in networks)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
        one, other = (found.step([0, 1], [7, 8]).copy() for found in networks)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_what_was_released_holds_nothing() -> None:
    later = open_session(forms.going_on())
    first, _ = session_of("two files")
    found = open_network(
        first, lambda _: later, Card(with_past="later.onnx"), GenerationLimits(SLOTS)
    )
    found.release()
    with pytest.raises(ModelUnavailable):
        later.run({}, ["logits"])
    assert found.measures()["prefix_bytes"] == found.measures()["kv_bytes"] == 0


def test_a_row_between_others_that_is_full_is_moved_away() -> None:
    found = network("shared")
    texts = {slot: [slot] * (CONTEXT if slot == 1 else 5) for slot in range(3)}
    for slot, text in texts.items():
        found.open(slot, text, {})
        found.extend(slot, text, 1)
    logits = found.step([2, 0], [9, 8])
    hold(logits[:1], [*texts[2], 9])
    hold(logits[1:], [*texts[0], 8])
    found.truncate(1, CONTEXT - 1)
    hold(found.step([1], [1]), texts[1])


def test_rows_that_run_idle_for_long_are_moved_together() -> None:
    found = network("shared")
    texts = {slot: [slot] * 50 for slot in range(SLOTS)}
    for slot, text in texts.items():
        found.open(slot, text, {})
        found.extend(slot, text, 1)
    for _ in range(20):
        logits = found.step([3, 1], [9, 8])
        texts[3].append(9)
        texts[1].append(8)
        hold(logits[:1], texts[3])
        hold(logits[1:], texts[1])
    logits = found.step([0, 1, 2, 3], [4] * SLOTS)
    for slot, row in enumerate(logits):
        hold(row[None], [*texts[slot], 4])


def test_a_run_that_fails_leaves_the_slot_as_it_was() -> None:
    for name in ("shared", "separate"):
        found = network(name)
        found.open(0, [1, 2, 3], {})
        found.extend(0, [1, 2, 3], 1)
        with pytest.raises(InferenceFailed):
            found.step([0], [100_000])  # no such token
        assert found.length(0) == 3
        hold(found.step([0], [4]), [1, 2, 3, 4])


class Watched:
    """A session whose kept runs tell of how many tokens they are asked for logits.

    Attributes:
        refuses_none: Such as other exporters' graphs, it fails where none are asked for.
    """

    def __init__(self, *, refuses_none: bool) -> None:
        self._session: Any = session_of("shared").first
        self.refuses_none = refuses_none
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def keep(self, arrays: Any) -> Any:
        runs, watched = self._session.keep(arrays), self

        class Runs:
            def run(self, inputs: Any, *more: Any, **named: Any) -> Any:
                count = int(inputs["num_logits_to_keep"])
                watched.asked.append(count)
                if not count and watched.refuses_none:
                    raise InferenceFailed("no logits")
                return runs.run(inputs, *more, **named)

        return Runs()


@pytest.mark.parametrize("refuses_none", [False, True])
def test_a_piece_of_a_prompt_works_out_no_logits_where_the_graph_can(refuses_none: bool) -> None:
    watched = Watched(refuses_none=refuses_none)
    found = open_network(cast("Session", watched), _none, Card(), GenerationLimits(slots=2))
    assert isinstance(found, SharedNetwork)
    watched.asked.clear()
    prompt = list(range(3, 43))
    found.open(0, prompt, {})
    assert found.extend(0, prompt[:20], 0).shape == (0, tiny_llm.CONFIG.vocabulary)
    hold(found.extend(0, prompt[20:], 1), prompt)
    assert watched.asked == [int(refuses_none), 1]


def test_what_comes_with_a_request_is_given_with_each_run() -> None:
    """Rows whose constants have other shapes run apart."""
    session = open_session(forms.shifted())
    found = open_network(session, _none, Card(constants=["hint"]), GenerationLimits(SLOTS))
    hints = {slot: np.full(2 + slot % 2, slot, np.float32) for slot in range(SLOTS)}
    texts = {slot: [slot, *range(20 + slot)] for slot in range(SLOTS)}
    for slot, text in texts.items():
        assert found.open(slot, text, {"hint": hints[slot]}) == 0
        hold(found.extend(slot, text, 2) - hints[slot].sum(), text)
    for slots in ([0, 1, 2, 3], [3, 0, 2], [1]):
        logits = found.step(slots, [5] * len(slots))
        for slot, row in zip(slots, logits, strict=True):
            texts[slot].append(5)
            hold(row[None] - hints[slot].sum(), texts[slot])
    found.close(0, remember=20)
    assert found.open(0, texts[0], {"hint": hints[1]}) == 0  # equal tokens, but other keys


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({}, "constant 'hint': missing; got none"),
        ({"hint": np.ones(2)}, r"constant 'hint': expected FP32 of shape \(-1,\), got float64 of "),
        ({"hint": np.ones((1, 2), np.float32)}, r"got float32 of shape \(1, 2\)"),
        ({"hint": np.ones(2, np.float32), "x": np.ones(1)}, "constant 'x': expected 'hint'"),
    ],
    ids=["missing", "datatype", "rank", "unknown"],
)
def test_constants_must_fit_the_graph(constants: Any, message: str) -> None:
    session = open_session(forms.shifted())
    found = open_network(session, _none, Card(constants=["hint"]), GenerationLimits(SLOTS))
    with pytest.raises(InvalidInput, match=message):
        found.open(0, [1, 2], constants)
    assert found.open(0, [1, 2], {"hint": np.ones(2, np.float32)}) == 0


def test_a_model_without_constants_takes_none() -> None:
    for name in ("shared", "separate"):
        with pytest.raises(InvalidInput, match="constant 'hint': expected none"):
            network(name).open(0, [1, 2], {"hint": np.ones(2, np.float32)})


def test_what_an_encoder_made_stays_with_its_answer() -> None:
    """The first run gives it, all later ones take it; rows where it is longer run apart."""
    first, later = map(open_session, forms.encoded())
    card = Card(with_past="later.onnx", constants=["hint"])
    found = open_network(first, lambda _: later, card, GenerationLimits(SLOTS))
    hints = {slot: np.full(2 + slot % 2, slot, np.float32) for slot in range(SLOTS)}
    texts = {slot: [slot, 7, 8] for slot in range(SLOTS)}
    for slot, text in texts.items():
        found.open(slot, text, {"hint": hints[slot]})
        hold(found.extend(slot, text, 1) - hints[slot].sum(), text)
    for slots in ([0, 1, 2, 3], [3, 1], [2]):
        logits = found.step(slots, [5] * len(slots))
        for slot, row in zip(slots, logits, strict=True):
            texts[slot].append(5)
            hold(row[None] - hints[slot].sum(), texts[slot])


def _none(name: str) -> Session:
    raise AssertionError(f"{name}: no further graph was named")


def test_a_card_cannot_ask_for_what_the_graph_is_not() -> None:
    plain = tiny_session("separate")
    limits = GenerationLimits()
    with pytest.raises(LoadFailed, match="expected a graph with GroupQueryAttention"):
        open_network(plain, lambda _: plain, Card(cache="shared"), limits)
    with pytest.raises(LoadFailed, match="generation.cache: expected one of .*, got 'paged'"):
        open_network(plain, lambda _: plain, Card(cache="paged"), limits)
