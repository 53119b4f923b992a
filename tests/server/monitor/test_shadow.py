"""Shadow traffic: copied, compared, thrown away, and never felt by a caller."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from aiaas_client.protocol.management import Guard, Rollout, Serving, Shadow
from aiaas_server.core.events import CALLER, NOBODY, Caller
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.monitor import mirror as mirrors
from aiaas_server.monitor.guard import MIRRORED_SHARE
from aiaas_server.monitor.mirror import Mirror, Witness, kept
from tests.server.monitor.staging import idle, row
from tests.waiting import until


def shadow(version, share=1.0):
    return Serving(shadow=Shadow(version=version, share=share))


# Compared


async def test_a_shadow_gets_copies_and_is_found_to_agree(stage):
    assert stage.follow(shadow(2))
    for n in range(5):
        assert (await stage.ask(1, row(n, 1, 2, 3)) == [[2 * n, 2, 4, 6]]).all()
    await stage.idle()
    counts = stage.counts(2)
    assert (counts.agreed, counts.disagreed, counts.failed, counts.dropped) == (5, 0, 0, 0)
    assert counts.answered.count == counts.shadow.count == 5
    assert counts.last == ""


async def test_one_that_answers_otherwise_is_found_out(stage):
    stage.follow(shadow(3))
    await stage.ask(1, row(1, 2, 3, 4))
    await stage.idle()
    counts = stage.counts(3)
    assert (counts.agreed, counts.disagreed, counts.outside) == (0, 1, 1)
    assert counts.largest == 4.0
    assert counts.last == "output 'y' differs by up to 4"


async def test_labels_are_what_counts_where_there_are_some(make_stage, onnx_models, tmp_path):
    """Other scores, the same greatest one: the same answer."""
    config = ', "max_batch_size": 8, "output": [{"name": "y", "data_type": "TYPE_FP32", '
    config += '"dims": [4], "label_filename": "labels.txt"}]'
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "labels.txt").write_text("a\nb\nc\nd\n")
    scale = onnx_models.scale
    stage = await make_stage({1: scale(2), 2: scale(3), 3: scale(-1)}, config)
    stage.follow(shadow(2))
    await stage.ask(1, row(1, 2, 3, 4))
    await stage.idle()
    counts = stage.counts(2)
    assert (counts.agreed, counts.outside, counts.labels, counts.same_labels) == (1, 1, 1, 1)
    stage.follow(shadow(3))
    await stage.ask(1, row(1, 2, 3, 4))
    await stage.idle()
    counts = stage.counts(3)
    assert (counts.disagreed, counts.labels, counts.same_labels) == (1, 1, 0)
    assert counts.last == "output 'y' names another label in 1 of 1 rows"


async def test_a_shadow_that_takes_other_inputs_fails_and_nobody_notices(make_stage, onnx_models):
    stage = await make_stage({1: onnx_models.scale(2), 2: onnx_models.add()})
    stage.follow(shadow(2))
    assert (await stage.ask(1, row(1, 1, 1, 1)) == 2).all()
    await stage.idle()
    assert stage.counts(2).failed == 1
    assert "input" in stage.counts(2).last
    assert [record.failure for record in stage.records] == [None]


async def test_a_failing_shadow_costs_its_callers_nothing(stage):
    stage.follow(shadow(2))
    stage.failing.add(2)
    for _ in range(3):
        assert (await stage.ask(1, row(1, 1, 1, 1)) == 2).all()
    await stage.idle()
    assert stage.counts(2).failed == 3
    assert stage.counts(2).last == "made to fail"
    asked = [record for record in stage.records if not record.caller.shadow]
    assert [(record.version, record.failure) for record in asked] == [(1, None)] * 3


async def test_it_shows_in_the_statistics_of_the_shadow_and_is_marked(stage):
    stage.follow(shadow(2))
    await stage.ask(1, row(1, 1, 1, 1), "the-id")
    await stage.idle()
    assert stage.version(2).statistics.success_count == 1
    assert stage.version(1).statistics.success_count == 1
    first, second = stage.records
    assert (first.version, first.caller.shadow) == (1, False)
    assert (second.version, second.caller.shadow) == (2, True)
    assert second.caller.request_id == "the-id"


async def test_copies_are_shown_to_no_tap(stage):
    """A shadow that has a tap of its own: for others, of its own callers' requests."""
    stage.follow(shadow(2))
    seen = []
    stage.version(2).scheduler.tap = lambda *args: seen.append(args)
    await stage.ask(1, row(1, 1, 1, 1))
    await stage.idle()
    assert stage.version(2).statistics.success_count == 1
    assert seen == []
    await stage.ask(2, row(1, 1, 1, 1))
    assert len(seen) == 1


async def test_calls_of_the_shadow_itself_are_not_copied(stage):
    stage.follow(shadow(2))
    await stage.ask(2, row(1, 1, 1, 1))
    await stage.idle()
    assert stage.version(2).statistics.success_count == 1


async def test_it_skips_the_response_cache(make_stage, onnx_models):
    scale = onnx_models.scale
    stage = await make_stage(
        {1: scale(2), 2: scale(2)},
        ', "response_cache": {"enable": true}',
        response_cache_bytes=1 << 20,
    )
    stage.follow(shadow(2))
    await stage.ask(1, row(1, 1, 1, 1))
    await stage.ask(1, row(1, 1, 1, 1))  # from the cache: nothing was run
    await stage.idle()
    assert stage.version(2).statistics.cache_miss_count == 0
    assert stage.version(2).statistics.success_count == 1


async def test_what_the_caller_asked_for_is_what_is_compared(make_stage, onnx_models):
    simple = onnx_models.simple()
    stage = await make_stage({1: simple, 2: simple})
    stage.follow(shadow(2))
    x = np.ones((1, 16), np.int32)
    outcome = await stage.version(1).infer({"INPUT0": x, "INPUT1": x}, ["OUTPUT1"])
    assert list(outcome.outputs) == ["OUTPUT1"]
    await stage.idle()
    assert stage.counts(2).agreed == 1


# Never felt


async def test_callers_are_answered_while_the_shadow_hangs(stage):
    stage.follow(shadow(2))
    await stage.ask(1, row(0, 0, 0, 0))
    await stage.idle()
    stage.held.add(2)
    _keep_off_the_loop(stage.version(2))
    await stage.ask(1, row(1, 1, 1, 1))
    await asyncio.to_thread(stage.began.wait, 60)
    for n in range(200):  # more than may wait
        assert (await stage.ask(1, row(n, 1, 1, 1)) == [[2 * n, 2, 2, 2]]).all()
    assert len(stage.mirror().waiting) <= mirrors.MOST_WAITING
    assert stage.counts(2).dropped >= 200 - mirrors.MOST_WAITING - 2 * mirrors.AT_ONCE
    stage.let_go()
    await stage.idle()
    counts = stage.counts(2)
    assert counts.agreed + counts.dropped == 202


def _keep_off_the_loop(model):
    """As if the model were known to be slow."""
    model.scheduler._costs.is_inline = lambda key, size: False


async def test_a_hanging_shadow_is_stopped_when_it_is_one_no_longer(stage):
    stage.held.add(2)
    _keep_off_the_loop(stage.version(2))
    stage.follow(shadow(2))
    mirror = stage.mirror()
    for _ in range(20):
        await stage.ask(1, row(1, 1, 1, 1))
    await asyncio.to_thread(stage.began.wait, 60)
    assert stage.follow(Serving())
    assert stage.version(1).scheduler.tap is None
    assert (mirror.bytes, len(mirror.waiting)) == (0, 0)
    await until(lambda: stage.version(2).scheduler.pending == 0)
    await until(lambda: not mirror._tasks)
    assert (await stage.ask(1, row(1, 1, 1, 1)) == 2).all()


async def test_a_shadow_that_goes_away_is_not_missed(stage):
    stage.follow(shadow(2))
    await stage.ask(1, row(1, 1, 1, 1))
    await stage.idle()
    await stage.pool.unload("m")
    (shown,) = [record for record in stage.records if record.version == 1]
    assert shown.failure is None
    tap = stage.mirror().tap(_Source())
    tap({"x": row(1)}, Outcome({"y": row(2)}, 0, 0, 0, 0, 1), NOBODY)
    await stage.idle()
    assert stage.counts(2).dropped == 1


async def test_where_callers_wait_copies_are_dropped(stage):
    stage.follow(shadow(2))
    source = _Source(pending=1000)
    tap = stage.mirror().tap(source)
    for _ in range(3):
        tap({"x": row(1, 1, 1, 1)}, Outcome({"y": row(2, 2, 2, 2)}, 0, 0, 0, 0, 1), NOBODY)
    await stage.idle()
    assert stage.counts(2).dropped == 3
    assert stage.version(2).statistics.success_count == 0


class _Source:
    """A version that answers, with so many requests that wait."""

    def __init__(self, pending=0):
        self.scheduler = type("S", (), {"pending": pending})()
        self.signature = type("G", (), {"max_batch_size": 1, "output_names": ("y",)})()
        self.config = type("C", (), {"instances": 1})()
        self.card, self.labels = None, {}


async def test_what_waits_is_bounded_by_bytes_as_well(stage):
    loop, dropped = asyncio.get_running_loop(), []
    mirror = Mirror(
        "m", 2, 1.0, stage.pool.find, Witness(lambda found: None, lambda: dropped.append(1)), loop,
        most_bytes=100,
    )  # fmt: skip
    tap = mirror.tap(_Source())
    big = row(*range(10))  # 40 bytes, and 40 of its answer
    for _ in range(3):
        tap({"x": big}, Outcome({"y": big}, 0, 0, 0, 0, 1), NOBODY)
    mirror._work()
    assert (mirror.bytes, len(dropped)) == (80, 2)
    mirror.end()
    assert mirror.bytes == 0


async def test_a_witness_that_fails_costs_the_caller_nothing(stage):
    def fail(*_):
        raise ValueError("of the witness")

    stage.version(1).scheduler.tap = fail
    assert (await stage.ask(1, row(1, 1, 1, 1)) == 2).all()


# Kept


def test_only_what_may_be_written_to_is_copied():
    fixed, free = row(1, 2), np.zeros(3, np.float32)
    found = kept({"fixed": fixed, "free": free})
    assert found["fixed"] is fixed
    assert not np.shares_memory(found["free"], free)


async def test_what_the_caller_does_with_its_arrays_changes_no_comparison(stage):
    """In the caller's own thread, as an embedded server runs a model."""
    stage.follow(shadow(2))
    x = np.ones((1, 4), np.float32)

    def call():
        outcome = stage.version(1).infer_now({"x": x})
        x[:] = 7
        outcome.outputs["y"][:] = 9  # it is the caller's own

    thread = threading.Thread(target=call)
    thread.start()
    await asyncio.to_thread(thread.join)
    await until(lambda: stage.counts(2).agreed + stage.counts(2).disagreed == 1)
    assert stage.counts(2).agreed == 1


async def test_many_threads_at_once_lose_no_copy(stage):
    stage.follow(shadow(2))
    mirror = stage.mirror()

    def call():
        for _ in range(25):
            stage.version(1).infer_now({"x": row(1, 2, 3, 4)})

    await asyncio.gather(*(asyncio.to_thread(call) for _ in range(4)))
    await stage.idle()
    counts = stage.counts(2)
    assert counts.agreed + counts.dropped == 100
    assert counts.agreed > 0
    assert mirror.bytes == 0


# Drawn


def drawn(share, ids, name="m"):
    mirror = Mirror(name, 2, share, lambda *_: None, Witness(print, print), None)
    return [one for one in ids if mirror._draws(one)]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_the_share_is_drawn_by_request_id_the_same_everywhere(share):
    ids = [f"req-{n:05}" for n in range(20_000)]
    first = drawn(share, ids)
    assert first == drawn(share, ids)
    assert len(first) == pytest.approx(
        share * 20_000, abs=4 * (20_000 * share * (1 - share)) ** 0.5
    )


def test_models_draw_apart():
    ids = [f"req-{n:05}" for n in range(20_000)]
    both = set(drawn(0.5, ids, "m")) & set(drawn(0.5, ids, "n"))
    assert len(both) == pytest.approx(5000, rel=0.1)


def test_without_an_id_every_so_many_are_taken():
    assert len(drawn(0.25, [""] * 1000)) == 250


async def test_a_share_of_the_requests_is_copied(stage):
    stage.follow(shadow(2, share=0.5))
    for n in range(100):
        await stage.ask(1, row(1, 1, 1, 1), f"req-{n}")
        await stage.idle()
    wanted = len(drawn(0.5, [f"req-{n}" for n in range(100)]))
    assert stage.counts(2).agreed == wanted


# Who mirrors what


async def test_a_document_that_says_the_same_changes_nothing(stage):
    assert stage.follow(shadow(2))
    mirror = stage.mirror()
    assert not stage.follow(shadow(2))
    assert stage.mirror() is mirror
    assert stage.follow(shadow(2, share=0.5))
    assert stage.mirror() is not mirror
    assert stage.follow(Serving())
    assert not stage.follow(Serving())


def rollout(version, stable, **guard):
    return Serving(rollout=Rollout(version=version, stable=stable, guard=Guard(**guard)))


async def test_a_rollout_that_bounds_disagreement_mirrors_what_the_old_version_answers(stage):
    serving = rollout(3, 1, max_disagreement=0.1)
    assert stage.follow(serving)
    assert stage.version(2).scheduler.tap is None
    assert stage.version(3).scheduler.tap is None
    mirror = stage.mirror()
    for n in range(40):
        await stage.ask(1, row(1, 1, 1, 1), f"req-{n}")
        await stage.idle()
    wanted = len(drawn(MIRRORED_SHARE, [f"req-{n}" for n in range(40)]))
    assert stage.judged == [("m", 3, False)] * wanted
    following = serving.rollout.model_copy(update={"step": 1})
    assert not stage.follow(serving.model_copy(update={"rollout": following}))
    assert stage.mirror() is mirror
    assert stage.follow(Serving())


async def test_a_rollout_that_does_not_mirrors_nothing(stage):
    assert not stage.follow(rollout(3, 1))
    assert stage.version(1).scheduler.tap is None


async def test_a_shadow_and_a_rollout_at_once(stage):
    both = rollout(3, 1, max_disagreement=0.1).model_copy(
        update={"shadow": Shadow(version=2, share=1.0)}
    )
    assert stage.follow(both)
    for n in range(20):
        await stage.ask(1, row(1, 1, 1, 1), f"req-{n}")
        await stage.idle()
    of = stage.shadows._models["m"]
    await idle(of.trial)
    assert stage.counts(2).agreed == 20
    assert stage.judged == [("m", 3, False)] * len(
        drawn(MIRRORED_SHARE, [f"req-{n}" for n in range(20)])
    )


async def test_other_taps_stay_whoever_comes_and_goes(stage):
    seen = []

    def other(*args):
        seen.append(args)

    stage.version(1).scheduler.tap = other
    stage.follow(shadow(2))
    await stage.ask(1, row(1, 1, 1, 1))
    await stage.idle()
    assert (len(seen), stage.counts(2).agreed) == (1, 1)
    stage.follow(Serving())
    assert stage.version(1).scheduler.tap is other
    stage.follow(shadow(1))
    assert stage.version(1).scheduler.tap is other
    assert stage.version(2).scheduler.tap is not None


async def test_a_version_that_is_loaded_later_is_tapped_when_it_is_there(stage, onnx_models):
    stage.follow(shadow(2))
    before = stage.version(1)
    await stage.pool.load("m", force=True)
    assert stage.version(1) is not before
    assert stage.version(1).scheduler.tap is None
    assert not stage.follow(shadow(2))
    assert stage.version(1).scheduler.tap is not None
    await stage.ask(1, row(1, 1, 1, 1))
    await stage.idle()
    assert stage.counts(2).agreed == 1


async def test_the_mark_does_not_leak_to_callers(stage):
    stage.follow(shadow(2))
    await stage.ask(1, row(1, 1, 1, 1))
    await stage.idle()
    assert not CALLER.get().shadow
    await stage.ask(1, row(1, 1, 1, 1), "again")
    assert stage.records[-1].caller == Caller("again")
