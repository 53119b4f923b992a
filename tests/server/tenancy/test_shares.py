"""Limits of several processes: parts by demand that are never more than the whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, select, update

from aiaas_client.protocol.tenants import UNLIMITED, Limits
from aiaas_server.core.errors import LimitReached
from aiaas_server.core.events import Identity
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import QUOTA_LEASES
from aiaas_server.tenancy import shares as module
from aiaas_server.tenancy.gcra import SECOND
from aiaas_server.tenancy.identities import Directory, KnownKey
from aiaas_server.tenancy.leases import Held, Leases, is_gone, new_node
from aiaas_server.tenancy.quota import Quotas
from aiaas_server.tenancy.shares import LEASE, Shares, leave, renew
from tests.waiting import until

ACME = Identity("acme", "one")


@contextmanager
def table() -> Iterator[Connection]:
    """The one table, in memory."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        QUOTA_LEASES.create(connection)
        yield connection
    engine.dispose()


class Clock:
    """Of the database and of all processes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(module, "database_time", lambda connection: self.now)

    def ns(self) -> int:
        return int(self.now * SECOND)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def rounds(connection: Connection, demands: dict[str, float], times: int = 3) -> dict[str, Shares]:
    """Rounds of several processes, one after another."""
    found: dict[str, Shares] = {}
    for _ in range(times):
        for node, demand in demands.items():
            found[node] = renew(connection, node, {"acme": demand} if demand else {})
    return found


def test_alone_everything_is_one_process_s(clock: Clock) -> None:
    with table() as connection:
        assert rounds(connection, {"a": 50.0})["a"] == Shares(1, 1.0, {})
        assert len(connection.execute(select(QUOTA_LEASES)).all()) == 1


def test_parts_go_by_demand_and_are_the_whole_together(clock: Clock) -> None:
    with table() as connection:
        found = rounds(connection, {"a": 30.0, "b": 10.0, "c": 0.0})
    parts = {node: one.of("acme") for node, one in found.items()}
    assert sum(parts.values()) == pytest.approx(1.0)
    assert parts["a"] == pytest.approx(0.1 / 3 + 0.9 * 0.75)
    assert parts["b"] == pytest.approx(0.1 / 3 + 0.9 * 0.25)
    assert parts["c"] == pytest.approx(0.1 / 3), "it can begin"
    assert [one.of("others") for one in found.values()] == pytest.approx([1 / 3] * 3)


def test_a_new_process_has_its_part_after_one_round_of_the_others(clock: Clock) -> None:
    with table() as connection:
        rounds(connection, {"a": 40.0})
        assert renew(connection, "b", {"acme": 40.0}).of("acme") == 0.0
        renew(connection, "a", {"acme": 40.0})
        assert renew(connection, "b", {"acme": 40.0}).of("acme") == pytest.approx(0.5)


def test_a_part_of_which_nobody_asks_any_more_is_even_again(clock: Clock) -> None:
    with table() as connection:
        rounds(connection, {"a": 40.0, "b": 0.0})
        found = rounds(connection, {"a": 0.0, "b": 0.0}, 4)
        assert {one.of("acme") for one in found.values()} == {0.5}
        assert len(connection.execute(select(QUOTA_LEASES)).all()) == 2


@pytest.mark.parametrize("how", ["its lease ends", "its machine knows", "it leaves", "a clock far"])
def test_who_is_gone_leaves_all_to_the_others(how: str, clock: Clock) -> None:
    with table() as connection:
        rounds(connection, {"a": 40.0, "b": 40.0})
        gone: Any = lambda node: how == "its machine knows" and node == "b"  # noqa: E731
        if how == "it leaves":
            leave(connection, "b")
        elif how == "a clock far":
            far = update(QUOTA_LEASES).where(QUOTA_LEASES.c.node == "b").values(until=1e12)
            connection.execute(far)
        elif how == "its lease ends":
            clock.now += LEASE * 0.9
            assert renew(connection, "a", {}).known == 2
            clock.now += LEASE * 0.2
        assert renew(connection, "a", {"acme": 40.0}, gone) == Shares(1, 1.0, {})


def test_without_a_database_nobody_has_more_than_an_even_part_of_what_was_known() -> None:
    held = [
        Held(Shares(2, 0.5, {"acme": part}), until)
        for part, until in ((0.95, 100.0), (0.05, 101.5))
    ]
    for now in (0.0, 99.0, 100.5, 102.0, 109.0, 110.5, 111.0, 112.0, 1e6):
        assert sum(one.share("acme", now) for one in held) <= 1.0
        assert all(one.share("other", now) == 0.5 for one in held)
    assert [one.share("acme", 1e6) for one in held] == [0.5, 0.5]


# Together: whatever happens in whatever order, the limit is that of one


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "round", "wait", "join", "die"]),
        st.integers(0, 4),
        st.integers(1, 30),
    ),
    max_size=150,
)


class Node:
    """One process of the simulation."""

    def __init__(self, name: str, clock: Any, connection: Connection, limits: Limits) -> None:
        self.name, self._clock, self._connection = name, clock, connection
        self.quotas = Quotas(clock.ns)
        self._held = Held(Shares(1, 0.0, {}), 0.0)
        self.round()
        self.quotas.follow(Directory({"one": KnownKey(ACME, b"", None, None)}, {"acme": limits}))

    def round(self) -> None:
        demand = {name: float(count) for name, count in self.quotas.take_demand().items()}
        told = renew(self._connection, self.name, demand)
        self._held = Held(told, self._clock.now + LEASE)
        self.apply()

    def apply(self) -> None:
        now = self._clock.now
        self.quotas.share(lambda name: self._held.share(name, now))

    def ask(self, times: int) -> int:
        admitted = 0
        for _ in range(times):
            try:
                self.quotas.enter(ACME, "/v2").leave()
                admitted += 1
            except LimitReached:
                pass
        return admitted


@pytest.mark.slow
@given(STEPS, st.sampled_from([1, 10, 100]))
@hypothesis_settings(max_examples=150)
def test_together_they_admit_what_one_would(steps: list[Any], burst: int) -> None:
    limits = UNLIMITED.model_copy(update={"requests_per_second": 10.0, "burst": burst})
    names = itertools.count()
    with pytest.MonkeyPatch.context() as patch, table() as connection:
        clock = Clock(patch)
        made = [Node(f"n{next(names)}", clock, connection, limits)]
        begun, admitted = clock.now, 0
        for what, which, count in steps:
            node = made[which % len(made)]
            if what == "ask":
                admitted += node.ask(count)
            elif what == "round":
                node.round()
            elif what == "join" and len(made) < 5:
                made.append(Node(f"n{next(names)}", clock, connection, limits))
            elif what == "die" and len(made) > 1:
                made.remove(node)
            elif what == "wait":
                clock.now += count / 15
                for one in made:  # as each does within a lease, or it has none any more
                    one.round()
            assert admitted <= burst + 10.0 * (clock.now - begun) + 1e-6


# As processes do it


def limited_quotas() -> Quotas:
    made = Quotas()
    limits = UNLIMITED.model_copy(update={"requests_per_second": 1000.0, "burst": 1000})
    made.follow(Directory({"one": KnownKey(ACME, b"", None, None)}, {"acme": limits}))
    return made


async def test_processes_of_one_database_share_a_limit(
    database: Database, state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiaas_server.tenancy.leases.ROUND", 0.05)
    other_database = Database(state_url)
    ours, theirs = limited_quotas(), limited_quotas()
    first, second = Leases(database, ours, "first"), Leases(other_database, theirs, "second")
    try:
        await first.start()
        assert first.shares.others == 1.0
        await second.start()
        await until(lambda: first.shares.others == second.shares.others == 0.5)
        for _ in range(300):
            ours.enter(ACME, "/v2").leave()
        await until(lambda: first.shares.of("acme") > 0.9)
        await until(lambda: second.shares.of("acme") < 0.1)
        requests = theirs.limited["acme"].requests
        assert requests is not None
        assert requests.interval > 9 * SECOND / 1000
        await first.close()
        await until(lambda: second.shares == Shares(1, 1.0, {}))
    finally:
        await first.close()
        await second.close()
        other_database.close()


async def test_a_database_that_is_away_leaves_an_even_part(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiaas_server.tenancy.leases.ROUND", 0.05)
    monkeypatch.setattr("aiaas_server.tenancy.leases.LEASE", 0.2)
    await database.write(lambda c: renew(c, "other", {}))
    quotas = limited_quotas()
    leases = Leases(database, quotas, "me")
    await leases.start()
    try:
        await database.write(lambda c: renew(c, "other", {}))
        await until(lambda: leases.shares.known == 2)
        database.close()
        requests = quotas.limited["acme"].requests
        assert requests is not None
        await until(lambda: requests.interval == 2 * SECOND // 1000)
    finally:
        await leases.close()


def test_processes_that_ended_are_known_on_their_machine() -> None:
    mine = new_node()
    assert not is_gone(mine)
    machine, _, rest = mine.split(".")
    assert is_gone(f"{machine}.{2**22 + 1}.{rest}")
    assert not is_gone(f"{'0' * 16}.{2**22 + 1}.{rest}")
    assert not any(map(is_gone, ("", "a.b.c", f"{machine}.x.y")))
