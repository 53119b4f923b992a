"""Batches are as large as pays: over a session whose time is scripted, on the real scheduler."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic_ns, thread_time_ns

import pytest

from aiaas_server.core.schedule.curve import BatchCurve
from aiaas_server.core.schedule.padding import Declaration, Padding
from aiaas_server.core.schedule.sizing import Sizing, clock_of
from aiaas_server.core.signature import Signature
from aiaas_server.core.statistics import Statistics

MS = 1_000_000
PAD = Declaration.model_validate({"pad": {"x": {"axis": 1}}, "slice": {"y": 1}, "max_waste": 0.5})
DIP = {1: 10, 2: 17, 4: 30, 8: 90, 16: 260}


def known(times, most=16, unit="rows", clock=monotonic_ns):
    """What was learned of a version: ms of a run by its size."""
    curve = BatchCurve(most)
    for size, ms in times.items():
        for _ in range(3):
            curve.measured(size, ms * MS)
    curve.trial = 0  # for tests of the cap alone
    return Sizing(unit, curve, Statistics(), clock)


@pytest.fixture
def scripted(fake_session):
    """A session that says itself how long a run took, by its shape."""

    class Scripted(fake_session):
        ns = 0

        def __init__(self, took, **options):
            super().__init__(**options)
            self.took = took

        def run(self, inputs, outputs, stop=None):
            arrays = super().run(inputs, outputs, stop)
            self.ns += round(self.took(inputs["x"].shape) * MS)
            return arrays

        def clock(self):
            return self.ns

    return Scripted


def best_at_256(shape):
    """Ms of a run: what it begins with, and twice as much for each element above so many."""
    elements = shape[0] * shape[1]
    return 10 + 0.2 * max(elements, 2 * elements - 256)


async def crowd(bench, count, **options):
    """Ask `count` times at once, so that there is always enough to choose from."""
    before = len(bench.session.batches)
    await asyncio.gather(*[bench.ask(1, **options) for _ in range(count)])
    return Counter(len(batch) for batch in bench.session.batches[before:])


def crowded(bench, session, sizing, most=16, **options):
    one = bench({"max_batch_size": most}, session=session, sizing=sizing, queue_size=10**6,
                **options)  # fmt: skip
    one.budget.max_count = 10**6
    return one


async def test_the_cap_is_taken_and_grows_again_when_larger_batches_pay(bench, scripted):
    session = scripted(lambda shape: DIP[min(size for size in DIP if size >= shape[0])])
    sizing = Sizing("rows", BatchCurve(16), Statistics(), session.clock)
    one = crowded(bench, session, sizing)
    assert (await crowd(one, 200)).most_common(1)[0][0] == 4
    sizes = await crowd(one, 400)
    assert sizing.curve.cap == 4
    assert sizes[4] > 0.9 * sizes.total()
    session.took = lambda shape: 50 + shape[0]
    await crowd(one, 4000)
    sizes = await crowd(one, 400)
    assert sizing.curve.cap == 16
    assert sizes[16] > 0.9 * sizes.total()


async def test_without_a_curve_all_that_queued_is_joined(bench, fake_session):
    one = crowded(bench, fake_session(), None)
    assert (await crowd(one, 32))[16] == 2


async def test_two_instances_share_what_queued(bench):
    one = bench({"max_batch_size": 16, "instance_group": [{"count": 2}]}, sizing=known(DIP))
    tasks = [one.ask(value) for value in range(8)]
    await one.session.started(2)
    assert sorted(one.session.batches) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    one.session.release(2)
    await asyncio.gather(*tasks)


async def test_a_request_larger_than_the_cap_is_not_split(bench):
    one = bench({"max_batch_size": 16}, sizing=known(DIP))
    first = await one.occupy()
    tasks = [one.ask(1, rows=7), one.ask(2, rows=3), one.ask(3, rows=2)]
    await asyncio.sleep(0)
    one.session.release(10)
    await asyncio.gather(first, *tasks)
    assert [len(batch) for batch in one.session.batches] == [1, 7, 3, 2]


async def test_preferred_sizes_stand_above_the_curve(bench):
    batching = {"preferred_batch_size": [6]}
    one = bench({"max_batch_size": 16, "dynamic_batching": batching}, sizing=known(DIP))
    first = await one.occupy()
    tasks = [one.ask(value) for value in range(7)]
    await asyncio.sleep(0)
    one.session.release(10)
    await asyncio.gather(first, *tasks)
    assert [len(batch) for batch in one.session.batches] == [1, 6, 1]


async def test_a_batch_that_cannot_get_better_does_not_wait_for_a_queue_delay(bench):
    batching = {"max_queue_delay_microseconds": 60_000_000}
    one = bench({"max_batch_size": 16, "dynamic_batching": batching}, sizing=known(DIP), held=False)
    await asyncio.gather(*[one.ask(value) for value in range(4)])
    assert one.session.batches == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("deadline", "sizes"), [(7.0, [8]), (3600.0, [4, 4])], ids=["some would be late", "time enough"]
)
async def test_larger_batches_run_only_where_a_deadline_gains_by_it(bench, deadline, sizes):
    ms = {1: 1100, 2: 2000, 4: 3600, 8: 7000}
    sizing = known(ms, 8)
    assert (sizing.curve.cap, sizing.curve.fastest) == (4, 8)
    one = bench({"max_batch_size": 8}, sizing=sizing)
    first = await one.occupy()
    until = asyncio.get_running_loop().time() + deadline
    tasks = [one.ask(value, deadline=until) for value in range(8)]
    await asyncio.sleep(0)
    one.session.release(10)
    await asyncio.gather(first, *tasks)
    assert [len(batch) for batch in one.session.batches[1:]] == sizes


async def test_padded_batches_are_bounded_by_their_elements(bench, scripted):
    session = scripted(best_at_256)
    sizing = Sizing("elements", BatchCurve(), Statistics(), session.clock)
    padding = Padding(PAD, Signature("m", session.inputs, session.outputs, 64))
    one = crowded(bench, session, sizing, 64, padding=padding)
    for width in (16, 32):
        await crowd(one, 400, width=width)
    assert sizing.curve.cap == 256
    assert (await crowd(one, 320, width=64))[4] > 70
    assert (await crowd(one, 320, width=16))[16] > 15


async def test_shapes_that_are_not_padded_share_a_curve_by_bytes(bench, scripted):
    session = scripted(best_at_256)
    sizing = Sizing("bytes", BatchCurve(), Statistics(), session.clock)
    one = crowded(bench, session, sizing, 512)
    await crowd(one, 3000, width=1)
    assert sizing.curve.cap == 4 * 256  # of four bytes each
    assert (await crowd(one, 320, width=64))[4] > 70


async def test_warm_sizes_are_kept_to(bench):
    one = bench({"max_batch_size": 16}, sizing=known(DIP), warm_sizes=(3, 16))
    first = await one.occupy()
    tasks = [one.ask(value) for value in range(6)]
    await asyncio.sleep(0)
    one.session.release(10)
    await asyncio.gather(first, *tasks)
    assert [len(batch) for batch in one.session.batches[1:]] == [3, 3]


async def test_what_is_known_stands_in_the_statistics(bench, scripted):
    statistics = Statistics()
    session = scripted(lambda shape: 10 + shape[0])
    one = crowded(bench, session, Sizing("rows", BatchCurve(8), statistics, session.clock), 8)
    assert statistics.batch_curve == {}
    await crowd(one, 200)
    assert statistics.batch_curve["cap"] == 8
    assert {"size": 8, "ns": 18 * MS} in statistics.batch_curve["points"]


@pytest.mark.parametrize(
    ("providers", "threads", "clock"),
    [
        (["CPUExecutionProvider"], 1, thread_time_ns),
        (["CPUExecutionProvider"], 2, monotonic_ns),
        (["CPUExecutionProvider"], 0, monotonic_ns),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], 1, monotonic_ns),
    ],
    ids=["one thread", "two threads", "any number", "a device"],
)
def test_a_threads_own_time_counts_where_it_does_all_the_work(providers, threads, clock):
    assert clock_of(providers, threads) is clock


async def test_rows_without_a_byte_say_nothing_and_are_joined(bench):
    sizing = Sizing("bytes", BatchCurve(), Statistics())
    one = bench({"max_batch_size": 16}, sizing=sizing, held=False)
    await asyncio.gather(*[one.ask(value, width=0) for value in range(3)])
    assert [len(batch) for batch in one.session.batches] == [3]
    assert sizing.curve.cap == 0
