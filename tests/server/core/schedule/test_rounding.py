"""Batches are filled up to sizes that were run before, where that is worth it."""

from __future__ import annotations

import asyncio

import pytest

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.schedule.rounding import fitted, spare_rows, warm_sizes

GPU = ("CUDAExecutionProvider", "CPUExecutionProvider")
CPU = ("CPUExecutionProvider",)


def config(size, sizes=None):
    given = {} if sizes is None else {"warm_batch_sizes": {"string_value": sizes}}
    return ModelConfig.parse({"max_batch_size": size, "parameters": given})


@pytest.mark.parametrize(
    ("made", "providers", "expected"),
    [
        (config(8), GPU, (1, 2, 4, 8)),
        (config(12), GPU, (1, 2, 4, 8, 12)),
        (config(1), GPU, (1,)),
        (config(0), GPU, ()),
        (config(8), CPU, ()),
        (config(16, "6, 3"), CPU, (3, 6, 16)),
        (config(16, ""), GPU, ()),
    ],
    ids=["powers", "odd limit", "one", "no batching", "cpu", "told", "told none"],
)
def test_sizes_are_powers_of_two_on_a_gpu_and_as_told_elsewhere(made, providers, expected):
    assert warm_sizes(made, providers) == expected


@pytest.mark.parametrize("text", ["0", "x", "17", "1;2", "-1"])
def test_a_size_that_cannot_be_is_refused(text):
    with pytest.raises(LoadFailed, match="expected sizes from 1 to 16"):
        warm_sizes(config(16, text), CPU)


@pytest.mark.parametrize(("rows", "spare"), [(0, 0), (1, 2), (3, 0), (4, 4), (8, 0), (9, 0)])
def test_rows_are_added_up_to_the_next_size(rows, spare):
    assert spare_rows(rows, (3, 8)) == spare


@pytest.mark.parametrize(
    ("limit", "sizes", "size"),
    [(5, (), 5), (4, (3, 16), 3), (1, (3, 16), 3), (12, (3, 16), 16), (11, (3, 16), 3),
     (8, (1, 2, 4, 8, 16), 8), (10**9, (3, 16), 16)],
)  # fmt: skip
def test_a_batch_that_pays_has_a_size_that_was_run_before(limit, sizes, size):
    assert fitted(limit, sizes) == size


async def test_spare_rows_are_run_and_nobody_sees_them(bench):
    one = bench({"max_batch_size": 8}, warm_sizes=(1, 4, 8))
    first = await one.occupy()
    tasks = [one.ask(float(n), rows=rows) for n, rows in enumerate((1, 2, 2), 1)]
    await asyncio.sleep(0)
    one.session.release(10)
    await first
    outcomes = [await task for task in tasks]
    assert one.session.batches == [[100], [1, 2, 2, 3, 3, 3, 3, 3]]
    assert [outcome.outputs["y"].shape[0] for outcome in outcomes] == [1, 2, 2]
    assert [float(outcome.outputs["y"][0, 0]) for outcome in outcomes] == [2, 4, 6]
    assert outcomes[0].batch_rows == 5
    assert one.statistics.inference_count == 6
