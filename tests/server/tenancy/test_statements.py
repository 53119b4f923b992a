"""Statements: open ones grow, closed ones never change, and nothing is billed twice or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import func, select

from aiaas_client.protocol.prices import Statement
from aiaas_server.core.author import SERVER
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade
from aiaas_server.state.tables import CHANGES
from aiaas_server.state.tenant_tables import STATEMENTS
from aiaas_server.tenancy.closing import Closing
from aiaas_server.tenancy.months import HOUR, Month
from aiaas_server.tenancy.prices import end_price
from aiaas_server.tenancy.statements import CLOSING_LAG, close, correct, statement
from tests.server.tenancy.billing import DECEMBER, NOVEMBER, OCTOBER, Billing

MID_NOVEMBER = NOVEMBER.begin + 15.0 * 24 * HOUR
IN_DECEMBER = DECEMBER.begin + 2.0 * HOUR


@pytest.fixture
def billing(database: Database) -> Billing:
    made = Billing(database)
    made.tenant("acme")
    return made


def told(billing: Billing, month: Month, now: float = IN_DECEMBER) -> Statement:
    return billing.database.read_now(lambda c: statement(c, "acme", month, now))


def closed(billing: Billing, month: Month, now: float = IN_DECEMBER) -> Statement:
    return billing.database.submit(lambda c: close(c, "acme", month, now)).result()


def kinds(found: Statement) -> list[tuple[str, str, Decimal]]:
    return [(line.kind, line.month, line.amount) for line in found.lines]


def test_an_open_month_is_what_was_used_so_far(billing: Billing) -> None:
    billing.price(amount="0.25", per=1000)
    billing.price(unit="month", amount="10")
    assert kinds(told(billing, NOVEMBER)) == [("base", "2026-11", Decimal("10.00"))]
    billing.use("acme", NOVEMBER.begin, 3000)
    billing.use("acme", NOVEMBER.end - HOUR, 1000, key_id="k", version=2)
    billing.use("acme", NOVEMBER.end, 500)  # December's
    billing.use("bolt", NOVEMBER.begin, 700)  # another's
    found = told(billing, NOVEMBER)
    assert kinds(found)[1:] == [("usage", "2026-11", Decimal("1.00"))]
    assert found.total == Decimal("11.00")
    assert (found.state, found.currency) == ("open", "EUR")
    assert "half to even" in found.rounding


def test_a_base_fee_is_of_a_whole_month(billing: Billing) -> None:
    """Not told by the day: the first that counts in a month is charged in full, later ones not."""
    billing.price(month=NOVEMBER, hours=100, unit="month", amount="10")
    billing.price(month=NOVEMBER, hours=200, unit="month", amount="20")
    assert kinds(told(billing, OCTOBER)) == []
    assert told(billing, NOVEMBER).total == Decimal("10.00")
    assert told(billing, DECEMBER).total == Decimal("20.00")


def test_nobody_pays_for_months_before_it_was_there(billing: Billing) -> None:
    billing.price(unit="month", amount="10")
    billing.tenant("late", created=float(DECEMBER.begin))
    found = billing.database.read_now(lambda c: statement(c, "late", NOVEMBER, IN_DECEMBER))
    assert (found.lines, found.total) == ((), Decimal("0.00"))


def test_a_closed_month_never_changes(billing: Billing) -> None:
    """Use that comes in late is a line of the next statement, once."""
    billing.price(free=10)
    billing.use("acme", OCTOBER.begin + HOUR, 100)
    billing.use("acme", NOVEMBER.begin, 50)
    before = closed(billing, OCTOBER)
    assert kinds(before) == [("usage", "2026-10", Decimal("90.00"))]
    billing.use("acme", OCTOBER.begin, 7, model="other")  # earlier: it takes of what is free
    assert closed(billing, OCTOBER) == before == told(billing, OCTOBER)
    assert before.state == "closed"
    late = [
        ("late", "2026-10", Decimal("7.00")),  # mini has three free rows only, for ten
        ("late", "2026-10", Decimal("0.00")),
    ]
    november = told(billing, NOVEMBER)
    assert kinds(november) == [("usage", "2026-11", Decimal("40.00")), *late]
    assert november.total == Decimal("47.00")
    assert kinds(told(billing, DECEMBER)) == []  # it is not on two statements
    assert kinds(closed(billing, NOVEMBER))[1:] == late
    assert kinds(told(billing, DECEMBER)) == []
    billing.use("acme", OCTOBER.begin, 5)
    billing.use("acme", NOVEMBER.begin + HOUR, 3)
    assert sorted(kinds(told(billing, DECEMBER))) == [
        ("late", "2026-10", Decimal("2.00")),  # of what was free, other has two rows fewer
        ("late", "2026-10", Decimal("3.00")),
        ("late", "2026-11", Decimal("3.00")),
    ]


def test_prices_that_end_or_begin_later_leave_closed_months_alone(billing: Billing) -> None:
    price = billing.price()
    billing.use("acme", OCTOBER.begin, 4)
    before = closed(billing, OCTOBER)
    billing.database.submit(lambda c: end_price(c, SERVER, price.id, MID_NOVEMBER)).result()
    billing.price(month=NOVEMBER, hours=15 * 24 + 1, amount="9")
    assert told(billing, OCTOBER) == before
    assert kinds(told(billing, NOVEMBER)) == []


def test_a_correction_is_a_line_of_the_first_open_statement(billing: Billing) -> None:
    billing.price()
    billing.use("acme", OCTOBER.begin, 4)

    def correcting(about: Month, amount: str, reason: str = "a mistake") -> Statement:
        return billing.database.submit(
            lambda c: correct(c, SERVER, "acme", about, Decimal(amount), reason, IN_DECEMBER)
        ).result()

    here = correcting(OCTOBER, "-1.50")
    assert here.month == "2026-10"  # still open
    assert here.total == Decimal("2.50")
    before = closed(billing, OCTOBER)
    later = correcting(OCTOBER, "-0.25", "out of courtesy")
    assert later.month == "2026-11"
    assert kinds(later) == [("correction", "2026-10", Decimal("-0.25"))]
    assert "out of courtesy" in later.lines[0].description
    assert told(billing, OCTOBER) == before
    assert closed(billing, NOVEMBER).total == Decimal("-0.25")
    assert told(billing, DECEMBER).lines == ()
    with pytest.raises(InvalidInput, match="2 decimals"):
        correcting(NOVEMBER, "0.001")
    with pytest.raises(InvalidInput, match="not begun"):
        correcting(DECEMBER.next, "1")


def test_what_cannot_be_told_or_closed(billing: Billing) -> None:
    with pytest.raises(InvalidInput, match="2027-01 has not begun"):
        told(billing, DECEMBER.next)
    with pytest.raises(Conflict, match="2026-12 is not over"):
        closed(billing, DECEMBER)
    with pytest.raises(NotFound, match="no tenant 'nobody'"):
        billing.database.read_now(lambda c: statement(c, "nobody", NOVEMBER, IN_DECEMBER))
    with pytest.raises(InvalidInput, match="price book is empty"):
        billing.database.submit(
            lambda c: correct(c, SERVER, "acme", NOVEMBER, Decimal(1), "why", IN_DECEMBER)
        ).result()


def test_closing_a_month_closes_those_before_it(billing: Billing) -> None:
    billing.price()
    billing.use("acme", OCTOBER.begin, 4)
    closed(billing, NOVEMBER)
    assert told(billing, OCTOBER).state == "closed"
    assert told(billing, OCTOBER).total == Decimal("4.00")


@pytest.fixture
def two(state_url: str) -> Iterator[tuple[Database, Database]]:
    """Two processes on one database, as far as it can tell."""
    upgrade(state_url)
    made = Database(state_url), Database(state_url)
    yield made
    for one in made:
        one.close()


@pytest.mark.asyncio
async def test_many_who_close_at_once_close_once(two: tuple[Database, Database]) -> None:
    billing = Billing(two[0])
    billing.price()
    for number in range(5):
        billing.tenant(f"t{number}")
        billing.use(f"t{number}", NOVEMBER.begin, 10 + number)

    def clock() -> float:
        return DECEMBER.begin + CLOSING_LAG

    early = [Closing(one, clock=lambda: clock() - 1.0) for one in two]
    assert [await one.look() for one in early] == [5, 0]  # October's
    every = [Closing(one, clock=clock) for one in (*two, *two)]
    await asyncio.gather(*(one.look() for one in every))

    def counts(connection: Any) -> tuple[int, int]:
        asked = select(func.count()).select_from(STATEMENTS)
        events = select(func.count()).select_from(CHANGES).where(CHANGES.c.kind == "statement")
        return connection.execute(asked).scalar_one(), connection.execute(events).scalar_one()

    assert await two[1].read(counts) == (10, 10)
    assert [await one.look() for one in every] == [0, 0, 0, 0]
    for number in range(5):
        asked = partial(statement, tenant=f"t{number}", month=NOVEMBER, now=IN_DECEMBER)
        found = await two[1].read(asked)
        assert found.total == Decimal(f"{10 + number}.00")


@pytest.mark.asyncio
async def test_nothing_is_closed_where_nothing_has_a_price(database: Database) -> None:
    billing = Billing(database)
    billing.tenant("acme")
    billing.use("acme", OCTOBER.begin, 4)
    assert await Closing(database, clock=lambda: IN_DECEMBER).look() == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(0, 2), st.integers(0, 40), st.integers(1, 5000)),
        st.tuples(st.just("close"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("correct"), st.integers(0, 2), st.just(0), st.integers(-500, 500)),
    ),
    max_size=14,
)


@given(STEPS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whenever_months_are_closed_all_is_billed_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, int]]
) -> None:
    """Totals are sums of lines, closed ones stay, and all months together do not depend on it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('months') / 'state.db'}"
    upgrade(url)
    database = Database(url)
    try:
        billing = Billing(database)
        billing.tenant("acme")
        billing.price(amount="0.005", free=100)
        months = (OCTOBER, NOVEMBER, DECEMBER)
        kept: dict[Month, Statement] = {}
        rows: dict[tuple[int, int], int] = {}
        corrected = Decimal(0)
        for number, (step, place, hour, amount) in enumerate(steps):
            month = months[place]
            if step == "use":
                billing.use("acme", month.begin + hour * HOUR, amount, version=number)
                rows[place, hour] = rows.get((place, hour), 0) + amount
            elif step == "close":
                closed(billing, month)
                kept |= {one: told(billing, one) for one in months[: place + 1] if one not in kept}
            else:
                cents = Decimal(amount).scaleb(-2)
                corrected += cents
                work = partial(
                    correct,
                    author=SERVER,
                    tenant="acme",
                    about=month,
                    amount=cents,
                    reason="x",
                    now=IN_DECEMBER,
                )
                database.submit(work).result()
        found = [told(billing, one) for one in months]
        for one in found:
            assert one.total == sum((line.amount for line in one.lines), Decimal(0))
        for month, before in kept.items():
            assert told(billing, month) == before
        expected = Decimal(0)
        for place in range(3):
            used = sum(amount for (at, _), amount in rows.items() if at == place)
            cost = Decimal(max(used - 100, 0)) * Decimal("0.005")
            expected += cost.quantize(Decimal("0.01"))  # half to even by default
        assert sum((one.total for one in found), Decimal(0)) == expected + corrected
    finally:
        database.close()
