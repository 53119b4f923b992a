"""Queue, batches, deadlines and faults, over a session that the test holds in its hand."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref

import numpy as np
import pytest

from aiaas_server.core.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    ModelUnavailable,
    QueueFull,
    QueueTimeout,
)
from aiaas_server.core.schedule.cost import Placement
from aiaas_server.core.schedule.queues import QueueBudget
from aiaas_server.http.oip.statistics import model_stats

# Batching


async def test_what_queues_while_the_instance_is_busy_becomes_one_batch(bench):
    b = bench()
    first = await b.occupy()
    rest = [b.ask(value) for value in (1, 2, 3)]
    await asyncio.sleep(0)
    b.session.release(2)
    outcomes = await asyncio.gather(first, *rest)
    assert b.session.batches == [[100], [1, 2, 3]]
    assert [float(o.outputs["y"][0, 0]) for o in outcomes] == [200, 2, 4, 6]
    assert [o.batch_rows for o in outcomes] == [1, 3, 3, 3]


async def test_requests_of_one_turn_of_the_loop_share_an_inline_batch(bench):
    b = bench(held=False, inline=True)
    await asyncio.gather(*[b.ask(value) for value in (1, 2, 3)])
    assert b.session.batches == [[1, 2, 3]]


async def test_a_full_inline_batch_runs_before_the_queue_bound_is_reached(bench):
    b = bench(held=False, inline=True, queue_size=4)
    await asyncio.gather(*[b.ask(value) for value in range(40)])
    assert [len(batch) for batch in b.session.batches] == [4] * 10


async def test_items_not_requests_fill_a_batch_and_a_request_is_never_split(bench):
    b = bench()
    first = await b.occupy()
    rest = [b.ask(1, rows=2), b.ask(2, rows=3), b.ask(3)]
    await asyncio.sleep(0)
    b.session.release(10)
    outcomes = await asyncio.gather(first, *rest)
    assert b.session.batches[1:] == [[1, 1], [2, 2, 2, 3]]
    assert [o.outputs["y"].shape for o in outcomes[1:]] == [(2, 1), (3, 1), (1, 1)]


async def test_mixed_shapes_share_batches_with_their_like_and_never_end_one(bench):
    b = bench()
    first = await b.occupy()
    rest = [b.ask(value, width=1 + value % 2) for value in range(8)]
    await asyncio.sleep(0)
    b.session.release(10)
    await asyncio.gather(first, *rest)
    assert b.session.batches[1:] == [[0, 2, 4, 6], [1, 3, 5, 7]]


async def test_without_dynamic_batching_every_request_runs_alone(bench):
    b = bench({"dynamic_batching": None}, held=False)
    await asyncio.gather(*[b.ask(value) for value in (1, 2, 3)])
    assert sorted(b.session.batches) == [[1], [2], [3]]


async def test_a_preferred_size_is_sent_and_the_rest_waits_its_turn(bench):
    b = bench({"max_batch_size": 8, "dynamic_batching": {"preferred_batch_size": [2, 4]}})
    first = await b.occupy()
    rest = [b.ask(value) for value in range(7)]
    await asyncio.sleep(0)
    b.session.release(10)
    await asyncio.gather(first, *rest)
    assert [len(batch) for batch in b.session.batches[1:]] == [4, 2, 1]


async def test_a_queue_delay_holds_a_partial_batch_until_it_is_full(bench):
    b = bench({"dynamic_batching": {"max_queue_delay_microseconds": 60_000_000}}, held=False)
    early = [b.ask(value) for value in (1, 2)]
    for _ in range(5):  # enough turns for a batch to start, were it not held
        await asyncio.sleep(0)
    assert b.session.batches == []
    await asyncio.gather(*early, b.ask(3), b.ask(4))
    assert b.session.batches == [[1, 2, 3, 4]]


async def test_a_queue_delay_that_is_over_sends_what_there_is(bench):
    b = bench({"dynamic_batching": {"max_queue_delay_microseconds": 2_000}}, held=False)
    outcome = await b.ask(1)
    assert outcome.batch_rows == 1
    assert outcome.queue_ns >= 2_000_000


async def test_a_full_shape_does_not_wait_for_another_shapes_delay(bench):
    b = bench({"dynamic_batching": {"max_queue_delay_microseconds": 60_000_000}}, held=False)
    waiting = b.ask(9, width=2)
    await asyncio.gather(*[b.ask(value) for value in range(4)])
    assert b.session.batches == [[0, 1, 2, 3]]
    assert not waiting.done()


async def test_two_instances_run_two_batches_at_once(bench):
    b = bench({"instance_group": [{"count": 2}]})
    first = b.ask(1)
    await b.session.started()
    second = b.ask(2)
    await b.session.started()
    assert b.session.batches == [[1], [2]]
    b.session.release(2)
    await asyncio.gather(first, second)


async def test_members_of_a_batch_each_get_the_outputs_they_asked_for(bench, fake_session):
    class Two(fake_session):
        outputs = (
            fake_session.outputs[0],
            fake_session.outputs[0].__class__("z", "FP32", (-1, -1)),
        )

        def run(self, inputs, outputs, stop=None):
            return [array + (name == "z") for name, array in zip(outputs, super().run(
                inputs, outputs, stop), strict=True)]  # fmt: skip

    b = bench(session=Two(held=True))
    first = await b.occupy()
    x = {"x": np.ones((1, 1), np.float32)}
    asked = [("y",), ("z",), ("z", "y")]
    tasks = [asyncio.create_task(b.scheduler.submit(x, names, 1)) for names in asked]
    await asyncio.sleep(0)
    b.session.release(2)
    outcomes = await asyncio.gather(*tasks)
    await first
    assert len(b.session.batches) == 2
    values = [{name: float(a[0, 0]) for name, a in o.outputs.items()} for o in outcomes]
    assert values == [{"y": 2}, {"z": 3}, {"z": 3, "y": 2}]
    assert [list(o.outputs) for o in outcomes] == [list(names) for names in asked]


async def test_answers_of_one_batch_never_share_memory(bench):
    b = bench(held=False, inline=True)
    one, two = await asyncio.gather(b.ask(1), b.ask(2))
    one.outputs["y"][:] = 7
    assert float(two.outputs["y"][0, 0]) == 4


# Priorities and queue policy

PRIORITIES = {"priority_levels": 3, "default_priority_level": 2}


async def test_a_more_urgent_request_goes_first_and_unknown_levels_are_the_default(bench):
    b = bench({"max_batch_size": 4, "dynamic_batching": PRIORITIES})
    first = await b.occupy()
    asked = {3: 3, 0: 2, 9: 2, 1: 1}
    rest = [b.ask(10 * level + p, width=1 + i, priority=p) for i, (p, level) in
            enumerate(asked.items())]  # fmt: skip
    await asyncio.sleep(0)
    b.session.release(10)
    await asyncio.gather(first, *rest)
    assert b.session.batches[1:] == [[11], [20], [29], [33]]


async def test_an_urgent_batch_is_topped_up_with_the_same_shape_from_lower_levels(bench):
    b = bench({"dynamic_batching": PRIORITIES})
    first = await b.occupy()
    rest = [b.ask(3, priority=3), b.ask(1, priority=1)]
    await asyncio.sleep(0)
    b.session.release(10)
    await asyncio.gather(first, *rest)
    assert b.session.batches[1:] == [[1, 3]]


async def test_each_level_has_its_own_queue_size(bench):
    policy = {"1": {"max_queue_size": 1}}
    b = bench({"dynamic_batching": {**PRIORITIES, "priority_queue_policy": policy}})
    first = await b.occupy()
    urgent = b.ask(1, priority=1)
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await b.ask(2, priority=1)
    other = b.ask(3)
    await asyncio.sleep(0)
    b.session.release(10)
    await asyncio.gather(first, urgent, other)


async def test_a_queue_timeout_is_answered_at_its_moment_while_the_instance_is_busy(bench):
    b = bench()
    first = await b.occupy()
    with pytest.raises(QueueTimeout, match="Request timeout expired"):
        await b.ask(1, timeout=0.01)
    assert not first.done()
    b.session.release()
    await first
    assert b.session.batches == [[100]], "what expired never starts"
    assert b.statistics.failures["REJECTED"] == 1


@pytest.mark.parametrize(
    ("policy_micros", "own"), [(10_000, 60.0), (60_000_000, 0.01), (10_000, 0.0)],
    ids=["policy is shorter", "own is shorter", "own is not given"],
)  # fmt: skip
async def test_the_smaller_queue_timeout_holds(bench, policy_micros, own):
    policy = {"default_timeout_microseconds": policy_micros}
    b = bench({"dynamic_batching": {"default_queue_policy": policy}})
    first = await b.occupy()
    with pytest.raises(QueueTimeout):
        await asyncio.wait_for(b.ask(1, timeout=own), 120)
    b.session.release()
    await first


async def test_a_delayed_request_goes_behind_those_in_time_and_is_answered(bench):
    policy = {"timeout_action": "DELAY"}
    b = bench({"max_batch_size": 1, "dynamic_batching": {"default_queue_policy": policy}})
    first = await b.occupy()
    late = b.ask(1, timeout=0.005)
    in_time = b.ask(2)
    marker = b.ask(3, deadline=asyncio.get_running_loop().time() + 0.05)
    with pytest.raises(DeadlineExceeded):
        await marker
    b.session.release(10)
    await asyncio.gather(first, late, in_time)
    assert b.session.batches == [[100], [2], [1]]


# Deadlines and callers that leave


async def test_a_deadline_is_answered_while_the_request_waits(bench):
    b = bench()
    first = await b.occupy()
    with pytest.raises(DeadlineExceeded):
        await b.ask(1, deadline=asyncio.get_running_loop().time() + 0.01)
    b.session.release()
    await first
    assert b.session.batches == [[100]]


async def test_a_deadline_is_answered_while_the_request_runs_and_the_run_is_stopped(bench):
    b = bench()
    task = b.ask(1, deadline=asyncio.get_running_loop().time() + 0.02)
    await b.session.started()
    with pytest.raises(DeadlineExceeded):
        await task
    await b.scheduler.drain()
    assert b.session.stopped == [[1]]


async def test_a_deadline_that_has_passed_is_refused_at_once(bench):
    b = bench()
    with pytest.raises(DeadlineExceeded):
        await b.ask(1, deadline=asyncio.get_running_loop().time() - 1)
    assert b.statistics.pending == 0
    assert b.session.batches == []


async def test_the_earliest_of_many_deadlines_comes_first_whatever_their_order(bench):
    b = bench()
    first = await b.occupy()
    now = asyncio.get_running_loop().time()
    ended = []

    async def wait(delay: float) -> None:
        with pytest.raises(DeadlineExceeded):
            await b.ask(delay, deadline=now + delay)
        ended.append(delay)

    await asyncio.gather(*[wait(delay) for delay in (0.06, 0.02, 0.04)])
    assert ended == [0.02, 0.04, 0.06]
    b.session.release()
    await first


async def test_a_caller_that_leaves_frees_its_place_in_the_queue(bench):
    b = bench(queue_size=1)
    first = await b.occupy()
    gone = b.ask(1)
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    kept = b.ask(2)
    await asyncio.sleep(0)
    b.session.release(2)
    await asyncio.gather(first, kept)
    assert b.session.batches == [[100], [2]]
    assert b.statistics.failures["CANCELED"] == 1


async def test_a_run_is_stopped_only_when_its_last_caller_has_left(bench):
    b = bench()
    first = await b.occupy()
    one, two = b.ask(1), b.ask(2)
    await asyncio.sleep(0)
    b.session.release()
    await first
    await b.session.started()
    one.cancel()
    await asyncio.wait([one])
    assert b.session.stopped == []
    two.cancel()
    await asyncio.wait([two])
    await b.scheduler.drain()
    assert b.session.stopped == [[1, 2]]


async def test_those_who_stay_get_their_answer_when_a_neighbour_leaves(bench):
    b = bench()
    first = await b.occupy()
    one, two = b.ask(1), b.ask(2)
    await asyncio.sleep(0)
    b.session.release()
    await b.session.started()
    one.cancel()
    b.session.release()
    outcome = await two
    await first
    assert float(outcome.outputs["y"][0, 0]) == 4


async def test_a_storm_of_cancelled_calls_leaves_nothing_behind(bench):
    b = bench(queue_size=500)
    first = await b.occupy()
    storm = [b.ask(value, width=1 + value % 3) for value in range(300)]
    await asyncio.sleep(0)
    for index, task in enumerate(storm):
        if index % 10:
            task.cancel()
    b.session.release(1000)
    results = await asyncio.gather(first, *storm, return_exceptions=True)
    await b.scheduler.drain()
    kept = [value for index, value in enumerate(range(300)) if index % 10 == 0]
    assert [r.outputs["y"][0, 0] for r in results[1:] if not isinstance(r, BaseException)] == [
        2 * value for value in kept
    ]
    assert sorted(v for batch in b.session.batches[1:] for v in batch) == kept
    assert (b.statistics.pending, b.budget.count, b.budget.bytes) == (0, 0, 0)
    assert b.statistics.failures["CANCELED"] == 270


# Bounds


async def test_a_full_queue_refuses_with_a_time_to_come_back(bench):
    b = bench(queue_size=2)
    first = await b.occupy()
    kept = [b.ask(1), b.ask(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull, match=r"Exceeds maximum queue size of model 'm'") as caught:
        await b.ask(3)
    assert caught.value.retry_after >= 1
    b.session.release(5)
    await asyncio.gather(first, *kept)
    assert 3 not in b.done


@pytest.mark.parametrize(
    "budget", [QueueBudget(max_count=1), QueueBudget(max_bytes=6)], ids=["count", "bytes"]
)
async def test_the_budget_of_all_models_together_is_kept(bench, budget):
    one, two = bench(budget=budget), bench(budget=budget)
    busy = [await one.occupy(), await two.occupy()]
    kept = one.ask(1)
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await two.ask(2)
    one.session.release(2)
    await kept
    later = two.ask(3)
    await asyncio.sleep(0)
    two.session.release(2)
    await asyncio.gather(later, *busy)
    assert (budget.count, budget.bytes) == (0, 0)


# Failing runs


async def test_a_failing_batch_is_run_one_by_one_so_that_only_the_bad_one_fails(bench):
    b = bench()
    first = await b.occupy()
    rest = [b.ask(value) for value in (1, -2, 3)]
    await asyncio.sleep(0)
    b.session.release(10)
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert b.session.batches[1:] == [[1, -2, 3], [1], [-2], [3]]
    assert isinstance(results[2], InferenceFailed)
    assert [float(results[i].outputs["y"][0, 0]) for i in (1, 3)] == [2, 6]
    stats = b.statistics
    assert (stats.success_count, stats.fail_count, stats.failures["BACKEND"]) == (3, 1, 1)
    assert stats.execution_count == 3


async def test_an_error_of_the_sessions_own_becomes_ours_and_is_logged(bench, fake_session, caplog):
    class Broken(fake_session):
        def run(self, inputs, outputs, stop=None):
            raise KeyError("/secret/path")

    b = bench(session=Broken())
    with (
        caplog.at_level(logging.ERROR, "aiaas_server"),
        pytest.raises(InferenceFailed, match=r"^model 'm': inference failed$"),
    ):
        await b.ask(1)
    assert "KeyError" in caplog.text


async def test_an_output_without_the_batch_ends_joining_and_answers_rightly(
    bench, fake_session, caplog
):
    class Summed(fake_session):
        def run(self, inputs, outputs, stop=None):
            return [super().run(inputs, outputs, stop)[0].sum(axis=0)]

    b = bench(session=Summed(held=True))
    first = await b.occupy()
    rest = [b.ask(value) for value in (1, 2)]
    await asyncio.sleep(0)
    b.session.release(10)
    outcomes = await asyncio.gather(first, *rest)
    assert [float(o.outputs["y"][0]) for o in outcomes] == [200, 2, 4]
    assert "no longer joined" in caplog.text
    await asyncio.gather(b.ask(5), b.ask(6))
    assert b.session.batches[-2:] == [[5], [6]]


# Ordering


async def test_answers_leave_in_order_of_arrival_when_that_is_asked_for(bench):
    b = bench({"dynamic_batching": {"preserve_ordering": True}, "instance_group": [{"count": 2}]})
    gates = b.session
    slow = b.ask(1, width=1)
    await gates.started()
    quick = b.ask(2, width=2)
    await gates.started()
    failing = b.ask(-3, width=3)
    gates.release(3)
    await asyncio.gather(slow, quick, failing, return_exceptions=True)
    assert b.done == [1, 2]


async def test_order_does_not_wait_for_a_caller_that_left(bench):
    b = bench({"dynamic_batching": {"preserve_ordering": True}, "instance_group": [{"count": 2}]})
    gone = b.ask(1)
    await b.session.started()
    quick = b.ask(2)
    await b.session.started()
    gone.cancel()
    await asyncio.wait([gone])
    b.session.release(2)
    assert float((await quick).outputs["y"][0, 0]) == 4


# Placement and the end


@pytest.mark.parametrize(
    ("placement", "on_threads"),
    [(Placement(10**12), [True, False, False]), (Placement(0, 2**62), [False, True, True])],
    ids=["quick", "slow"],
)
async def test_where_a_model_runs_follows_from_how_long_it_took(
    bench, fake_session, placement, on_threads
):
    seen = []

    class Watched(fake_session):
        def run(self, inputs, outputs, stop=None):
            seen.append(threading.current_thread() is not threading.main_thread())
            return super().run(inputs, outputs, stop)

    b = bench(session=Watched(), placement=placement)
    for value in range(len(on_threads)):
        await b.ask(value)
    assert seen == on_threads


async def test_draining_answers_what_was_accepted_and_refuses_what_comes(bench):
    b = bench()
    first = await b.occupy()
    queued = b.ask(1)
    await asyncio.sleep(0)
    drained = asyncio.create_task(b.scheduler.drain())
    await asyncio.sleep(0)
    with pytest.raises(ModelUnavailable, match="not at ready state"):
        await b.ask(2)
    assert not drained.done()
    b.session.release(2)
    await asyncio.gather(first, queued, drained)
    assert b.done == [100, 1]


async def test_closing_releases_the_session_after_the_last_run(bench):
    b = bench()
    first = await b.occupy()
    closing = asyncio.create_task(b.scheduler.close())
    await asyncio.sleep(0)
    assert not b.session.closed
    b.session.release()
    await asyncio.gather(first, closing)
    assert b.session.closed


async def test_aborting_fails_what_is_pending_and_stops_what_runs(bench):
    b = bench()
    running = await b.occupy()
    queued = b.ask(1)
    await asyncio.sleep(0)
    b.scheduler.abort(Draining("stopping"))
    results = await asyncio.gather(running, queued, return_exceptions=True)
    assert [type(result) for result in results] == [Draining, Draining]
    await b.scheduler.close()
    assert b.session.stopped == [[100]]


async def test_tensors_are_freed_with_the_answer_not_by_the_collector(bench):
    b = bench(held=False, inline=True)
    x = np.ones((1, 1), np.float32)
    gone = weakref.ref(x)
    gc.disable()
    try:
        inputs = {"x": x}
        await asyncio.gather(b.scheduler.submit(inputs, ("y",), 1), b.ask(2))
        del x, inputs
        await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()


# Statistics and observers


async def test_statistics_count_requests_items_and_executions(bench):
    b = bench()
    first = await b.occupy()
    rest = [b.ask(1, rows=2), b.ask(2)]
    await asyncio.sleep(0)
    assert b.statistics.pending == 3
    b.session.release(2)
    await asyncio.gather(first, *rest)
    entry = model_stats("m", 1, b.statistics)
    assert (entry["inference_count"], entry["execution_count"]) == (4, 2)
    counts = {key: value["count"] for key, value in entry["inference_stats"].items()}
    assert counts == {
        "success": 3, "fail": 0, "queue": 3, "compute_input": 3, "compute_infer": 3,
        "compute_output": 3, "cache_hit": 0, "cache_miss": 0,
    }  # fmt: skip
    assert [(s["batch_size"], s["compute_infer"]["count"]) for s in entry["batch_stats"]] == [
        (1, 1), (3, 1),
    ]  # fmt: skip
    assert b.statistics.pending == 0
    assert sum(b.statistics.latency_counts) == 3


async def test_statistics_are_right_before_the_answer_is_seen(bench):
    b = bench(held=False, inline=True)
    for count in (1, 2, 3):
        await b.ask(count)
        assert b.statistics.success_count == count


async def test_observers_see_every_request_and_cannot_spoil_one(bench, caplog):
    seen = []

    def broken(record):
        raise RuntimeError("observer")

    b = bench(held=False, inline=True, observers=[broken, seen.append])
    await asyncio.gather(b.ask(1, rows=2), b.ask(2))
    with pytest.raises(InferenceFailed):
        await b.ask(-1)
    assert [(r.units.rows, r.batch_rows, r.failure) for r in seen] == [
        (2, 3, None), (1, 3, None), (1, 1, "BACKEND"),
    ]  # fmt: skip
    assert "an observer of model 'm' failed" in caplog.text


async def test_requests_that_come_one_in_a_turn_run_at_once_and_count_like_any(bench):
    one = bench(inline=True, held=False)
    for value in (1, 2, 3):
        outcome = await one.ask(value)
        assert outcome.outputs["y"].tolist() == [[2 * value]]
        assert outcome.batch_rows == 1
    counts = model_stats("m", 1, one.statistics)
    assert (counts["inference_count"], counts["execution_count"]) == (3, 3)
    assert one.statistics.pending == 0
    assert sum(one.statistics.latency_counts) == 3


async def test_after_lone_requests_a_crowd_is_joined_again(bench):
    one = bench(inline=True, held=False)
    await one.ask(1)
    await asyncio.gather(*[one.ask(value) for value in (2, 3, 4)])
    await asyncio.gather(*[one.ask(value) for value in (5, 6, 7)])
    await one.ask(8)
    await one.ask(9)
    assert one.session.batches == [[1], [2], [3, 4], [5, 6, 7], [8], [9]]


async def test_a_lone_request_that_fails_says_so_and_spoils_nothing(bench):
    records = []
    one = bench(inline=True, held=False, observers=[records.append])
    await one.ask(1)
    with pytest.raises(InferenceFailed, match="a negative element"):
        await one.ask(-1)
    assert one.statistics.failures["BACKEND"] == 1
    assert (await one.ask(2)).batch_rows == 1
    assert [record.failure for record in records] == [None, "BACKEND", None]
    one.scheduler.refuse()
    with pytest.raises(ModelUnavailable):
        await one.ask(3)


async def test_a_lone_request_past_its_deadline_is_refused(bench):
    one = bench(inline=True, held=False)
    await one.ask(1)
    with pytest.raises(DeadlineExceeded):
        await one.ask(2, deadline=asyncio.get_running_loop().time() - 1)
    assert one.session.batches == [[1]]
