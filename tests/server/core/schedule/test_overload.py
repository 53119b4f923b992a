"""The scheduler under more than it can do: who is refused, who is given up, and who never is."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from aiaas_server.core.errors import DeadlineExceeded, QueueFull
from tests.server.core.schedule.test_cost import teach

SECOND = 1_000_000_000


def learned(bench, config=None, **options):
    """A bench whose batches of n items are known to take n times 1000 seconds."""
    one = bench({"max_batch_size": 1, **(config or {})}, **options)
    teach(one, slope=1000 * SECOND, fixed=0)
    return one


def now_of(one) -> float:
    return one.scheduler._dispatcher.loop.time()


async def test_who_cannot_be_answered_in_time_is_refused_and_the_others_are_not(bench):
    one = learned(bench)
    first = await one.occupy()
    now = now_of(one)
    waiting = [one.ask(n, deadline=now + 6000) for n in range(3)]  # 4000 s, 5600 with the spread
    unbounded = one.ask(4)
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    with pytest.raises(QueueFull, match="overloaded") as caught:
        await one.ask(5, deadline=now + 5900)
    assert caught.value.retry_after == 30
    one.session.release(10)
    await asyncio.gather(first, *waiting, unbounded)


async def test_while_some_are_refused_nobody_waits_longer_than_a_part_of_its_deadline(bench):
    one = learned(bench)
    first = await one.occupy()
    now = now_of(one)
    waiting = [one.ask(n, deadline=now + 1e6) for n in range(2)]
    in_time = one.ask(3, deadline=now + 6000)  # while nobody was refused that is enough
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await one.ask(4, deadline=now + 2000)
    with pytest.raises(QueueFull):  # in time as well, but with four before it
        await one.ask(5, deadline=now + 8000)
    patient = one.ask(6, deadline=now + 30_000)
    await asyncio.sleep(0)
    assert not patient.done()
    one.session.release(10)
    await asyncio.gather(first, *waiting, in_time, patient)


async def test_who_can_no_longer_be_answered_in_time_is_told_when_the_run_ahead_ends(bench):
    one = bench({"max_batch_size": 1})
    first = await one.occupy()  # nothing is known of the costs: everybody is accepted
    now = now_of(one)
    hopeless = [one.ask(n, deadline=now + 500) for n in (1, 2)]
    patient = one.ask(3, deadline=now + 1e6)
    await asyncio.sleep(0)
    teach(one, slope=1000 * SECOND, fixed=0)
    one.session.release(1)
    await first
    for task in hopeless:
        with pytest.raises(QueueFull, match="overloaded"):
            await task
    assert one.statistics.failures["REJECTED"] == 2
    one.session.release(1)
    await patient
    assert one.session.batches == [[100], [3]]  # the hopeless were never run


async def test_who_is_given_up_in_order_lets_those_behind_it_have_their_answers(bench):
    ordered = {"dynamic_batching": {"preserve_ordering": True}}
    one = bench({"max_batch_size": 1, "instance_group": [{"count": 2}], **ordered})
    first, second = one.ask(1), one.ask(2)
    await one.session.started(2)
    now = now_of(one)
    hopeless = one.ask(3, deadline=now + 500)
    patient = one.ask(4, deadline=now + 1e6)
    await asyncio.sleep(0)
    teach(one, slope=1000 * SECOND, fixed=0)
    one.session.release(3)
    with pytest.raises(QueueFull):
        await hopeless
    await asyncio.gather(first, second, patient)
    assert one.statistics.pending == 0


async def test_a_request_that_comes_to_an_idle_model_is_never_given_up(bench):
    one = learned(bench)
    task = one.ask(1, deadline=asyncio.get_running_loop().time() + 500)
    await one.session.started()
    one.session.release(1)
    await task


async def test_what_has_a_deadline_that_is_over_hears_of_that_and_not_of_overload(bench):
    one = learned(bench)
    first = await one.occupy()
    with pytest.raises(DeadlineExceeded):
        await one.ask(1, deadline=now_of(one) - 1)
    one.session.release(1)
    await first


async def test_urgent_requests_are_judged_by_what_is_before_them(bench):
    levels = {"priority_levels": 2, "default_priority_level": 2}
    one = learned(bench, {"dynamic_batching": levels})
    first = await one.occupy()
    now = now_of(one)
    waiting = [one.ask(n) for n in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await one.ask(9, deadline=now + 4000)
    urgent = one.ask(10, deadline=now + 4000, priority=1)
    await asyncio.sleep(0)
    assert not urgent.done()
    one.session.release(20)
    await asyncio.gather(first, *waiting, urgent)


async def test_a_body_that_would_come_for_nothing_is_refused_before_it_is_read(bench):
    one = learned(bench)
    one.scheduler.refuse_early(0.0)  # idle: any is tried
    first = await one.occupy()
    now = now_of(one)
    one.scheduler.refuse_early(inf)
    one.scheduler.refuse_early(now + 1e6)
    with pytest.raises(QueueFull, match="overloaded"):
        one.scheduler.refuse_early(now + 500)
    assert one.statistics.failures["REJECTED"] == 1
    one.session.release(1)
    await first


async def test_requests_that_are_not_joined_are_not_thought_to_share_a_run(bench):
    one = bench({"max_batch_size": 8, "dynamic_batching": None})
    teach(one, slope=0, fixed=1000 * SECOND)
    first = await one.occupy()
    now = now_of(one)
    waiting = [one.ask(n) for n in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):  # the fifth of as many runs
        await one.ask(4, deadline=now + 4500)
    one.session.release(10)
    await asyncio.gather(first, *waiting)
