"""A recording is cut where nobody speaks, and nothing of it is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.tasks.speech_windows import (
    FRAME,
    Window,
    evenly,
    joined,
    loud_stretches,
    plan,
)

RATE = 16_000


def spoken(*parts: tuple[float, float]) -> np.ndarray:
    """Seconds and how loud: noise, which is as good as speech here."""
    random = np.random.default_rng(0)
    return np.concatenate(
        [(random.standard_normal(round(s * RATE)) * level).astype(np.float32) for s, level in parts]
    )


def seconds(windows: list[Window]) -> list[tuple[float, float]]:
    return [(round(w.begin / RATE, 2), round(w.end / RATE, 2)) for w in windows]


def test_silence_has_no_stretches() -> None:
    assert loud_stretches(np.zeros(5 * RATE, np.float32)) == []
    assert loud_stretches(spoken((1, 1e-5))) == []
    assert loud_stretches(np.zeros(0, np.float32)) == []


def test_stretches_are_what_is_loud_and_short_pauses_are_part_of_them() -> None:
    samples = spoken((1, 0), (2, 0.1), (0.2, 0), (1, 0.1), (1, 0), (0.5, 0.02))
    assert seconds(loud_stretches(samples)) == [(1, 4.2), (5.2, 5.7)]
    quiet = spoken((1, 0), (1, 0.001), (1, 0))
    assert seconds(loud_stretches(quiet)) == [(1, 2)]


def test_stretches_that_touch_are_one() -> None:
    given = [Window(5, 9), Window(0, 3), Window(3, 4), Window(6, 7)]
    assert joined(given) == [Window(0, 4), Window(5, 9)]


def test_windows_have_a_margin_or_half_the_pause() -> None:
    samples = np.zeros(10 * RATE, np.float32)
    stretches = [Window(0, RATE), Window(5 * RATE, 6 * RATE), Window(int(6.2 * RATE), 8 * RATE)]
    windows = plan(samples, stretches, longest=30 * RATE, enough=1, pause=RATE, margin=RATE // 2)
    assert seconds(windows) == [(0, 1.5), (4.5, 6.1), (6.1, 8.5)]


def test_a_window_takes_stretches_until_it_is_long_enough() -> None:
    samples = np.zeros(60 * RATE, np.float32)
    stretches = [Window(5 * k * RATE, (5 * k + 3) * RATE) for k in range(10)]
    windows = plan(samples, stretches, longest=30 * RATE, enough=8 * RATE, pause=3 * RATE, margin=0)
    assert seconds(windows) == [(0, 8), (10, 18), (20, 28), (30, 38), (40, 48)]
    whole = plan(samples, stretches, longest=30 * RATE, enough=30 * RATE, pause=3 * RATE, margin=0)
    assert seconds(whole) == [(0, 28), (30, 48)]
    apart = plan(samples, stretches, longest=30 * RATE, enough=30 * RATE, pause=2 * RATE, margin=9)
    assert seconds(apart) == [(5 * k, 5 * k + 3) for k in range(10)]


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    samples = spoken((24, 0.1), (0.3, 0.01), (20, 0.1))
    windows = plan(
        samples, [Window(0, len(samples))], longest=30 * RATE, enough=0, pause=1, margin=0
    )
    assert len(windows) == 2
    assert 24 * RATE <= windows[0].end <= 24.3 * RATE
    assert windows[0].end == windows[1].begin


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 3 * FRAME), min_size=2, max_size=12),
    st.integers(1, 6 * FRAME),
    st.integers(0, 4 * FRAME),
    st.integers(0, 4 * FRAME),
    st.integers(0, 2 * FRAME),
)
def test_all_speech_is_heard_once_in_windows_that_are_short_enough(
    lengths: list[int], longest: int, enough: int, pause: int, margin: int
) -> None:
    edges = np.cumsum(lengths).tolist()
    stretches = [Window(*edge) for edge in zip(edges[::2], edges[1::2], strict=False)]
    samples = np.random.default_rng(len(lengths)).random(edges[-1] + 7).astype(np.float32)
    windows = plan(samples, stretches, longest=longest, enough=enough, pause=pause, margin=margin)
    heard = np.zeros(len(samples), int)
    for window in windows:
        assert 0 <= window.begin < window.end <= len(samples)
        assert window.end - window.begin <= longest
        heard[window.begin : window.end] += 1
    for begin, end in stretches:
        assert (heard[begin:end] == 1).all()
    assert heard.max() == 1


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (5, [(0, 5)]), (25, [(0, 10), (10, 20), (20, 25)])]
)
def test_even_windows_cover_everything(count: int, expected: list[tuple[int, int]]) -> None:
    assert evenly(count, 10) == expected
