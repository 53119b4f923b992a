"""A jump of the machine's clock neither locks keys out nor has dead ones live again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from aiaas_server.core.events import Identity
from aiaas_server.tenancy.clock import STANDS, SteadyClock
from aiaas_server.tenancy.identities import Directory, Identities, KnownKey
from aiaas_server.tenancy.secrets import hashed, new_key
from tests.server.tenancy.served import served

DAY = 86400.0
PEPPER = b"p" * 32


class Machine:
    """The clocks of a machine, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.ticks = 1_800_000_000.0, 1000.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.ticks)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.ticks += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def identities_with(text: str, expires: float) -> Identities:
    known = Identities(None, None, PEPPER)  # type: ignore[arg-type]  # nothing is read here
    key = KnownKey(Identity("acme", text[5:17]), hashed(PEPPER, text.encode()), expires, None)
    known.directory = Directory({text[5:17]: key}, {})
    return known


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_keys_end_when_their_time_has_passed_whatever_the_clock_says(
    machine: Machine, jump: float
) -> None:
    text = new_key().text
    identities = identities_with(text, machine.wall + 3600)
    machine.wall += jump
    identities._clock.settle()
    assert identities.find(text.encode()) is not None
    machine.passes(3599)
    assert identities.find(text.encode()) is not None
    machine.passes(2)
    assert identities.find(text.encode()) is None


def test_small_corrections_are_followed_and_jumps_once_they_have_stood(machine: Machine) -> None:
    clock = SteadyClock()
    machine.wall += 2
    clock.settle()
    assert clock.now() == machine.wall
    before = machine.wall
    machine.wall += DAY
    clock.settle()
    assert clock.now() == pytest.approx(before)
    machine.passes(STANDS - 1)
    clock.settle()
    assert clock.now() == pytest.approx(machine.wall - DAY)
    machine.passes(2)
    clock.settle()
    assert clock.now() == pytest.approx(machine.wall)


def test_a_jump_that_is_taken_back_leaves_nothing(machine: Machine) -> None:
    clock = SteadyClock()
    machine.wall += DAY
    clock.settle()
    machine.passes(STANDS / 2)
    machine.wall -= DAY
    clock.settle()
    machine.wall += DAY
    clock.settle()
    machine.passes(STANDS / 2 + 1)
    clock.settle()
    assert clock.now() == pytest.approx(machine.wall - DAY)


@pytest.mark.parametrize("jump", [40 * DAY, -40 * DAY])
async def test_a_jump_begins_no_month_and_closes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Else everybody's budget would be fresh again."""
    async with served(tmp_path, f"sqlite:///{tmp_path / 'state.db'}").app as app:
        platform = app._platform
        assert platform is not None
        tenancy = platform.tenancy
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        for clock in (tenancy.budget._clock, tenancy._closing._clock):
            assert abs(clock() - real()) < DAY
        monkeypatch.undo()
