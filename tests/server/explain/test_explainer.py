"""Explanations as they are played: behind callers, until they are stopped, from a background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.explanations import Contribution, ExplainParameters
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import DeadlineExceeded, InvalidInput, ModelUnavailable
from aiaas_server.core.events import CALLER, Caller
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.core.signature import Signature
from aiaas_server.explain.aside import Aside
from aiaas_server.explain.background import drawn, read_golden
from aiaas_server.explain.choice import Played, Sources
from aiaas_server.explain.explainer import explained, played_out
from aiaas_server.explain.shapley import Coalitions, Estimate
from aiaas_server.monitor.features import Block
from aiaas_server.monitor.profile import make_profile
from tests.server.core.conftest import Bench, bench

__all__ = ["bench"]
MakeBench = Callable[..., Bench]


def served(made: Bench) -> LoadedModel:
    """The model behind a bench, `y = 2x`, as a server would have it."""
    config = ModelConfig.parse({"max_batch_size": 4, "dynamic_batching": {}})
    session = made.session
    signature = Signature("m", session.inputs, session.outputs, 4)
    return LoadedModel(
        "m", 1, config.model_copy(update={"instances": 1}), signature, made.statistics, {}, session,
        made.scheduler,
    )  # fmt: skip


def nothing() -> bytes:
    raise FileNotFoundError


async def no_reference() -> None:
    return None


SOURCES = Sources(nothing, no_reference, lambda payload: payload)


def later(seconds: float = 60.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_an_explanation_runs_when_no_caller_waits_or_runs(bench: MakeBench) -> None:
    made = bench({"max_batch_size": 4, "dynamic_batching": {}})
    asked = ExplainParameters(background=[[0.0, 0.0]])
    running = await made.occupy()
    waiting = [made.ask(value, width=2) for value in (1.0, 2.0)]
    work = asyncio.ensure_future(explained(served(made), [[5.0, 7.0]], asked, SOURCES, later()))
    await asyncio.sleep(0.01)  # it looks, and finds callers
    made.session.release()
    await running
    await made.session.started()
    more = made.ask(3.0, width=2)
    await asyncio.sleep(0.01)
    assert all(5.0 not in batch for batch in made.session.batches)
    made.session.release(1000)
    (found,) = await work
    await asyncio.gather(*waiting, more)
    ordinary = [index for index, batch in enumerate(made.session.batches) if 3.0 in batch]
    first = next(index for index, batch in enumerate(made.session.batches) if 0.0 in batch)
    assert first > ordinary[0]
    assert [part.contribution for part in found.contributions] == [10.0, 0.0]


async def test_its_rows_are_nobodys(bench: MakeBench) -> None:
    made = bench(held=False)
    shown: list[Caller] = []

    def tap(inputs: Any, outcome: Outcome, caller: Caller) -> None:
        shown.append(caller)

    made.scheduler.tap = tap
    token = CALLER.set(Caller("r1"))
    asked = ExplainParameters(background=[[0.0, 1.0]])
    await explained(served(made), [[5.0, 7.0]], asked, SOURCES, later())
    assert CALLER.get() == Caller("r1")
    CALLER.reset(token)
    assert made.session.batches
    assert shown == []


async def test_it_goes_on_with_what_takes_the_place_of_a_version(bench: MakeBench) -> None:
    old, new = bench(held=False), bench(held=False)
    model = served(old)
    aside = Aside(model)
    old.scheduler.refuse()
    with pytest.raises(ModelUnavailable):
        await aside.run({"x": np.ones((3, 1), np.float32)}, ("y",))
    model.successor = served(new)
    found = await aside.run({"x": np.ones((9, 1), np.float32)}, ("y",))
    assert found["y"].tolist() == [[2.0]] * 9
    assert aside.rows == 9
    assert [len(batch) for batch in new.session.batches] == [4, 4, 1]


class Scripted:
    """A game of numbers that ends its time after some turns, whatever the clock says."""

    names: Sequence[str] = ("low", "high")
    are_scores = True
    background = "nothing"
    rows_each = 1

    def __init__(self, features: int, turns: int) -> None:
        self.features = features
        self._weights = np.random.default_rng(1).normal(size=(features, features))
        self._left = turns

    async def ends(self) -> Any:
        return self._values(np.array([[False] * self.features, [True] * self.features]))

    def divide(self, coalitions: int) -> None:
        pass

    async def answers(self, coalitions: Coalitions) -> Any:
        self._left -= 1
        if self._left < 0:
            raise TimeoutError
        return self._values(coalitions)

    def _values(self, coalitions: Coalitions) -> Any:
        high = np.einsum("ki,ij,kj->k", coalitions, self._weights, coalitions)
        return np.stack([-high, high], axis=1)

    def told(self, found: Estimate) -> list[Contribution]:
        return [
            Contribution(feature=str(at), contribution=added, error=error)
            for at, (added, error) in enumerate(zip(found.values, found.errors, strict=True))
        ]


@pytest.mark.parametrize("features", [11, 40])
async def test_what_the_time_is_not_enough_for_has_errors(features: int, bench: MakeBench) -> None:
    aside = Aside(served(bench(held=False)))
    played = Played(Scripted(features, turns=9), aside, 10_000, 64)
    found = await played_out(played, ExplainParameters(output="high"), later())
    assert not found.complete
    assert found.method == "permutation"
    errors = [part.error for part in found.contributions]
    assert all(np.isfinite(errors))
    assert max(errors) > 0
    added = sum(part.contribution for part in found.contributions)
    assert found.base + added == pytest.approx(found.prediction)


async def test_no_time_at_all_is_an_error_and_too_few_samples_another(bench: MakeBench) -> None:
    aside = Aside(served(bench(held=False)))
    with pytest.raises(DeadlineExceeded, match="at least 80 rows"):
        played = Played(Scripted(40, turns=0), aside, 10_000, 64)
        await played_out(played, ExplainParameters(), later())
    with pytest.raises(InvalidInput, match="samples: expected at least 42 to explain 40 features"):
        played = Played(Scripted(40, turns=9), aside, 10_000, 64)
        await played_out(played, ExplainParameters(samples=30), later())


# Backgrounds


def profile_of(columns: dict[str, Any]) -> Sequence[Any]:
    blocks = [
        Block((name,), "input", "text" if values.dtype == object else "number", values[:, None])
        for name, values in columns.items()
    ]
    return make_profile(blocks, "training").features


def test_rows_of_a_reference_are_drawn_from_its_bins() -> None:
    draw = np.random.default_rng(0)
    features = profile_of({
        "size": draw.normal(50, 10, 2000),
        "kind": np.array(["a"] * 1500 + ["b"] * 500, object),
        "few": draw.choice([1.0, 2.0], 2000, p=[0.9, 0.1]),
    })  # fmt: skip
    size, kind, few = drawn(features, ["size", "kind", "few"], 4000, seed=1)
    assert size.mean() == pytest.approx(50, abs=1)
    assert 5 < size.std() < 11
    assert np.mean(kind == "b") == pytest.approx(0.25, abs=0.03)
    assert set(few) == {1.0, 2.0}
    again = drawn(features, ["size", "kind", "few"], 4000, seed=1)
    np.testing.assert_array_equal(size, again[0])
    with pytest.raises(InvalidInput, match="knows nothing of 'other'.*parameters.background"):
        drawn(features, ["other"], 10, seed=1)


async def test_a_reference_is_the_background_where_there_is_nothing_else(
    bench: MakeBench,
) -> None:
    draw = np.random.default_rng(0)
    features = profile_of({"x[0]": draw.normal(10, 1, 500), "x[1]": draw.normal(20, 1, 500)})

    async def reference() -> Sequence[Any]:
        return features

    sources = SOURCES._replace(reference=reference)
    model = served(bench(held=False))
    (found,) = await explained(model, [[10.0, 1.0]], ExplainParameters(), sources, later())
    assert found.background == (
        "100 rows drawn from the version's reference profile, each column independently of the "
        "others"
    )
    assert found.contributions[0].contribution == pytest.approx(0, abs=0.8)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"inputs": {"x": {"datatype": "FP32", "shape": [3]}}}']
)
def test_a_golden_set_that_cannot_be_read_is_none(content: bytes) -> None:
    assert read_golden(content) is None
