"""Where a batch runs is learned from how long batches of its size took."""

from __future__ import annotations

import pytest

from aiaas_server.core.schedule.cost import Placement


def taught(*measured, ceiling=-1):
    placement = Placement(1000, ceiling)
    for size, ns in measured:
        placement.measured(size, ns)
    return placement


@pytest.mark.parametrize(
    ("placement", "size", "inline"),
    [
        (taught(), 1, False),
        (taught((10, 500)), 10, True),
        (taught((10, 500)), 11, False),
        (taught((10, 900)), 10, False),
        (taught((10, 1100), (10, 1100), (10, 1100), (10, 1100), ceiling=10), 10, True),
        (taught((10, 2000), (10, 2000), ceiling=10), 10, True),
        (taught((10, 2000), (10, 2000), (10, 2000), ceiling=10), 10, False),
        (taught((10, 2000), (10, 2000), (10, 10), (10, 2000), ceiling=10), 10, True),
        (taught((10, 20_000), ceiling=10), 10, False),
        (taught((10, 20_000), ceiling=10), 9, True),
    ],
    ids=[
        "unknown", "quick", "larger than known", "near the limit is not taken in",
        "near the limit is not given up", "slow twice", "slow three times", "slow but not in a row",
        "much too slow once", "smaller than what was slow",
    ],
)  # fmt: skip
def test_a_size_runs_inline_when_it_is_known_to_be_quick(placement, size, inline):
    assert placement.is_inline(size) is inline


def test_a_model_whose_time_lies_in_its_values_never_runs_inline() -> None:
    placement = Placement(never=True)
    placement.measured(8, 1000)
    placement.measured(8, 1000)
    assert not placement.is_inline(8)
    assert not placement.fresh().is_inline(0)
