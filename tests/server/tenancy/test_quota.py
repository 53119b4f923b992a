"""Who may come in: limits of tenants and keys, what is told, and what a change of them keeps."""

from __future__ import annotations

from typing import Any

import pytest

from aiaas_client.protocol.tenants import UNLIMITED, Limits
from aiaas_server.core.errors import BudgetExceeded, LimitReached
from aiaas_server.core.events import Caller, Identity, InferenceRecord, Units
from aiaas_server.tenancy.gcra import SECOND
from aiaas_server.tenancy.identities import Directory, KnownKey
from aiaas_server.tenancy.quota import Quotas

ONE, TWO = Identity("acme", "one"), Identity("acme", "two")
BARS = Identity("bars", "three")


class Now:
    """A clock that a test sets."""

    ns = 0

    def __call__(self) -> int:
        return self.ns


def limits(**some: Any) -> Limits:
    """Only those."""
    return UNLIMITED.model_copy(update=some)


def directory(acme: Limits | None, one: Limits | None = None, **more: Limits) -> Directory:
    """Two keys of `acme`, the first with limits of its own, and one of `bars`."""
    keys = {
        who.key_id: KnownKey(who, b"", None, one if who is ONE else None)
        for who in (ONE, TWO, BARS)
    }
    return Directory(keys, {**({} if acme is None else {"acme": acme}), **more})


def quotas(acme: Limits | None, one: Limits | None = None, **more: Limits) -> tuple[Quotas, Now]:
    now = Now()
    made = Quotas(now)
    made.follow(directory(acme, one, **more))
    return made, now


def record(who: Identity, rows: int, **more: Any) -> InferenceRecord:
    caller = Caller("an-id", identity=who, shadow=more.pop("shadow", False))
    values = {"batch_rows": rows, "failure": None, **more}
    return InferenceRecord(
        "m", 1, Units(rows), queue_seconds=0, compute_seconds=0, total_seconds=0, caller=caller,
        **values,
    )  # fmt: skip


def test_where_nothing_limits_nothing_is_told_or_counted() -> None:
    made, _ = quotas(UNLIMITED)
    for who in (ONE, Identity()):
        assert made.enter(who, "/v2").headers == b""
    assert made.limited == {}


def test_keys_of_a_tenant_share_its_limit_and_no_other_tenant_does() -> None:
    made, now = quotas(limits(requests_per_second=50.0, burst=100))
    for who in (ONE, TWO) * 50:
        made.enter(who, "/v2")
    for who in (ONE, TWO):
        with pytest.raises(LimitReached, match="requests_per_second: tenant 'acme' may ask 50"):
            made.enter(who, "/v2")
    assert made.enter(BARS, "/v2").headers == b""
    now.ns += SECOND // 50
    made.enter(ONE, "/v2")
    with pytest.raises(LimitReached):
        made.enter(TWO, "/v2")


def test_a_key_has_its_own_limits_inside_those_of_its_tenant() -> None:
    made, _ = quotas(
        limits(requests_per_second=50.0, burst=10), limits(requests_per_second=1.0, burst=3)
    )
    for _ in range(3):
        made.enter(ONE, "/v2")
    with pytest.raises(LimitReached, match="key 'one' may ask 1 times a second, 3 at once"):
        made.enter(ONE, "/v2")
    for _ in range(7):
        made.enter(TWO, "/v2")
    with pytest.raises(LimitReached, match="tenant 'acme'"):
        made.enter(TWO, "/v2")


def test_what_is_told_is_in_the_words_of_the_draft() -> None:
    made, _ = quotas(limits(requests_per_second=50.0, burst=100))
    for _ in range(42):
        made.enter(ONE, "/v2")
    told = b'ratelimit-policy: "requests";q=100;w=2\r\nratelimit: "requests";r=57;t=1\r\n'
    assert made.enter(ONE, "/v2").headers == told
    for _ in range(57):
        made.enter(ONE, "/v2")
    with pytest.raises(LimitReached) as refused:
        made.enter(ONE, "/v2")
    assert refused.value.headers == told.replace(b"r=57", b"r=0")
    assert refused.value.retry_after == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("rate", "burst", "policy"),
    [(50, 5, b"q=50;w=1"), (0.5, 1, b"q=1;w=2"), (3, 100, b"q=102;w=34"), (0.3, 1, b"q=1;w=4")],
)
def test_a_window_is_whole_seconds(rate: float, burst: int, policy: bytes) -> None:
    made, _ = quotas(limits(requests_per_second=float(rate), burst=burst))
    assert policy in made.enter(ONE, "/v2").headers


def test_places_are_freed_once() -> None:
    made, _ = quotas(limits(in_flight=2), limits(in_flight=1))
    first, second = made.enter(ONE, "/v2"), made.enter(TWO, "/v2")
    with pytest.raises(LimitReached, match="in_flight: tenant 'acme' may have 2 requests"):
        made.enter(TWO, "/v2")
    first.leave()
    first.leave()
    made.enter(ONE, "/v2")
    with pytest.raises(LimitReached):
        made.enter(TWO, "/v2")
    second.leave()
    with pytest.raises(LimitReached, match="key 'one' may have 1"):
        made.enter(ONE, "/v2")


def test_a_refused_request_takes_nothing() -> None:
    made, _ = quotas(limits(requests_per_second=1.0, burst=5, in_flight=1))
    stay = made.enter(ONE, "/v2")
    for _ in range(100):
        with pytest.raises(LimitReached, match="in_flight"):
            made.enter(ONE, "/v2")
    stay.leave()
    assert b"r=3" in made.enter(ONE, "/v2").headers


def test_rows_are_a_debt_that_the_next_requests_wait_for() -> None:
    made, now = quotas(limits(rows_per_second=100.0))
    made.enter(ONE, "/v2")
    made.charge(record(ONE, 1000))
    with pytest.raises(LimitReached, match="rows_per_second: tenant 'acme' may send 100") as told:
        made.enter(TWO, "/v2")
    assert told.value.retry_after == pytest.approx(9.01)
    assert b'"rows";r=0;t=10' in told.value.headers
    now.ns += int(9.02 * SECOND)
    made.enter(ONE, "/v2")


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ({}, True),
        ({"batch_rows": 0}, True),
        ({"failure": "CANCELED"}, True),
        ({"failure": "REJECTED", "batch_rows": 0}, False),
        ({"shadow": True}, False),
    ],
    ids=["answered", "cached", "abandoned", "refused", "shadow"],
)
def test_rows_count_that_were_run_or_answered(more: dict[str, Any], counts: bool) -> None:
    made, now = quotas(limits(rows_per_second=100.0))
    made.charge(record(ONE, 1000, **more))
    rows = made.limited["acme"].rows
    assert rows is not None
    assert (rows.wait(now()) > 0) is counts


def test_a_change_of_limits_forgets_nothing_of_those_that_stay() -> None:
    spent = limits(requests_per_second=1.0, burst=10, in_flight=4)
    made, _ = quotas(spent)
    stays = [made.enter(ONE, "/v2") for _ in range(4)]
    made.follow(directory(spent, bars=limits(in_flight=1)))
    with pytest.raises(LimitReached, match="in_flight"):
        made.enter(ONE, "/v2")
    made.follow(directory(spent.model_copy(update={"in_flight": 5})))
    assert b"r=5" in made.enter(ONE, "/v2").headers
    made.follow(directory(None))
    assert made.enter(ONE, "/v2").headers == b""
    for stay in stays:
        stay.leave()


def test_a_budget_is_asked_and_its_lines_are_told() -> None:
    made, _ = quotas(limits(requests_per_second=1.0, burst=2, in_flight=5))
    asked = []

    def budget(identity: Identity, path: str) -> bytes:
        asked.append((identity.tenant, path))
        if len(asked) > 1:
            raise BudgetExceeded("monthly_spend: all of it")
        return b"x-budget: 80\r\n"

    made.budget = budget
    assert made.enter(ONE, "/v2/x").headers.startswith(b"x-budget: 80\r\nratelimit-policy")
    with pytest.raises(BudgetExceeded):
        made.enter(ONE, "/v2/y")
    assert asked == [("acme", "/v2/x"), ("acme", "/v2/y")]
    made.budget = None
    assert b"r=0" in made.enter(ONE, "/v2").headers, "who was refused has used nothing"
    assert made.limited["acme"].in_flight == 2
