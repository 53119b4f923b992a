"""What a month costs: the same in however many pieces its use comes, and exact."""

from __future__ import annotations

import ast
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import aiaas_server.tenancy as room
from aiaas_client.protocol.prices import Price, Statement, StatementLine
from aiaas_server.tenancy.money import METERED, UNIT_OF, decimals_of
from aiaas_server.tenancy.months import HOUR
from aiaas_server.tenancy.prices import Book
from aiaas_server.tenancy.tally import Tally, Used

UNITS = sorted(UNIT_OF)
MODELS = ("", "mini", "minilm", "other")
AMOUNTS = st.decimals(0, 1000, places=6, allow_nan=False, allow_infinity=False)
CURRENCIES = st.sampled_from(["EUR", "JPY", "KWD"])


def price(number: int, **members: Any) -> Price:
    given = {"unit": "rows", "amount": "1", "currency": "EUR", **members}
    return Price(id=number, **given)


@st.composite
def books(draw: st.DrawFn) -> Book:
    currency = draw(CURRENCIES)
    found = []
    for number in range(1, draw(st.integers(1, 8)) + 1):
        members: dict[str, Any] = {
            "unit": UNIT_OF[draw(st.sampled_from(UNITS))],
            "amount": draw(AMOUNTS),
            "per": draw(st.sampled_from([1, 3, 7, 1000, 10**6])),
            "free": draw(st.sampled_from([0, 0, 1, 10, 1000])),
            "model": draw(st.sampled_from(["*", "mini", "mini*", "o*"])),
            "valid_from": float(draw(st.integers(0, 4)) * HOUR),
        }
        found.append(Price(id=number, currency=currency, **members))
    return Book(found)


USES = st.lists(
    st.builds(
        Used,
        st.integers(0, 5).map(lambda hour: hour * HOUR),
        st.sampled_from(MODELS),
        st.sampled_from(UNITS),
        st.sampled_from(["", "k1", "k2"]),
        st.integers(0, 10**13),
    ),
    max_size=25,
)


def lines_of(book: Book, used: list[Used]) -> list[StatementLine]:
    tally = Tally(book, "acme")
    tally.add_all(used)
    return tally.lines("2026-11")


@given(books(), USES, st.data())
@settings(max_examples=200, deadline=None)
def test_pieces_change_nothing(book: Book, used: list[Used], data: st.DataObject) -> None:
    """Use of an hour may come by other keys, in other pieces and in any order."""
    pieces: list[Used] = []
    for one in used:
        cut = data.draw(st.integers(0, one.amount))
        key = data.draw(st.sampled_from(["", "k3", "k4"]))
        pieces += [one._replace(amount=cut, key_id=key), one._replace(amount=one.amount - cut)]
    shuffled = data.draw(st.permutations(pieces))
    assert lines_of(book, list(shuffled)) == lines_of(book, used)


@given(books(), USES)
@settings(max_examples=200, deadline=None)
def test_lines_are_rounded_once_from_what_is_exact(book: Book, used: list[Used]) -> None:
    """Against whole fractions, which lose nothing."""
    raw: dict[tuple[str, int | None], int] = {}
    free: dict[Any, int] = {}
    billed: dict[tuple[str, int | None], int] = {}
    for one in sorted(used):
        found = book.find("acme", one.model, UNIT_OF[one.unit], one.hour)
        if found is None:
            continue
        factor, pool = METERED[found.unit].factor, (found.tenant, found.model, found.unit)
        left = max(found.free * factor - free.get(pool, 0), 0)
        taken = min(left, one.amount)
        free[pool] = free.get(pool, 0) + taken
        key = one.model, found.id
        raw[key] = raw.get(key, 0) + one.amount
        billed[key] = billed.get(key, 0) + one.amount - taken
    lines = lines_of(book, used)
    assert {(line.model, line.price_id) for line in lines} == set(raw)
    for line in lines:
        (found,) = (one for one in book.prices if one.id == line.price_id)
        exact = Fraction(billed[line.model, line.price_id]) * Fraction(found.amount)
        exact /= METERED[found.unit].factor * found.per
        coins = round(exact * 10 ** decimals_of(found.currency))  # half to even
        assert line.amount == Decimal(coins).scaleb(-decimals_of(found.currency))
        assert isinstance(line.amount, Decimal)
        assert isinstance(line.quantity, Decimal)


@given(books(), USES)
@settings(max_examples=50, deadline=None)
def test_a_copy_goes_on_alone(book: Book, used: list[Used]) -> None:
    tally = Tally(book, "acme")
    tally.add_all(used)
    before = tally.lines("2026-11"), tally.cost
    tally.copy().add_all(used)
    assert (tally.lines("2026-11"), tally.cost) == before


def test_a_price_changes_within_a_day() -> None:
    """Each hour has the price that counted in it: two lines, both rounded."""
    book = Book([price(1, amount="0.01"), price(2, amount="0.02", valid_from=2.0 * HOUR)])
    used = [Used(hour * HOUR, "mini", "rows", "", 10) for hour in range(4)]
    found = [(line.price_id, line.quantity, line.amount) for line in lines_of(book, used)]
    assert found == [
        (1, Decimal(20), Decimal("0.20")),
        (2, Decimal(20), Decimal("0.40")),
    ]


def test_free_units_are_used_up_in_time_by_all_models_of_a_price() -> None:
    book = Book([price(1, free=25)])
    used = [
        Used(0, "b", "rows", "", 10),
        Used(HOUR, "a", "rows", "", 20),  # the first fifteen of these
        Used(2 * HOUR, "b", "rows", "", 10),
    ]
    found = {line.model: (line.free, line.amount) for line in lines_of(book, used)}
    assert found == {"a": (Decimal(15), Decimal(5)), "b": (Decimal(10), Decimal(10))}


def test_a_price_that_takes_the_place_of_another_gives_nothing_free_again() -> None:
    book = Book([price(1, free=10), price(2, free=15, valid_from=float(HOUR))])
    used = [Used(0, "a", "rows", "", 10), Used(HOUR, "a", "rows", "", 10)]
    assert [line.free for line in lines_of(book, used)] == [Decimal(10), Decimal(5)]


@pytest.mark.parametrize(
    ("rows", "amount"), [(25, "0.12"), (75, "0.38"), (15, "0.08"), (35, "0.18"), (45, "0.22")]
)
def test_ties_go_to_the_even_coin(rows: int, amount: str) -> None:
    book = Book([price(1, amount="5", per=1000)])
    assert lines_of(book, [Used(0, "a", "rows", "", rows)])[0].amount == Decimal(amount)


def test_units_of_prices_are_larger_than_those_that_are_counted() -> None:
    book = Book(
        [
            price(1, unit="compute_seconds", amount="2"),
            price(2, unit="gib_months", amount="1"),
            price(3, unit="job_hours", amount="3"),
            price(4, unit="gib_out", amount="0.5"),
        ]
    )
    used = [
        Used(0, "", "stored_byte_seconds", "", (1 << 30) * 730 * 3600 * 2),
        Used(0, "", "job_us", "", 90 * 60 * 1_000_000),
        Used(0, "m", "bytes_out", "", 3 << 30),
        Used(0, "m", "compute_us", "", 1_500_000),
        Used(0, "m", "tokens_in", "", 5),  # has no price, and no line
    ]
    found = {line.unit: (line.quantity, line.amount) for line in lines_of(book, used)}
    assert found == {
        "compute_seconds": (Decimal("1.5"), Decimal(3)),
        "gib_months": (Decimal(2), Decimal(2)),
        "job_hours": (Decimal("1.5"), Decimal("4.5")),
        "gib_out": (Decimal(3), Decimal("1.5")),
    }


def test_the_cost_by_key_is_that_of_its_own_use() -> None:
    tally = Tally(Book([price(1, free=5)]), "acme", ["k1"])
    tally.add_all([Used(0, "a", "rows", "k0", 5), Used(HOUR, "a", "rows", "k1", 7)])
    assert tally.by_key == {"k1": Decimal(7)}
    assert tally.cost == Decimal(7)


def test_a_statement_as_text_and_as_html() -> None:
    line = StatementLine(
        month="2026-11",
        description="<b>mini</b>: rows",
        unit="rows",
        quantity=Decimal(1500),
        price=Decimal("0.25"),
        per=1000,
        amount=Decimal("0.38"),
    )
    made = Statement(
        tenant="acme", month="2026-11", currency="EUR", lines=(line,), total=line.amount
    )
    text = str(made)
    assert "acme" in text
    assert "0.25 / 1,000" in text
    assert text.count("0.38") == 2
    html = made._repr_html_()
    assert "&lt;b&gt;mini" in html
    assert "0.38 EUR" in html
    assert Statement.model_validate_json(made.model_dump_json()) == made
    assert '"0.38"' in made.model_dump_json()


def test_a_statement_as_a_frame() -> None:
    pytest.importorskip("pandas")
    line = StatementLine(month="2026-11", amount=Decimal("0.10"))
    frame = Statement(tenant="a", month="2026-11", lines=(line,)).to_frame()
    assert frame["amount"].sum() == Decimal("0.10")
    assert isinstance(frame["amount"][0], Decimal)


MONEY = ("money", "prices", "tally", "statements", "spending", "budget")


@pytest.mark.parametrize("name", MONEY)
def test_money_is_never_a_float(name: str) -> None:
    """No call of `float` that touches an amount, no division of it, and no column of it."""
    tree = ast.parse((Path(room.__path__[0]) / f"{name}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            pytest.fail(f"{name}.py:{node.lineno} divides")
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id == "float":
            assert isinstance(node, ast.Call)
            told = ast.unparse(node.args[0])
            assert told in ("begin", "hour_after(now)"), f"{name}.py:{node.lineno}: float({told})"
        if isinstance(called, ast.Name) and called.id == "Decimal":
            assert isinstance(node, ast.Call)
            first = node.args[0]
            is_float = isinstance(first, ast.Constant) and isinstance(first.value, float)
            assert not is_float, f"{name}.py:{node.lineno}"
