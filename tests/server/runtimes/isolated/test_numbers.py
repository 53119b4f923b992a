"""The numbers by which the process of a model is kept, each as the rules have it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from aiaas_server.core.confine.limits import FILES
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.session import Isolation
from aiaas_server.runtimes import sandbox
from aiaas_server.runtimes.isolated import keeper
from aiaas_server.runtimes.isolated.keeper import Keeper, Terms
from aiaas_server.runtimes.isolated.orders import Order
from aiaas_server.runtimes.isolated.process import Ending, Worker
from aiaas_server.settings import Settings
from tests.server.runtimes.isolated.conftest import Open, X, doubles
from tests.waiting import wait_until

DIED = Ending(1, 0, "")


class Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(keeper, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


@pytest.fixture
def kept() -> Iterator[Keeper]:
    """What keeps a process, which starts none."""
    order = Order(
        path=None, size=0, config=ModelConfig(), threads=1, memory_bytes=1 << 30, filters=True
    )
    made = Keeper("m", order, b"", Isolation(confined=True), Terms())
    yield made
    for file in (made._wake, made._stop):
        os.close(file)


def pause_after(kept: Keeper, clock: Clock) -> float:
    kept._count(DIED)
    return round(kept._next_start - clock.now, 6)


def test_the_next_start_is_0_1_seconds_away_then_twice_as_far_up_to_30(
    kept: Keeper, clock: Clock
) -> None:
    pauses = []
    for _ in range(11):
        pauses.append(pause_after(kept, clock))
        clock.now += 31.0  # so that never three of them are within a minute
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert kept.isolation.quarantined == ""
    clock.now += 60.0  # a good minute
    assert pause_after(kept, clock) == 0.1


@pytest.mark.parametrize(("last", "ends"), [(60.0, True), (60.1, False)])
def test_three_deaths_in_60_seconds_are_the_end(
    kept: Keeper, clock: Clock, last: float, ends: bool
) -> None:
    begin = clock.now
    for after in (0.0, 30.0, last):
        assert kept.isolation.quarantined == ""
        clock.now = begin + after
        kept._count(DIED)
    assert bool(kept.isolation.quarantined) == ends
    assert kept.isolation.deaths == 3


def test_one_that_has_1_5_times_its_memory_and_256_mib_is_replaced(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(doubles())
    most = int(1.5 * session._keeper.worker(None).memory_bytes) + (256 << 20)
    for takes, replaced in ((most - 1, False), (most + 1, True)):
        monkeypatch.setattr(Worker, "resident", lambda self, takes=takes: takes)
        session._look_at = 0.0
        asked = session._keeper._recycles
        session.run({"x": X}, ["y"])
        assert not asked
        if replaced:
            wait_until(lambda: session.isolation.recycled == 1)
        else:
            assert not session._keeper._recycles


def test_the_others() -> None:
    assert sandbox.GRACE == 1.0, "seconds from a deadline to the end of the process"
    assert Terms().load == 60.0, "seconds to open a model, and run it once"
    assert Settings().sandbox_memory_bytes == 2 << 30
    assert FILES == 64
