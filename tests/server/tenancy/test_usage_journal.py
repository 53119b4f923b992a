"""The journal of usage: whole at any byte it is torn, and added once however often it is."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aiaas_server.app import create_app
from aiaas_server.core.errors import StateUnavailable
from aiaas_server.core.events import Caller, Identity, InferenceRecord, Units
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade
from aiaas_server.tenancy import journal as journals
from aiaas_server.tenancy import metering as timing
from aiaas_server.tenancy import usage_rows
from aiaas_server.tenancy.journal import Journal
from aiaas_server.tenancy.meter import Left, Meter, Taken, Used
from aiaas_server.tenancy.metering import Metering
from tests.server.tenancy.amounts import read_amounts


def used(number: int = 0, unit: str = "requests") -> Used:
    return Used("acme", 3600, "k" * 12, f"m{number}", 1, unit)


def taken(*amounts: int) -> Taken:
    return Taken({used(index): amount for index, amount in enumerate(amounts)}, [])


def requests(count: int, meter: Meter) -> None:
    for _ in range(count):
        who = Caller(identity=Identity("acme"))
        meter(InferenceRecord("m", 1, Units(2), 2, 0.0, 0.0, 0.0, None, who, "answered", 1000))


def counted(database: Database) -> dict[tuple[str, ...], int]:
    return database.read_now(lambda connection: read_amounts(connection, "tenant"))


def add_all(database: Database, journal: Journal) -> None:
    work = timing._adding(journal.node, list(journal.waiting))
    database.submit(work).result()


def test_torn_at_any_byte_what_is_whole_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "node.journal"
    whole = Journal.make(path)
    left = Left("acme", "", "id", 1.0, 2.0, "m", 1, {"requests": 1})
    whole.append(taken(1, 2))
    first = whole.size
    whole.append(Taken({}, [left]))
    second = whole.size
    whole.append(taken(4))
    data = path.read_bytes()
    whole.close()
    for size in range(len(data) + 1):
        caplog.clear()
        path.write_bytes(data[:size])
        found = Journal.take_over(path)
        assert found is not None
        wanted = [1, 2, 3][: (size >= first) + (size >= second) + (size == len(data))]
        assert [line.seq for line in found.waiting] == wanted
        assert [line.taken for line in found.waiting] == [
            taken(1, 2), Taken({}, [left]), taken(4)
        ][: len(wanted)]  # fmt: skip
        torn = size not in (0, first, second, len(data))
        assert ("not whole" in caplog.text) == torn
        found.append(taken(8))  # takes the place of what was torn
        found.close()
        again = Journal.take_over(path)
        assert again is not None
        assert again.waiting[-1].taken == taken(8)
        assert len(again.waiting) == len(wanted) + 1
        again.close()


def test_one_wrong_byte_costs_one_line(tmp_path: Path) -> None:
    path = tmp_path / "node.journal"
    whole = Journal.make(path)
    for amount in (1, 2, 4):
        whole.append(taken(amount))
    data = path.read_bytes()
    whole.close()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        found = Journal.take_over(path)
        assert found is not None
        told = [line.taken.amounts[used()] for line in found.waiting]
        found.close()
        assert told in ([2, 4], [1, 4], [1, 2], [4], [1]), at  # a wrong newline joins two


def test_who_holds_a_journal_is_not_robbed(tmp_path: Path) -> None:
    path = tmp_path / "node.journal"
    held = Journal.make(path)
    held.append(taken(1))
    assert Journal.take_over(path) is None
    held.close()
    found = Journal.take_over(path)
    assert found is not None
    found.cut(1)
    found.remove()
    assert Journal.take_over(path) is None
    assert not list(tmp_path.iterdir())


def test_what_is_added_up_is_none_that_the_database_may_have(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is compacted while a transaction is in doubt that was made."""
    monkeypatch.setattr(journals, "MOST_BYTES", 1000)
    held = Journal.make(tmp_path / "node.journal")
    for _ in range(3):
        held.append(taken(1))
    add_all(database, held)  # and nobody hears of it
    for _ in range(60):
        held.append(taken(1))
        held.compact(behind=3)
    assert held.size < 1500
    assert held.path.stat().st_size == held.size
    assert Journal.take_over(held.path) is None  # it is still locked
    held.close()
    found = Journal.take_over(held.path)
    assert found is not None
    add_all(database, found)
    add_all(database, found)
    assert counted(database) == {("acme", "requests"): 63}
    found.close()


class Faulty:
    """A database that fails when it is told to: before it does what is asked, or behind it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.engine = database.engine
        self.read_now = database.read_now
        self.fault = ""

    def submit(self, work: Any, *, spares_room: bool = False) -> Future[Any]:
        done: Future[Any] = Future()
        if self.fault != "before":
            done.set_result(self._database.submit(work, spares_room=spares_room).result())
        if self.fault:
            done = Future()
            done.set_exception(StateUnavailable("away"))
        return done


STEPS = st.sampled_from(["use", "tick", "away", "doubt", "back", "full", "kill", "torn", "replay"])


def in_memory(metering: Metering, meter: Meter) -> int:
    """Requests that have no line yet, and are gone with their process."""
    waiting = (metering._ripe, metering._fresh, meter.take())
    amounts = Counter[str]()
    for part in waiting:
        for key, amount in part.amounts.items():
            amounts[key.unit] += amount
    assert amounts["rows"] == 2 * amounts["requests"]
    return amounts["requests"]


def kill(metering: Metering, *, torn: bool) -> None:
    """End it as a process ends that is killed, while it writes where the journal is `torn`."""
    held = metering._journal
    if held is not None:
        held.close()
        if torn:
            with held.path.open("ab") as file:
                file.write(b'00000000 {"seq":99,"am')


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, min_size=1, max_size=40))
@example(
    steps=["use", "tick", "tick", "doubt", "tick", "tick", "use", "tick", "kill", "back", "replay"]
)
def test_sums_are_exact_whatever_happens(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What was killed with a process is lost, what has a line is added once; nothing else."""
    root = tmp_path_factory.mktemp("usage")
    url = f"sqlite:///{root / 'state.db'}"
    upgrade(url)
    database = Database(url)
    faulty: Any = Faulty(database)
    space, patch = Space(), pytest.MonkeyPatch()
    patch.setattr(journals, "_write_all", space.write)
    patch.setattr(journals, "MOST_BYTES", 400)
    sent = lost = 0
    meter = Meter()
    metering = Metering(faulty, root / "usage", meter)
    try:
        for step in steps:
            if step == "use":
                requests(3, meter)
                sent += 3
            elif step == "tick":
                metering.tick()
            elif step in ("away", "doubt", "back"):
                faulty.fault = {"away": "before", "doubt": "behind", "back": ""}[step]
            elif step == "full":
                space.is_full = not space.is_full
            elif step == "replay":
                metering._try(metering._replay)
            else:
                lost += in_memory(metering, meter)
                kill(metering, torn=step == "torn")
                meter = Meter()
                metering = Metering(faulty, root / "usage", meter)
        faulty.fault, space.is_full = "", False
        metering.close()
        metering = Metering(faulty, root / "usage", meter)
        metering._replay()
        found = counted(database)
        left = [path.name for path in (root / "usage").glob("*")]
    finally:
        patch.undo()
        database.close()
    told = sent - lost
    assert found == ({("acme", "requests"): told, ("acme", "rows"): 2 * told} if told else {})
    assert not left


class Space:
    """A disk that is full now and then, and takes a part of what is written."""

    def __init__(self) -> None:
        self.is_full = False
        self._write = journals._write_all

    def write(self, descriptor: int, data: bytes, at: int) -> None:
        if self.is_full:
            self._write(descriptor, data[: len(data) // 2], at)
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(descriptor, data, at)


def test_a_full_disk_refuses_nothing_and_loses_nothing(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    space, meter = Space(), Meter()
    monkeypatch.setattr(journals, "_write_all", space.write)
    metering = Metering(database, tmp_path / "usage", meter)
    alerts: list[str] = []
    metering.told = alerts.append
    space.is_full = True
    for _ in range(5):
        requests(2, meter)
        metering.tick()
    assert caplog.text.count("usage cannot be written") == 1  # a minute
    space.is_full = False
    metering.close()
    assert counted(database) == {("acme", "requests"): 10, ("acme", "rows"): 20}
    assert metering.lost == 0
    assert alerts == ["No space left on device", ""]


def test_the_operator_is_alerted_of_a_journal_that_cannot_be_written(tmp_path: Path) -> None:
    platform = create_app(Settings(data=tmp_path))._platform
    assert platform is not None
    told = platform.tenancy.metering.told
    assert told is not None
    told("No space left on device")
    told("")
    assert platform.alerts.raised["usage", "", "0"] == 2


def test_a_server_that_ends_without_its_database_leaves_a_journal(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(timing, "PATIENCE", 0.2)
    faulty: Any = Faulty(database)
    meter = Meter()
    first = Metering(faulty, tmp_path / "usage", meter)
    requests(4, meter)
    faulty.fault = "before"
    first.close()
    assert len(list((tmp_path / "usage").glob("*.journal"))) == 1
    caplog.set_level(logging.INFO, "aiaas_server")
    second = Metering(database, tmp_path / "usage", Meter())
    second.tick()
    assert "1 lines of a process that is gone" in caplog.text
    assert counted(database) == {("acme", "requests"): 4, ("acme", "rows"): 8}
    assert not list((tmp_path / "usage").iterdir())


def test_an_attempt_that_nothing_came_of_is_paid_once(database: Database) -> None:
    left = [
        Left("acme", "", "id", 1.0, at, "m", 1, {"requests": 1, "compute_us": int(at)})
        for at in (10.0, 20.0, 15.0)
    ]
    line = journals.Line(1, Taken({}, left))
    work = timing._adding("node", [line])
    for _ in range(2):
        database.submit(work).result()
    assert len(database.read_now(usage_rows.attempts)) == 3
    assert database.submit(lambda c: usage_rows.settle(c, 20.0, grace=30.0)).result() == 0
    assert database.submit(lambda c: usage_rows.settle(c, 60.0, grace=30.0)).result() == 3
    assert counted(database) == {("acme", "requests"): 1}


def test_a_journal_stays_small_while_the_database_is_away(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "MOST_BYTES", 2000)
    monkeypatch.setattr(timing, "MOST_LINES", 5)
    faulty: Any = Faulty(database)
    meter = Meter()
    metering = Metering(faulty, tmp_path / "usage", meter)
    faulty.fault = "before"
    for _ in range(100):
        requests(1, meter)
        metering.tick()
    (path,) = (tmp_path / "usage").glob("*.journal")
    assert path.stat().st_size < 5000
    faulty.fault = ""
    metering.close()
    assert counted(database) == {("acme", "requests"): 100, ("acme", "rows"): 200}
