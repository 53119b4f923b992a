"""Who is served next, in tables and in random courses."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.generate.pace import SIZES, Pace
from aiaas_server.generate.scheduler import MARGIN, SHORT, Fill, Scheduler, Step


@dataclass(eq=False)
class Job:
    fair_key: str = "a"
    length: int = 1
    left: int = 1
    slot: int = -1
    weight: float = 1.0


def always(_: object) -> bool:
    return True


def knowing_pace() -> Pace:
    """A step of two takes 20 ms, a piece 10 ms and 1 ms a token."""
    pace = Pace()
    pace.stepped(2, 0.020)
    for size in SIZES:
        pace.filled(size, 0.010 + size / 1000)
    return pace


def admitted(scheduler: Scheduler[Job], *jobs: Job) -> None:
    for job in jobs:
        scheduler.join(job)
        assert scheduler.admit(always) is job


def test_nothing_to_do() -> None:
    scheduler: Scheduler[Job] = Scheduler(2, Pace())
    assert not scheduler
    assert scheduler.plan() is None
    assert scheduler.admit(always) is None


def test_all_that_are_ready_step_together() -> None:
    scheduler: Scheduler[Job] = Scheduler(3, Pace())
    jobs = Job(), Job("b"), Job("c")
    admitted(scheduler, *jobs)
    plan = scheduler.plan()
    assert isinstance(plan, Step)
    assert list(plan.jobs) == list(jobs)
    assert len({job.slot for job in jobs}) == 3


def test_a_prompt_alone_is_run_in_large_pieces() -> None:
    scheduler: Scheduler[Job] = Scheduler(2, Pace())
    job = Job(length=1000, left=1000)
    admitted(scheduler, job)
    assert scheduler.plan() == Fill(job, SIZES[-1])
    job.left = 5
    assert scheduler.plan() == Fill(job, 5)


def test_pieces_take_turns_with_steps_and_cost_no_more() -> None:
    scheduler: Scheduler[Job] = Scheduler(4, knowing_pace())
    writing, more, joining = Job("a"), Job("b"), Job("c", 500, 500)
    admitted(scheduler, writing, more, joining)
    plans = [scheduler.plan() for _ in range(6)]
    # 10 ms and 1 ms a token: of the sizes, 8 fits into the 20 ms of a step, 12 does not.
    assert plans == [Fill(joining, 8), Step([writing, more])] * 3


def test_a_short_prompt_joins_in_one_piece() -> None:
    scheduler: Scheduler[Job] = Scheduler(4, knowing_pace())
    writing = Job("a")
    admitted(scheduler, writing)
    assert scheduler.plan() == Step([writing])
    short, other = Job("b", SHORT, SHORT), Job("c", SHORT, SHORT)
    admitted(scheduler, short, other)
    assert scheduler.plan() == Fill(short, SHORT)
    short.left = 1
    assert scheduler.plan() == Step([writing, short])
    assert scheduler.plan() == Fill(other, SHORT)


def test_what_is_left_of_a_long_prompt_is_not_a_short_one() -> None:
    scheduler: Scheduler[Job] = Scheduler(4, knowing_pace())
    writing, long = Job("a"), Job("b", 150, 150)
    admitted(scheduler, writing)
    assert scheduler.plan() == Step([writing])
    admitted(scheduler, long)
    for left in (150, 142, 48, 36):
        long.left = left
        assert scheduler.plan() == Fill(long, 8)
        assert scheduler.plan() == Step([writing])


def test_a_middling_prompt_joins_in_equal_pieces() -> None:
    scheduler: Scheduler[Job] = Scheduler(4, knowing_pace())
    writing = Job("a")
    admitted(scheduler, writing)
    assert scheduler.plan() == Step([writing])
    joining = Job("b", 100, 100)
    admitted(scheduler, joining)
    for left, piece in ((100, 34), (66, 34), (32, 32)):
        joining.left = left
        assert scheduler.plan() == Fill(joining, piece)
        assert scheduler.plan() == Step([writing])


def test_a_middling_prompt_that_holds_up_nobody_is_run_at_once() -> None:
    scheduler: Scheduler[Job] = Scheduler(4, knowing_pace())
    job = Job("b", 100, 100)
    admitted(scheduler, job)
    assert scheduler.plan() == Fill(job, 100)


def test_who_comes_together_begins_together() -> None:
    scheduler: Scheduler[Job] = Scheduler(8, knowing_pace())
    jobs = [Job(str(k), 30, 30) for k in range(8)]
    admitted(scheduler, *jobs)
    for job in jobs:
        assert scheduler.plan() == Fill(job, 30)
        scheduler.served(job, 30)
        job.left = 1
    assert scheduler.plan() == Step(jobs)


def test_short_prompts_without_end_do_not_hold_up_one_that_waits_for_its_step() -> None:
    scheduler: Scheduler[Job] = Scheduler(3, knowing_pace())
    waits = Job("a")
    admitted(scheduler, waits)
    plans = []
    while not plans or isinstance(plans[-1], Fill):
        short = Job("b", 5, 5)
        admitted(scheduler, short)
        plans.append(scheduler.plan())
        scheduler.leave(short)
    assert plans[-1] == Step([waits])
    assert len(plans) == 4


def test_of_two_prompts_the_one_of_the_less_served_caller_goes_on() -> None:
    scheduler: Scheduler[Job] = Scheduler(2, Pace())
    first, second = Job("a", 1000, 1000), Job("b", 1000, 1000)
    admitted(scheduler, first, second)
    turns = []
    for _ in range(4):
        plan = scheduler.plan()
        assert isinstance(plan, Fill)
        turns.append(plan.job.fair_key)
        scheduler.served(plan.job, plan.tokens)
    assert turns == ["a", "b", "a", "b"]


def test_slots_go_to_the_least_served_caller_and_first_come_within_one() -> None:
    scheduler: Scheduler[Job] = Scheduler(1, Pace())
    greedy = [Job("greedy") for _ in range(3)]
    modest = Job("modest")
    for job in (*greedy, modest):
        scheduler.join(job)
    order = []
    while (job := scheduler.admit(always)) is not None:
        order.append(job)
        scheduler.served(job, 100)
        scheduler.leave(job)
    assert order == [greedy[0], modest, *greedy[1:]]


def test_a_caller_of_twice_the_weight_gets_twice_the_slots() -> None:
    scheduler: Scheduler[Job] = Scheduler(1, Pace())
    for _ in range(20):
        scheduler.join(Job("heavy", weight=2.0))
        scheduler.join(Job("light"))
    order = []
    while len(order) < 15 and (job := scheduler.admit(always)) is not None:
        order.append(job.fair_key)
        scheduler.served(job, 100)
        scheduler.leave(job)
    assert order.count("heavy") == 10


def test_who_comes_new_cannot_have_saved_up() -> None:
    scheduler: Scheduler[Job] = Scheduler(1, Pace())
    old = [Job("old") for _ in range(2)]
    admitted(scheduler, old[0])
    scheduler.served(old[0], 10_000)
    scheduler.join(old[1])
    new = [Job("new") for _ in range(3)]
    for job in new:
        scheduler.join(job)
    scheduler.leave(old[0])
    order = []
    while (job := scheduler.admit(always)) is not None:
        order.append(job.fair_key)
        scheduler.served(job, 100)
        scheduler.leave(job)
    assert order.index("old") <= 1  # not behind all that the other one has


def test_no_slot_without_memory_but_for_one_alone() -> None:
    scheduler: Scheduler[Job] = Scheduler(4, Pace())
    asked = []

    def room(lengths: object) -> bool:
        asked.append(lengths)
        return False

    first, second = Job(length=10), Job(length=20)
    scheduler.join(first)
    scheduler.join(second)
    assert scheduler.admit(room) is first
    assert scheduler.admit(room) is None
    assert asked == [[10 + MARGIN, 20 + MARGIN]]
    assert scheduler.waiting == 1


def test_the_youngest_is_preempted_and_waits_until_another_leaves() -> None:
    scheduler: Scheduler[Job] = Scheduler(3, Pace())
    jobs = Job(), Job(), Job()
    admitted(scheduler, *jobs)
    behind = Job()
    scheduler.join(behind)
    assert scheduler.preempt() is jobs[2]
    assert jobs[2].slot == -1
    assert scheduler.admit(always) is None  # the memory is as full as before
    scheduler.leave(jobs[0])
    assert scheduler.admit(always) is jobs[2]  # before the one that came later
    assert scheduler.admit(always) is behind


def test_counts_of_callers_without_work_do_not_pile_up() -> None:
    scheduler: Scheduler[Job] = Scheduler(1, Pace())
    for number in range(5000):
        job = Job(str(number))
        admitted(scheduler, job)
        scheduler.leave(job)
    assert len(scheduler._served) < 3000


@given(st.lists(st.tuples(st.sampled_from("jaspl"), st.integers(0, 9), st.integers(1, 300))))
def test_slots_are_never_shared_or_lost(course: list[tuple[str, int, int]]) -> None:
    """Whatever joins, leaves and is preempted."""
    scheduler: Scheduler[Job] = Scheduler(3, Pace())
    jobs: list[Job] = []
    for what, number, size in course:
        if what == "j":
            jobs.append(Job(str(number % 3), size, size))
            scheduler.join(jobs[-1])
        elif what == "a":
            scheduler.admit(lambda lengths: sum(lengths) < 500)
        elif what == "s":
            plan = scheduler.plan()
            assert (plan is None) == (not scheduler.running)
            if isinstance(plan, Fill):
                assert 0 < plan.tokens <= plan.job.left
                plan.job.left -= plan.tokens - (plan.tokens == plan.job.left)
                scheduler.served(plan.job, plan.tokens)
        elif what == "p" and len(scheduler.running) > 1:
            scheduler.preempt()
        elif what == "l" and jobs:
            scheduler.leave(jobs.pop(number % len(jobs)))
        taken = [job.slot for job in scheduler.running]
        assert sorted(taken + scheduler._free) == [0, 1, 2]
        assert set(scheduler) == set(jobs)
    for job in jobs:
        scheduler.leave(job)
    assert not scheduler


def test_pieces_follow_the_times_that_are_measured() -> None:
    pace = Pace()
    assert pace.piece(0) == SIZES[-1]
    assert pace.piece(3) == SIZES[0]  # nothing is known
    pace.stepped(3, 0.030)
    pace.filled(8, 0.010)
    pace.filled(64, 0.066)
    assert pace.piece(3) == 24  # 10 ms and 1 ms a token: 26 ms
    assert pace.piece(5) == 24  # the nearest number of rows that is known
    for _ in range(60):
        pace.stepped(3, 0.012)
    assert pace.piece(3) == 8
    pace.filled(64, 100.0)  # a hiccup
    assert pace._of_piece(64) < 0.1


def learned() -> Pace:
    """A step of four takes 34 ms, a piece 10 ms and 1 ms a token; 8 and 64 tokens were run."""
    pace = Pace()
    pace.stepped(4, 0.034)
    pace.filled(8, 0.018)
    pace.filled(64, 0.074)
    return pace


def test_a_machine_that_was_busy_is_not_taken_for_a_slow_one() -> None:
    pace = learned()
    assert pace.piece(4) == 20
    for _ in range(10):
        pace.filled(20, 0.3)
    for _ in range(60):
        size = pace.piece(4)
        pace.filled(size, 0.010 + size / 1000)
    assert pace.piece(4) == 20


def test_larger_pieces_are_tried_again() -> None:
    pace = learned()
    for _ in range(60):
        pace.filled(64, 1.0)  # whatever it was, it passes
    pace.stepped(4, 0.034)
    tries = 0
    while pace.piece(4) < 20 and tries < 10_000:
        size = pace.piece(4)
        pace.filled(size, 0.010 + size / 1000)
        tries += 1
    assert 0 < tries < 10_000


def test_pieces_are_larger_where_more_prompts_wait_than_answers() -> None:
    pace = learned()
    assert pace.piece(4, 4) == 20
    assert pace.piece(4, 8) == 48
    assert pace.piece(4, 100) == pace.piece(4, 12) == 64


def test_the_cost_of_guesses_lies_between_a_step_and_a_piece() -> None:
    pace = Pace()
    assert [pace.cost(tokens) for tokens in (1, 2, 9)] == [1.0, 2.0, 9.0]
    pace.stepped(1, 0.014)
    pace.filled(8, 0.021)
    assert pace.cost(1) == 0.014
    assert 0.014 < pace.cost(3) < pace.cost(6) < 0.021
    pace.checked(3, 0.030)
    assert pace.cost(3) == 0.030
