"""Limits of spending: known in memory, told near their end, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from aiaas_client.protocol.tenants import Limits
from aiaas_server.app import create_app
from aiaas_server.core.errors import BudgetExceeded, StateUnavailable
from aiaas_server.core.events import Caller, Identity, InferenceRecord, Units
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.tables import CHANGES
from aiaas_server.tenancy.budget import (
    LONGEST_WAIT,
    Budget,
    _is_inference,
)
from aiaas_server.tenancy.costs import CostVisit, with_cost
from aiaas_server.tenancy.identities import Directory, KnownKey
from aiaas_server.tenancy.months import HOUR
from aiaas_server.tenancy.notices import Notice
from tests.server.tenancy.billing import DECEMBER, NOVEMBER, Billing

ACME = Identity("acme", "k1", frozenset({"infer"}))
INFER = "/v2/models/mini/infer"


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def directory(limit: str | None = "10", own: str | None = None) -> Directory:
    """One tenant, and one key of it."""
    spend = Limits(monthly_spend=None if limit is None else Decimal(limit))
    key = None if own is None else Limits(monthly_spend=Decimal(own))
    return Directory({"k1": KnownKey(ACME, b"", None, key)}, {"acme": spend})


def record(rows: int, tenant: Identity = ACME, **members: Any) -> InferenceRecord:
    visit = CostVisit(b"")
    given: dict[str, Any] = {
        "model": "acme/mini",
        "version": 1,
        "units": Units(rows),
        "batch_rows": rows,
        "queue_seconds": 0.0,
        "compute_seconds": 0.001,
        "total_seconds": 0.001,
        "failure": None,
        "caller": Caller(identity=tenant, visit=visit),
    }
    return InferenceRecord(**{**given, **members})


@pytest.fixture
def billing(database: Database) -> Billing:
    made = Billing(database)
    made.tenant("acme")
    made.price(month=NOVEMBER)
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock(NOVEMBER.begin + 100.0 * HOUR + 60)


def spent(budget: Budget) -> Decimal:
    budget._add_up()
    return budget._tally("acme", budget._clock()).cost


@pytest.mark.asyncio
async def test_what_was_spent_and_what_is_spent_add_up(billing: Billing, clock: Clock) -> None:
    """From hours that are long over, from the last ones, and from this process."""
    billing.price(month=NOVEMBER, unit="month", amount="2")
    billing.use("acme", NOVEMBER.begin, 1)
    billing.use("acme", NOVEMBER.begin + 99 * HOUR, 2, key_id="k2")
    billing.use("acme", NOVEMBER.begin - HOUR, 50)  # October's
    budget = Budget(billing.database, clock=clock)
    budget.follow_directory(directory("100"))
    await budget.start()
    assert spent(budget) == Decimal(5)
    budget.observe(record(3))
    budget.observe(record(3, caller=Caller(identity=ACME, shadow=True)))  # nobody asked
    assert spent(budget) == Decimal(8)
    billing.use("acme", NOVEMBER.begin + 100 * HOUR, 3)  # it has been written since
    await budget.refresh()
    assert spent(budget) == Decimal(8)
    clock.now += 20 * HOUR
    billing.use("acme", NOVEMBER.begin + 3 * HOUR, 4)  # a journal that comes in late
    await budget.refresh()
    assert spent(budget) == Decimal(12)


@pytest.mark.asyncio
async def test_a_new_price_counts_once_it_is_read(billing: Billing, clock: Clock) -> None:
    billing.use("acme", NOVEMBER.begin + 50 * HOUR, 2)
    budget = Budget(billing.database, clock=clock)
    budget.follow_directory(directory())
    await budget.refresh()
    billing.price(month=NOVEMBER, hours=10, tenant="acme", amount="3")
    await budget.refresh()
    assert spent(budget) == Decimal(6)


@pytest.mark.asyncio
async def test_requests_are_warned_then_refused_until_the_next_month(
    billing: Billing, clock: Clock
) -> None:
    budget = Budget(billing.database, clock=clock)
    budget.follow_directory(directory())
    await budget.refresh()
    assert budget(ACME, INFER) == b""
    budget.observe(record(7))
    assert budget(ACME, INFER) == b""
    budget.observe(record(1))
    warning = b"x-budget-warning: spent=8.00, limit=10.00, currency=EUR\r\n"
    assert budget(ACME, INFER) == warning
    budget.observe(record(2))
    with pytest.raises(BudgetExceeded, match=r"acme.*10\.00 EUR in 2026-11.*2026-12-01") as caught:
        budget(ACME, INFER)
    assert caught.value.retry_after == LONGEST_WAIT
    assert budget(ACME, "/api/v1/usage").startswith(b"x-budget-warning: spent=10.00")
    assert budget(ACME, "/v2/models/mini").startswith(b"x-budget-warning")
    assert budget(Identity("bolt"), INFER) == b""
    clock.now = DECEMBER.begin - 5.0
    with pytest.raises(BudgetExceeded) as caught:
        budget(ACME, INFER)
    assert caught.value.retry_after == 5.0
    clock.now = float(DECEMBER.begin)
    assert budget(ACME, INFER) == b""


@pytest.mark.asyncio
@pytest.mark.parametrize("dear", [1, 7, 300])
async def test_the_first_request_beyond_a_limit_is_told_so(
    billing: Billing, clock: Clock, dear: int
) -> None:
    """However many records wait to be added up, of two keys of which one has a limit, too."""
    other = ACME._replace(key_id="k2")
    budget = Budget(billing.database, clock=clock)
    budget.follow_directory(directory("2000", own="500"))
    await budget.refresh()
    known = {"k1": 0, "k2": 0}
    for number in range(2_100):
        who = (ACME, other, other)[number % 3]
        try:
            warning = budget(who, INFER)
        except BudgetExceeded:
            break
        all_of_it = sum(known.values())
        near = all_of_it >= 1600 or (who is ACME and known["k1"] >= 400)
        assert bool(warning) == near, (known, warning)
        budget.observe(record(dear, who))
        known[who.key_id] += dear
    else:
        pytest.fail("it was never refused")
    own, whole = who is ACME and known["k1"] >= 500, sum(known.values()) >= 2000
    assert own or whole


@pytest.mark.asyncio
async def test_a_key_has_a_limit_of_its_own(billing: Billing, clock: Clock) -> None:
    billing.use("acme", NOVEMBER.begin, 5, key_id="k2")
    budget = Budget(billing.database, clock=clock)
    budget.follow_directory(directory(None, own="3"))
    await budget.refresh()
    assert budget(ACME, INFER) == b""
    budget.observe(record(3))
    with pytest.raises(BudgetExceeded, match="key 'k1'"):
        budget(ACME, INFER)
    assert budget(ACME._replace(key_id="k2"), INFER) == b""


@pytest.mark.asyncio
async def test_a_limit_of_nothing_refuses_at_once(billing: Billing, clock: Clock) -> None:
    budget = Budget(billing.database, clock=clock)
    budget.follow_directory(directory("0"))
    with pytest.raises(BudgetExceeded):
        budget(ACME, INFER)


@pytest.mark.asyncio
async def test_each_limit_is_told_once_by_one_process(billing: Billing, clock: Clock) -> None:
    told: list[Notice] = []
    budgets = [Budget(billing.database, clock=clock) for _ in range(3)]
    for one in budgets:
        one.follow_directory(directory())
        one.told = told.append
        await one.refresh()
    assert told == []
    for amount, percent in ((8, 80), (3, 100)):
        billing.use("acme", NOVEMBER.begin + 99 * HOUR, amount, version=amount)
        for _ in range(2):
            await asyncio.gather(*(one.refresh() for one in budgets))
        assert [one.percent for one in told][-1] == percent
    assert [(one.percent, one.spent) for one in told] == [(80, Decimal(8)), (100, Decimal(11))]

    def read(connection: Any) -> list[Any]:
        asked = select(CHANGES).where(CHANGES.c.kind == "budget").order_by(CHANGES.c.seq)
        return list(connection.execute(asked))

    events = await billing.database.read(read)
    assert [(one.tenant, one.object) for one in events] == [("acme", "budget/2026-11")] * 2
    assert [one.data["percent"] for one in events] == [80, 100]
    assert events[0].data["spent"] == "8.00"


@pytest.mark.asyncio
async def test_without_a_database_what_is_known_goes_on(billing: Billing, clock: Clock) -> None:
    budget = Budget(billing.database, clock=clock)
    budget.follow_directory(directory())
    await budget.refresh()
    billing.database.close()
    with pytest.raises(StateUnavailable):
        await budget.refresh()
    budget.observe(record(10))
    with pytest.raises(BudgetExceeded):
        budget(ACME, INFER)
    await budget.start()  # tells nothing, and waits for better times


@pytest.mark.parametrize("tells", [False, True], ids=["waiting", "priced at once"])
@pytest.mark.asyncio
async def test_what_is_used_while_it_is_read_is_not_lost(
    billing: Billing, clock: Clock, tells: bool
) -> None:
    budget = Budget(billing.database, clock=clock, cost_header=tells)
    budget.follow_directory(directory())
    reading = asyncio.ensure_future(budget.refresh())
    await asyncio.sleep(0)  # the read is under way
    budget.observe(record(4))
    await reading
    assert spent(budget) == Decimal(4)


@pytest.mark.asyncio
async def test_an_answer_is_told_what_it_costs(billing: Billing, clock: Clock) -> None:
    """Its own, exact, free ones as nothing; several records of one request are added up."""
    billing.price(month=NOVEMBER, unit="requests", amount="0.01", free=1)
    billing.price(month=NOVEMBER, unit="cache_hits", amount="0.002")
    budget = Budget(billing.database, clock=clock, cost_header=True)
    await budget.refresh()
    one = record(2)
    visit = one.caller.visit
    assert visit is not None
    visit.headers = b"ratelimit: x\r\n"
    budget.observe(one)
    assert visit.headers == b"ratelimit: x\r\nx-cost: 2 EUR\r\n"
    budget.observe(one)
    assert visit.headers == b"ratelimit: x\r\nx-cost: 4.01 EUR\r\n"
    cached, failed = record(2, ending="cached"), record(2, failure="BACKEND", ending="failed")
    for each in (cached, failed):
        budget.observe(each)
    assert cached.caller.visit is not None
    assert failed.caller.visit is not None
    assert cached.caller.visit.headers == b"x-cost: 0.002 EUR\r\n"
    assert failed.caller.visit.headers == b""


def test_costs_are_added_among_other_lines() -> None:
    first = with_cost(b"a: 1\r\n", Decimal("0.1"), "EUR")
    assert with_cost(first + b"b: 2\r\n", Decimal("0.2"), "EUR") == (
        b"a: 1\r\nx-cost: 0.3 EUR\r\nb: 2\r\n"
    )


@pytest.fixture
async def paths(tmp_path: Any) -> AsyncIterator[set[str]]:
    """What can be posted to a server with everything."""
    async with create_app(Settings(data=tmp_path)) as app:
        yield {
            str(vars(route).get("path"))
            for route in app._routes._router.routes
            if "POST" in (getattr(route, "methods", None) or ())
        }


NOT_INFERENCE = (
    *("/v2/repository/", "/v2/systemsharedmemory/", "/v2/cudasharedmemory/"),
    *("/v2/logging", "/v2/trace/", "/api/v1/", "/v1/files", "/v1/batches", "/v1/uploads"),
)


@pytest.mark.asyncio
async def test_every_route_that_runs_a_model_is_known(paths: set[str]) -> None:
    """A route that is added is inference, or listed here as none."""
    assert "/v1/chat/completions" in paths
    for path in paths:
        concrete = path.replace("{model}", "mini").replace("{version:version}", "3")
        managing = path.startswith(NOT_INFERENCE) or path.endswith("/trace/setting")
        assert bool(_is_inference(concrete)) != managing, path
    for path in ("/v2/models/mini/infer", "/v2/models/mini/versions/1/infer"):
        assert _is_inference(path)
    for path in ("/v2", "/v1/models", "/v2/models/mini", "/v2/models/mini/ready", "/metrics"):
        assert not _is_inference(path)
