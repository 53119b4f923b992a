"""The price book: which price counts when, and what cannot be in it."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from pydantic import ValidationError

from aiaas_client.protocol.prices import Price, PriceRequest
from aiaas_server.core.author import SERVER
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound
from aiaas_server.state.database import Database
from aiaas_server.tenancy.money import decimals_of, rounded, told_cost
from aiaas_server.tenancy.months import HOUR, Month, hour_after, hour_from, month_at, read_month
from aiaas_server.tenancy.prices import Book, add_price, end_price, fits, list_prices, read_book
from aiaas_server.tenancy.rows import add_tenant

NOVEMBER = Month(2026, 11)
NOON = NOVEMBER.begin + 12 * HOUR


def price(number: int, **members: Any) -> Price:
    given = {"unit": "rows", "amount": "1", "currency": "EUR", **members}
    return Price(id=number, **given)


def asked(**members: Any) -> PriceRequest:
    return PriceRequest(**{"unit": "rows", "amount": "1", "currency": "EUR", **members})


def test_the_nearest_price_counts() -> None:
    """The tenant's before that of all, the nearer pattern before the wider, the later first."""
    book = Book(
        [
            price(1),
            price(2, model="mini*"),
            price(3, model="mini*", valid_from=NOON),
            price(4, model="mini"),
            price(5, tenant="acme", model="*"),
            price(6, model="m*i"),
        ]
    )

    def found(tenant: str, model: str, hour: int = 0) -> int:
        one = book.find(tenant, model, "rows", hour)
        assert one is not None
        return one.id

    assert found("bolt", "other") == 1
    assert found("bolt", "minilm") == 2
    assert found("bolt", "minilm", NOON) == 3
    assert found("bolt", "minilm", NOON - HOUR) == 2
    assert found("bolt", "mini") == 4  # a name before any pattern
    assert found("bolt", "maxi") == 6
    assert found("acme", "mini") == 5  # the tenant before the model
    assert book.find("bolt", "other", "requests", 0) is None


def test_a_pattern_fits_whole_names_only() -> None:
    assert fits("*", "")
    assert fits("a*c", "abc")
    assert fits("a*c", "ac")
    assert not fits("a*c", "abcd")
    assert not fits("a.c", "abc")
    assert not fits("abc*", "xabc")
    assert not fits("ab*ba", "aba")
    assert fits("a*b*c", "abbc")
    assert not fits("*b*b*", "abc")
    assert fits("**", "a")


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    assert not fits("*a" * 127 + "*", "a" * 126 + "b")
    assert fits("*a" * 126 + "*", "a" * 126 + "b")


def test_what_has_ended_gives_way_to_what_is_wider() -> None:
    book = Book([price(1), price(2, model="mini", valid_until=NOON)])
    before, after = (book.find("a", "mini", "rows", hour) for hour in (NOON - HOUR, NOON))
    assert before is not None
    assert before.id == 2
    assert after is not None
    assert after.id == 1


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-1", "1e30", "0." + "1" * 13, "", "one"])
def test_an_amount_is_a_plain_decimal(amount: str) -> None:
    with pytest.raises(ValidationError, match="amount"):
        asked(amount=amount)


def test_a_float_is_no_amount() -> None:
    """Neither in Python nor in JSON: it has lost what it was before it comes here."""
    with pytest.raises(ValidationError, match="decimal text"):
        asked(amount=0.1)
    document = json.dumps({"unit": "rows", "amount": 0.1, "currency": "EUR"})
    with pytest.raises(ValidationError, match="decimal text"):
        PriceRequest.model_validate_json(document)
    assert asked(amount="0.1").amount == Decimal("0.1")


@pytest.mark.parametrize("currency", ["eur", "EURO", "EU", "€", "EUR\n"])
def test_a_currency_is_three_capitals(currency: str) -> None:
    with pytest.raises(ValidationError, match="currency"):
        asked(currency=currency)


def test_hours_and_months_of_utc() -> None:
    assert str(month_at(NOON)) == "2026-11"
    assert NOVEMBER.next == Month(2026, 12)
    assert Month(2026, 12).next == Month(2027, 1)
    assert month_at(NOVEMBER.end - 1) == NOVEMBER
    assert month_at(NOVEMBER.end) == NOVEMBER.next
    assert hour_from(NOON) == NOON
    assert hour_from(NOON + 0.5) == NOON + HOUR
    assert hour_after(NOON) == NOON + HOUR
    for text in ("2026-13", "2026-1", "26-11", "2026-11-01", "", "９999-01"):
        with pytest.raises(InvalidInput, match="month"):
            read_month(text)


def test_coins() -> None:
    """Ties go to the even coin, in the decimals of the currency."""
    assert rounded(Decimal("0.125"), "EUR") == Decimal("0.12")
    assert rounded(Decimal("0.135"), "EUR") == Decimal("0.14")
    assert rounded(Decimal("2.5"), "JPY") == Decimal(2)
    assert rounded(Decimal("0.0005"), "KWD") == Decimal("0.000")
    assert [decimals_of(one) for one in ("EUR", "JPY", "KWD")] == [2, 0, 3]
    assert told_cost(Decimal("0.000250")) == "0.00025"
    assert told_cost(Decimal(100)) == "100"
    assert told_cost(Decimal("1e-13")) == "0"


@pytest.mark.asyncio
async def test_prices_are_added_and_ended_never_edited(database: Database) -> None:
    now = NOON + 600.0
    first = await database.write(lambda c: add_price(c, SERVER, asked(), now))
    assert first.valid_from == NOON + HOUR  # the next full hour
    later = await database.write(
        lambda c: add_price(c, SERVER, asked(amount="2", valid_from=NOON + 3 * HOUR - 1.0), now)
    )
    assert later.valid_from == NOON + 3 * HOUR
    ended = await database.write(lambda c: end_price(c, SERVER, first.id, now))
    assert ended.valid_until == NOON + HOUR
    with pytest.raises(Conflict, match="ended before"):
        await database.write(lambda c: end_price(c, SERVER, first.id, now))
    with pytest.raises(NotFound, match="no price 99"):
        await database.write(lambda c: end_price(c, SERVER, 99, now))

    def read(connection: Any) -> list[int]:
        found = list_prices(connection, 0, 10, tenant=None, ended=False, now=NOON + 2.0 * HOUR)
        return [one.id for one in found]

    assert await database.read(read) == [later.id]
    book = await database.read(read_book)
    assert [one.amount for one in book.prices] == [Decimal(1), Decimal(2)]
    assert book.currency == "EUR"


@pytest.mark.asyncio
async def test_a_book_refuses_what_it_cannot_hold(database: Database) -> None:
    async def add(**members: Any) -> Price:
        return await database.write(lambda c: add_price(c, SERVER, asked(**members), float(NOON)))

    await add(valid_from=NOVEMBER.begin)  # as far back as the month goes
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (Conflict, "one currency", {"currency": "USD"}),
        (Conflict, "same hour", {"valid_from": NOVEMBER.begin, "amount": "3"}),
        (InvalidInput, "2026-11 or later", {"valid_from": NOVEMBER.begin - HOUR}),
        (InvalidInput, "no tenant 'nobody'", {"tenant": "nobody"}),
        (InvalidInput, "base fee", {"unit": "month", "per": 2}),
        (InvalidInput, "base fee", {"unit": "month", "model": "mini"}),
        (InvalidInput, "base fee", {"unit": "month", "free": 1}),
    ]
    for kind, text, members in refused:
        with pytest.raises(kind, match=text):
            await add(**members)
    await database.write(lambda c: add_tenant(c, SERVER, "acme", "basic"))
    await add(tenant="acme", valid_from=NOVEMBER.begin)
    assert len((await database.read(read_book)).prices) == 2


@pytest.mark.asyncio
async def test_a_tenant_sees_its_own_prices_and_those_of_all(database: Database) -> None:
    for name in ("acme", "bolt"):
        await database.write(partial(add_tenant, author=SERVER, name=name, plan="basic"))
        own_price = asked(tenant=name)
        await database.write(partial(add_price, author=SERVER, asked=own_price, now=NOON))
    everyone = await database.write(lambda c: add_price(c, SERVER, asked(), NOON))

    def of(tenant: str | None) -> Any:
        return lambda c: list_prices(c, 0, 10, tenant=tenant, ended=True, now=NOON)

    own = await database.read(of("acme"))
    assert [one.tenant for one in own] == ["acme", ""]
    assert own[-1] == everyone
    assert len(await database.read(of(None))) == 3
