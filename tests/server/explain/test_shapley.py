"""Shapley values against their definition, their axioms, and functions whose values are known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.explain.shapley import (
    Coalitions,
    Estimate,
    NotEnough,
    averaged,
    carried_out,
    masked,
    shapley,
)

Game = Callable[[Coalitions], Any]


def explained(game: Game, features: int, most: int = 10**6, **options: Any) -> Estimate:
    ends = game(np.array([[False] * features, [True] * features]))
    return carried_out(shapley(features, ends[0], ends[1], most=most, **options), game)


def table_game(features: int, seed: int) -> Game:
    """Any game: a random value for each coalition."""
    values = np.random.default_rng(seed).normal(size=2**features)
    return lambda asked: values[asked @ (1 << np.arange(features))]


def by_definition(game: Game, features: int) -> Any:
    """The mean over all orders of what each feature changes when it comes."""
    found = np.zeros(features)
    orders = list(permutations(range(features)))
    for order in orders:
        present = np.zeros((1, features), bool)
        before = game(present)[0]
        for feature in order:
            present[0, feature] = True
            after = game(present)[0]
            found[feature] += after - before
            before = after
    return found / len(orders)


@given(st.integers(1, 6), st.integers(0, 2**20), st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_exact_values_are_those_of_the_definition(features: int, seed: int, batch: int) -> None:
    game = table_game(features, seed)
    found = explained(game, features, batch=batch)
    assert found.method == "exact"
    assert found.complete
    np.testing.assert_allclose(found.values, by_definition(game, features), atol=1e-12)
    assert not found.errors.any()


@given(st.integers(2, 30), st.integers(0, 2**20), st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_sampled_values_add_up_however_they_are_batched(
    features: int, seed: int, batch: int
) -> None:
    weights = np.random.default_rng(seed).normal(size=(features, features))

    def game(asked: Coalitions) -> Any:
        return np.einsum("ki,ij,kj->k", asked, weights, asked)

    most = 2 * (features - 1)  # of one pair
    found = explained(game, features, most * 3, seed=seed, batch=batch)
    whole = game(np.ones((1, features), bool))[0]
    assert found.values.sum() == pytest.approx(whole, abs=1e-9)
    again = explained(game, features, most * 3, seed=seed, batch=1000)
    np.testing.assert_allclose(found.values, again.values, atol=1e-12)
    assert found.asked == again.asked


def test_a_linear_function_has_weights_times_distances_from_the_mean() -> None:
    draw = np.random.default_rng(1)
    weights, instance = draw.normal(size=20), draw.normal(size=20)
    background = draw.normal(size=(7, 20))
    owners = {"x": np.arange(20)}

    def game(asked: Coalitions) -> Any:
        rows = masked({"x": instance}, {"x": background}, owners, asked)["x"]
        assert rows.shape == (len(asked) * 7, 20)
        return averaged(rows @ weights, 7)

    found = explained(game, 20)
    np.testing.assert_allclose(found.values, weights * (instance - background.mean(0)), atol=1e-9)
    assert found.method == "permutation"
    assert found.errors.max() < 1e-9
    assert found.asked == 10 * 2 * 19  # as few pairs as it may be


def test_a_product_is_shared_equally_and_what_does_not_matter_gets_nothing() -> None:
    def game(asked: Coalitions) -> Any:
        return 6.0 * asked[:, 0] * asked[:, 1] * asked[:, 2] + 2.0 * asked[:, 4]

    for features in (6, 15):
        found = explained(game, features, 50_000)
        expected = [2, 2, 2, 0, 2] + [0] * (features - 5)
        np.testing.assert_allclose(found.values, expected, atol=1e-9 if features == 6 else 0.2)
        assert (found.values[5:] == 0).all()
        assert (found.errors[5:] == 0).all()


@given(st.integers(0, 2**20))
@settings(max_examples=20, deadline=None)
def test_features_that_may_be_exchanged_get_the_same(seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=3)

    def game(asked: Coalitions) -> Any:
        both = asked[:, 1].astype(float) + asked[:, 3]
        return weights[0] * both**2 + weights[1] * both * asked[:, 0] + weights[2] * asked[:, 2]

    found = explained(game, 5)
    assert found.values[1] == pytest.approx(found.values[3], abs=1e-12)
    assert found.values[4] == pytest.approx(0, abs=1e-12)


def test_errors_say_how_far_samples_are_off() -> None:
    """Over many seeds the truth lies within two errors about as often as it should."""
    game = table_game(8, 3)
    exact = explained(game, 8).values
    inside = []
    for seed in range(60):
        found = explained(game, 8, 14 * 12, seed=seed)
        assert found.method == "permutation"
        inside.append(np.abs(found.values - exact) <= 2.2 * found.errors)  # of t with 11 degrees
    assert 0.88 < np.mean(inside) <= 1.0


def test_equal_seeds_give_equal_values_and_others_do_not() -> None:
    game = table_game(10, 5)
    one, same, other = (explained(game, 10, 90, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.values, same.values)
    assert (one.values != other.values).any()


@pytest.mark.parametrize(("features", "most"), [(10, 10**6), (25, 10**6)])
def test_what_is_stopped_tells_what_it_knows(features: int, most: int) -> None:
    draw = np.random.default_rng(7)
    weights = draw.normal(size=(features, features))

    def game(asked: Coalitions) -> Any:
        return np.einsum("ki,ij,kj->k", asked, weights, asked)

    left = iter([True, True, True, True, False])
    work = shapley(features, 0.0, weights.sum(), most=most, batch=48)
    found = carried_out(work, game, lambda: next(left))
    assert found.method == "permutation"
    assert not found.complete
    assert found.values.sum() == pytest.approx(weights.sum())
    assert np.isfinite(found.errors).all()
    assert found.errors.max() > 0


def test_what_is_stopped_at_once_says_what_it_would_have_needed() -> None:
    for features in (10, 25):
        work = shapley(features, 0.0, 1.0, most=10**6, batch=8)
        with pytest.raises(NotEnough) as refused:
            carried_out(work, lambda asked: np.zeros(len(asked)), lambda: False)
        assert refused.value.asked == 2 * (features - 1)


def test_a_single_pair_has_an_error_as_well() -> None:
    found = explained(table_game(9, 2), 9, 16)
    assert found.asked == 16
    assert found.errors.max() > 0
    assert np.isfinite(found.errors).all()


def test_too_few_rows_for_a_permutation_leave_out_each_once() -> None:
    weights = np.arange(20.0)
    found = explained(lambda asked: asked @ weights, 20, 25)
    assert found.method == "occlusion"
    np.testing.assert_array_equal(found.values, weights)
    with pytest.raises(NotEnough):
        explained(lambda asked: asked @ weights, 20, 19)


def test_one_feature_and_none() -> None:
    assert explained(lambda asked: asked.sum(1) * 3.0, 1).values.tolist() == [3.0]
    assert explained(lambda asked: np.ones(len(asked)), 0).values.tolist() == []


def test_cells_of_one_feature_go_together() -> None:
    owners = {"a": np.array([0, 1, 1]), "b": np.array([2])}
    instance = {"a": np.array([1, 2, 3]), "b": np.array([b"new"], object)}
    background = {"a": np.zeros((2, 3), int), "b": np.array([[b"x"], [b"y"]], object)}
    asked = np.array([[True, False, True], [False, True, False]])
    rows = masked(instance, background, owners, asked)
    assert rows["a"].tolist() == [[1, 0, 0], [1, 0, 0], [0, 2, 3], [0, 2, 3]]
    assert rows["b"][:, 0].tolist() == [b"new", b"new", b"x", b"y"]
