"""Cuts and draws against the plain way, with weights whose sums are exact."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiaas_server.core.generation import Sampling
from aiaas_server.generate.drawing import Sums, cut_of, drop

# Sixty-fourths and sixteenths: whatever is added up is exact, and many weights are equal.
sizes = st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 700, 4097, 6000]))
sixteenths = st.integers(0, 16).map(lambda n: n / 16)


def weights_of(size, seed, flat):
    random = np.random.default_rng(seed)
    found = (random.integers(0, 65, size) / 64).astype(np.float32)
    if not flat:
        found[random.random(size) < 0.98] = 0
    found[random.integers(size)] = 1
    return found


def kept_plainly(row, sampling):
    order = np.argsort(-row, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    whole, kept, mass = float(row[order].astype(np.float64).sum()), [], 0.0
    for token in order:
        if kept and mass >= sampling.top_p * whole:
            break
        kept.append(int(token))
        mass += float(row[token])
    return {token for token in kept if row[token] >= sampling.min_p and row[token] > 0}


@settings(max_examples=200)
@given(
    sizes,
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from([0, 1, 2, 5, 40, 300, 4096, 5000]),
    sixteenths,
    sixteenths,
)
@example(700, 1, True, 300, 0.5, 0.0)  # top-p of more than are sorted at first
@example(6000, 2, True, 5000, 0.75, 0.0)
@example(6000, 3, True, 0, 0.9375, 0.0)
def test_top_k_top_p_and_min_p_leave_what_the_plain_way_leaves(
    size, seed, flat, top_k, top_p, min_p
):
    row = weights_of(size, seed, flat)
    sampling = Sampling(top_k=top_k, top_p=top_p, min_p=min_p)
    expected = kept_plainly(row, sampling)
    left = row.copy()
    drop(left, cut_of(row, float(row.astype(np.float64).sum()), sampling))
    assert set(np.flatnonzero(left).tolist()) == expected
    assert (left[left > 0] == row[left > 0]).all()


@settings(max_examples=100)
@given(sizes, st.integers(0, 2**32), st.booleans(), st.lists(st.floats(0, 0.999), max_size=5))
def test_a_draw_is_where_the_running_sum_passes_the_share(size, seed, flat, shares):
    shares = [0.0, *shares, float(np.nextafter(1, 0))]
    rows = np.stack([weights_of(size, seed + i, flat) for i in range(len(shares))])
    found = Sums(rows).draw(shares)
    for row, share, token in zip(rows, shares, found, strict=True):
        running = np.cumsum(row, dtype=np.float64)
        assert token == np.searchsorted(running, share * running[-1], side="right")
        assert row[token] > 0


def test_rounding_never_draws_what_has_no_weight():
    """Weights whose sums round differently in blocks and one by one."""
    random = np.random.default_rng(3)
    for size in (1, 256, 257, 5000):
        row = random.random((1, size)).astype(np.float32) ** 9
        row[0, -size // 2 :] = 0
        row[0, 0] = 1
        for share in (0.0, 0.3, 0.999999999, float(np.nextafter(1, 0))):
            [token] = Sums(row).draw([share])
            assert row[0, token] > 0


def test_a_changed_row_is_drawn_as_changed():
    rows = np.ones((2, 600), np.float32)
    sums = Sums(rows)
    rows[1, :599] = 0
    sums.update(1)
    assert sums.totals.tolist() == [600, 1]
    assert sums.draw([0.5, 0.0]) == [300, 599]
