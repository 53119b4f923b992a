"""Guarded promotions: step by step forward, at once back, and each step taken once."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import delete

from aiaas_client.protocol.management import Serving
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound
from aiaas_server.core.events import Caller
from aiaas_server.registry import rollout as steps
from aiaas_server.registry.models import ensure_model, update_model
from aiaas_server.registry.trials import read_trials
from aiaas_server.state.tables import FEEDBACK, MODELS, WINDOWS
from tests.server.registry.rollouts import AUTHOR, three_versions
from tests.waiting import until


def kinds(process):
    return [entry.kind for entry in process.history()]


# The steps


async def test_a_good_version_walks_the_steps_and_is_promoted(process):
    model = await process.begin(note="faster")
    rollout = model.serving.rollout
    assert (rollout.version, rollout.stable, rollout.step) == (3, 2, 0)
    assert model.serving.aliases == {"production": 2}
    made = []
    for _ in range(3):
        process.answered(3, 40)
        process.answered(2, 400)
        assert await process.after(9.0) == []
        made += await process.after(1.5)
    assert made == ["rollout_advanced", "rollout_advanced", "promoted"]
    serving = process.model().serving
    assert serving.rollout is None
    assert serving.aliases == {"production": 3}
    started, first, second, last = process.history()
    assert [started.kind, started.reason, started.by] == ["rollout_started", "faster", "ann"]
    assert first.reason == "10% to 50%: 40 requests, 0 failed in 10 s"
    assert second.reason == "50% to 100%: 40 requests, 0 failed in 10 s"
    assert last.version == 3
    assert last.by == "server"
    assert last.before["rollout"]["step"] == 2
    assert last.after["aliases"] == {"production": 3}
    assert process.told[-1] == ("promoted", 3, "40 requests, 0 failed in 10 s")
    assert [change["change"] for change in process.changes()] == [
        "rollout_started", "rollout_advanced", "rollout_advanced", "promoted",
    ]  # fmt: skip
    assert [change.get("share") for change in process.changes()] == [0.1, 0.5, 1.0, None]


async def test_one_that_fails_goes_back_at_once_with_the_reason(process, caplog):
    caplog.set_level("INFO", "aiaas_server")
    before = process.model().serving
    await process.begin()
    process.answered(2, 500)
    process.answered(3, 20)
    process.answered(3, 5, failure="BACKEND")
    assert await process.after(1.0) == ["rolled_back"]
    assert process.model().serving == before
    entry = process.history()[-1]
    assert entry.reason == "5 of 25 requests failed (20.00%); the guard allows at most 1 %"
    assert entry.after == before.model_dump(mode="json")
    assert process.told == [("rolled_back", 3, entry.reason)]
    assert caplog.messages == [f"model 'm': version 3 rolled back: {entry.reason}"]
    assert process.changes()[-1]["reason"] == entry.reason
    assert await process.after(100.0) == []  # nothing is watched any more
    assert process.rollouts.waiting(process.model().id) == ""


async def test_one_that_is_slow_goes_back(process):
    await process.begin(max_p99_ratio=1.5)
    process.answered(2, 300, seconds=0.010)
    process.answered(3, 30, seconds=0.050)
    assert await process.after(1.0) == ["rolled_back"]
    reason = process.history()[-1].reason
    assert reason.startswith("the 99th percentile of 30 answers is 5")
    assert "times that of the old version" in reason


async def test_in_the_last_step_it_is_compared_with_what_the_old_one_did_before(process):
    await process.begin(max_p99_ratio=1.5, steps=[0.5, 1.0])
    process.answered(2, 300)
    process.answered(3, 300)
    assert await process.after(10.0) == ["rollout_advanced"]
    process.answered(3, 30, seconds=0.05)
    assert await process.after(1.0) == ["rolled_back"]


async def test_one_that_answers_differently_goes_back(process):
    await process.begin(max_disagreement=0.05)
    for _ in range(9):
        process.counts.mirrored("m", 3, agrees=False)
    assert await process.after(1.0) == []  # fewer than `min_requests` prove nothing
    process.counts.mirrored("m", 3, agrees=False)
    assert await process.after(1.0) == ["rolled_back"]
    assert "10 of 10 mirrored requests were answered differently" in process.history()[-1].reason


async def test_disagreement_of_earlier_steps_counts_where_the_old_one_gets_nothing(process):
    await process.begin(max_disagreement=0.05, steps=[0.5, 1.0])
    for _ in range(60):
        process.counts.mirrored("m", 3, agrees=True)
    process.answered(3, 50)
    assert await process.after(10.0) == ["rollout_advanced"]
    process.answered(3, 50)
    assert await process.after(10.0) == ["promoted"]


async def test_labels_that_come_later_are_joined(process):
    model = await process.begin(min_accuracy=0.9)
    process.answered(3, 40)
    assert await process.after(11.0) == []
    assert "0 of 10 labelled answers" in process.rollouts.waiting(model.id)

    def label(connection, start, correct):
        for number in range(start, start + 20):
            connection.execute(
                FEEDBACK.insert().values(
                    tenant="default", request_id=f"r{number}", row=0, model_id=model.id, version=3,
                    label=1, predicted=1, correct=correct, at=0.0, by="ann",
                )
            )  # fmt: skip

    await process.write(label, 0, True)
    assert await process.after(1.0) == ["rollout_advanced"]
    process.answered(3, 40)
    await process.write(label, 20, False)
    assert await process.after(1.0) == ["rolled_back"]
    assert "20 of 40 labelled answers were right" in process.history()[-1].reason


async def test_without_traffic_it_waits_and_tells_so(process):
    model = await process.begin()
    for _ in range(5):
        assert await process.after(1000.0) == []
    assert process.rollouts.waiting(model.id) == "0 of 10 requests that it takes"
    assert process.model().serving.rollout.step == 0


async def test_copies_of_requests_and_those_given_up_do_not_count(process):
    await process.begin()
    process.answered(3, 50, failure="BACKEND", caller=Caller(shadow=True))
    process.answered(3, 50, failure="CANCELED")
    process.answered(1, 50, failure="BACKEND")
    assert await process.after(11.0) == []
    assert process.counts.taken("m")[3].requests == 0


async def test_a_version_that_is_damaged_meanwhile_goes_back(process):
    await process.begin()
    await process.corrupt(3)
    assert await process.after(1.0) == ["rolled_back"]
    assert process.history()[-1].reason == "version 3 is corrupt"


async def test_a_model_that_is_gone_is_watched_no_longer(process):
    model = await process.begin()
    await process.database.write(lambda c: c.execute(delete(MODELS).where(MODELS.c.id == model.id)))
    assert await process.after(1.0) == []
    assert process.rollouts.waiting(model.id) == ""


# Beginning


@pytest.mark.parametrize(
    ("guard", "words"),
    [
        ({"steps": [0.5]}, "shares above 0 that grow to 1.0"),
        ({"steps": [0.5, 0.2, 1.0]}, "shares above 0 that grow to 1.0"),
        ({"steps": [0.0, 1.0]}, "shares above 0 that grow to 1.0"),
        ({"steps": [0.5, 0.5, 1.0]}, "shares above 0 that grow to 1.0"),
        ({"steps": [1.0], "max_p99_ratio": 2.0}, "guard.max_p99_ratio: compares with the old"),
        ({"steps": [1.0], "max_disagreement": 0.1}, "guard.max_disagreement: compares with the"),
    ],
)
async def test_a_guard_that_cannot_be_judged_is_refused(process, guard, words):
    with pytest.raises(InvalidInput, match=words):
        await process.begin(**guard)
    assert process.history() == []


async def test_only_production_is_promoted_in_steps(process):
    with pytest.raises(InvalidInput, match="got alias 'canary'"):
        await process.begin(alias="canary")


async def test_what_cannot_be_rolled_out(process):
    with pytest.raises(NotFound, match="no version 9"):
        await process.begin(version=9)
    with pytest.raises(NotFound, match="'x' is not in the registry"):
        await process.begin(name="x")
    with pytest.raises(Conflict, match="version 2 of model 'm' serves already"):
        await process.begin(version=2)
    await process.corrupt(1)
    with pytest.raises(Conflict, match="version 1 of model 'm' is corrupt"):
        await process.begin(version=1)
    await process.corrupt(2)
    assert process.history() == []


async def test_where_nothing_could_be_gone_back_to_it_is_refused(make_process):
    process = make_process()
    await process.write(three_versions, production=None)
    for version in (1, 2):
        await process.corrupt(version)
    with pytest.raises(Conflict, match="no other version that could be gone back to"):
        await process.begin()


async def test_without_an_alias_the_version_before_it_is_what_it_goes_back_to(make_process):
    process = make_process()
    await process.write(three_versions, production=None)
    await process.corrupt(2)
    assert (await process.begin()).serving.rollout.stable == 1
    process.answered(3, 5, failure="BACKEND")
    assert await process.after(1.0) == ["rolled_back"]
    # else the broken one, as the latest, would serve still
    assert process.model().serving.aliases == {"production": 1}


async def test_a_split_ends_and_who_had_most_of_it_is_gone_back_to(process):
    split = Serving(split={"1": 0.7, "2": 0.2, "3": 0.1}, aliases={"production": 2})
    await process.write(update_model, process.model(), serving=split)
    serving = (await process.begin()).serving
    assert serving.split == {}
    assert serving.rollout.stable == 1
    process.answered(3, 40, failure="BACKEND")
    await process.after(1.0)
    back = process.history()[-1]
    assert back.after["split"] == {}
    assert back.position == back.seq  # it is another state than before


async def test_a_second_rollout_ends_the_first(process):
    await process.begin(version=1)
    process.answered(1, 5, failure="BACKEND")
    model = await process.begin(version=3, note="better")
    assert (model.serving.rollout.version, model.serving.rollout.stable) == (3, 2)
    assert process.history()[-1].reason == "better; the rollout of version 1 ends"
    assert await process.after(1.0) == []
    assert set(process.counts.taken("m")) == {2, 3}


async def test_what_ends_it_by_hand_is_seen_at_the_next_look(process):
    await process.begin()
    model = process.model()
    await process.write(update_model, model, serving=steps.ended(model.serving))
    process.answered(3, 5, failure="BACKEND")
    assert await process.after(1.0) == []
    assert process.model().serving == Serving(aliases={"production": 2})
    assert process.counts.taken("m") == {}
    assert steps.ended(Serving()) == Serving()


async def test_going_back_by_hand_goes_before_the_rollout(process):
    """`position`: which entry's state is in force, for a rollback that comes later."""
    await process.begin()
    process.answered(3, 40)
    await process.after(11.0)
    process.answered(3, 40, failure="BACKEND")
    await process.after(1.0)
    await process.begin()
    started, went_on, back, again = process.history()
    assert started.position == started.seq
    assert went_on.position == started.seq
    assert back.position == 0  # nothing is written from before the rollout
    assert again.position == again.seq
    process.answered(3, 40, failure="BACKEND")
    await process.after(1.0)
    assert process.history()[-1].position == 0
    for _ in range(2):
        await process.begin(version=1)
        for _ in range(3):
            process.answered(1, 40)
            await process.after(11.0)
        assert process.history()[-1].kind == "promoted"
        await process.begin(version=3)
        process.answered(3, 40, failure="BACKEND")
        promoted = process.history()[-2]
        await process.after(1.0)
        assert process.history()[-1].position == promoted.position == promoted.seq
        await process.write(update_model, process.model(), serving=Serving())


# Several processes, restarts, clocks


async def test_counts_of_all_processes_add_up(process, make_process):
    other = make_process("b")
    await process.begin(min_requests=60)
    other.rollouts.follow(other.model())
    process.answered(3, 30)
    other.answered(3, 30)
    assert await other.after(10.0) == []
    assert "30 of 60" in other.rollouts.waiting(other.model().id)
    assert await process.after(10.0) == ["rollout_advanced"]


async def test_two_processes_take_one_step(process, make_process):
    other = make_process("b")
    await process.begin(steps=[0.01 * n for n in range(1, 20)] + [1.0], min_requests=1)
    other.rollouts.follow(other.model())
    for _ in range(20):
        process.answered(3, 5)
        other.answered(3, 5)
        await asyncio.gather(*(one.after(10.5) for one in (process, other, process, other)))
    while process.model().serving.rollout is not None:
        process.answered(3, 5)
        await process.after(10.5)
    assert kinds(process) == ["rollout_started", *["rollout_advanced"] * 19, "promoted"]
    made = process.told + other.told
    assert sorted(kind for kind, _, _ in made) == ["promoted", *["rollout_advanced"] * 19]


async def test_two_processes_go_back_once(process, make_process):
    other = make_process("b")
    await process.begin()
    other.rollouts.follow(other.model())
    for one in (process, other):
        one.answered(3, 20, failure="BACKEND")
    made = await asyncio.gather(process.after(1.0), other.after(1.0))
    assert sorted(made) == [[], ["rolled_back"]]
    assert kinds(process) == ["rollout_started", "rolled_back"]
    assert process.counts.taken("m") == {}
    assert other.counts.taken("m") == {}


async def test_a_restart_goes_on_where_it_was(process):
    await process.begin(min_requests=40)
    process.answered(3, 30)
    assert await process.after(7.0) == []
    process.restart("a2")
    assert await process.after(0.0) == []
    process.answered(3, 10)
    assert await process.after(2.0) == []
    assert process.rollouts.waiting(process.model().id) == "the step lasts 10 s, 9 s are over"
    assert await process.after(1.5) == ["rollout_advanced"]


@pytest.mark.parametrize("jump", [-1e9, -3600.0, 3600.0, 1e9])
async def test_a_clock_that_jumps_changes_no_steps_length(process, jump):
    model = await process.begin()
    began = model.serving.rollout.since
    process.answered(3, 40)
    process.wall += jump
    assert await process.after(9.0) == []
    process.restart("a2")
    assert await process.after(0.5) == []
    assert await process.after(1.5) == ["rollout_advanced"]
    assert process.model().serving.rollout.since > began
    process.answered(3, 40)
    assert await process.after(9.5) == []
    assert await process.after(1.0) == ["rollout_advanced"]


async def test_what_was_counted_of_an_ended_rollout_is_forgotten(process):
    await process.begin()
    process.answered(3, 40, failure="BACKEND")
    await process.after(1.0)
    await process.begin()
    assert await process.after(1.0) == []  # what failed before is over
    rollout = process.model().serving.rollout
    model_id = process.model().id
    assert process.database.read_now(lambda c: read_trials(c, model_id, rollout)).new.requests == 0
    rows = process.database.read_now(lambda c: c.execute(WINDOWS.select()).all())
    assert {(row.version, row.kind, row.node) for row in rows} == {
        (2, "rollout", "a"),
        (3, "rollout", "a"),
    }


async def test_a_database_that_does_not_answer_loses_nothing(process):
    """A look that fails is made again, with all that was counted meanwhile."""
    await process.begin()
    process.answered(3, 25)
    database, process.rollouts._database = process.rollouts._database, _Away()
    process.now += 11.0
    with pytest.raises(ConnectionError):
        await process.rollouts.look()
    process.rollouts._database = database
    assert await process.after(0.0) == ["rollout_advanced"]


class _Away:
    async def write(self, work):
        raise ConnectionError("away")


async def test_it_looks_by_itself_until_it_is_closed(process):
    """With real clocks: a short window, traffic that goes on, and nobody who calls `look`."""
    process.rollouts = type(process.rollouts)(
        process.database,
        process.rollouts._judge,
        process.counts,
        node="a",
        told=process._tell,
    )
    process.rollouts.start()
    await process.begin(window=0.2)

    def promoted():
        process.answered(3, 5)
        return bool(process.told) and process.told[-1][0] == "promoted"

    await until(promoted)
    assert kinds(process)[1:] == ["rollout_advanced", "rollout_advanced", "promoted"]
    await process.rollouts.close()


async def test_what_was_counted_last_is_written_when_it_is_closed(process):
    await process.begin(min_requests=40)
    process.rollouts.start()
    process.answered(3, 30)
    process.now += 7.0
    await process.rollouts.close()
    process.answered(3, 50)  # too late
    process.restart("a2")
    assert await process.after(0.0) == []
    process.answered(3, 9)
    assert await process.after(4.0) == []
    assert process.rollouts.waiting(process.model().id) == "39 of 40 requests that it takes"


async def test_two_models_at_once(process):
    await process.write(three_versions, "n")
    await process.begin()
    await process.begin(name="n", version=1)
    process.answered(3, 20)
    process.answered(1, 20, name="n", failure="BACKEND")
    made = await process.after(10.5)
    assert sorted(made) == ["rolled_back", "rollout_advanced"]
    assert process.model("n").serving.rollout is None
    assert process.model("m").serving.rollout.step == 1


async def test_a_model_without_versions_cannot_be_rolled_out(process):
    await process.write(ensure_model, AUTHOR, "empty")
    assert process.model("empty").serving == Serving()
    with pytest.raises(NotFound, match="no version 3"):
        await process.begin(name="empty")
