"""Prices and statements from the command line: `aiaas prices add`, `aiaas statement 2026-11`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aiaas_client._cli.plain import escape
from aiaas_client._cli.registry import Limit, moment
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import AsJson, client_of, ended, exit_code_of, print_json
from aiaas_client._errors import AiaasError
from aiaas_client.protocol.prices import Price, PriceRequest, Statement, StatementLine, plain

OfTenant = Annotated[
    str | None, typer.Option("--tenant", help="Another tenant than one's own, for the operator.")
]
_MEMBERS = tuple(PriceRequest.model_fields)


def list_prices(
    tenant: OfTenant = None,
    all_: Annotated[bool, typer.Option("--all", help="Those too that count no more.")] = False,
    limit: Limit = 1000,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """List the price book: what costs how much, for whom, from when on."""
    with client_of(server) as client:
        found = client.prices.list(tenant=tenant, ended=all_, limit=limit)
    _print_prices(found, as_json)


def add_prices(
    unit: Annotated[
        str | None,
        typer.Argument(help="requests, rows, compute_seconds, tokens_in, gib_months, month, …"),
    ] = None,
    amount: Annotated[str | None, typer.Argument(help="Decimal, such as 0.25.")] = None,
    currency: Annotated[str | None, typer.Option("--currency", help="Such as EUR.")] = None,
    per: Annotated[int, typer.Option("--per", min=1, help="For so many units.")] = 1,
    model: Annotated[str, typer.Option("--model", help="A name, or a pattern with *.")] = "*",
    tenant: Annotated[str, typer.Option("--tenant", help="For this one only.")] = "",
    free: Annotated[int, typer.Option("--free", min=0, help="Free units a month.")] = 0,
    valid_from: Annotated[
        str | None,
        typer.Option("--from", help="2026-12-01 or a time, UTC; by default the next full hour."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="A CSV with such columns, or a JSON list, instead."),
    ] = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Add a price, or those of a file, one after another up to the first that is refused.

    A price counts from a full hour on, and is never edited: a later one takes its place.
    """
    added: list[Price] = []
    with client_of(server) as client:
        if file is None:
            given = {"per": per, "model": model, "tenant": tenant, "free": free}
            asked = [_one_price(unit, amount, currency, valid_from, given)]
        elif unit is None:
            asked = read_prices(file)
        else:
            raise UseError("give a unit and an amount, or --file, not both")
        for number, members in enumerate(asked, 1):
            try:
                added.append(client.prices.add(**members))
            except AiaasError as error:
                if file is None:
                    raise
                text = f"price {number} of {file}: {error}; those before it are added"
                raise ended(text, exit_code_of(error)) from None
    _print_prices(added, as_json)


def _one_price(
    unit: str | None,
    amount: str | None,
    currency: str | None,
    valid_from: str | None,
    given: dict[str, Any],
) -> dict[str, Any]:
    if unit is None or amount is None or currency is None:
        raise UseError("expected a unit, an amount and --currency, or --file")
    if valid_from is not None:
        given["valid_from"] = time_of(valid_from)
    return {"unit": unit, "amount": amount, "currency": currency, **given}


def end_price(
    number: Annotated[int, typer.Argument(min=1, help="As `aiaas prices list` tells it.")],
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Have a price count no more from the next full hour on."""
    with client_of(server) as client:
        price = client.prices.end(number)
    _print_prices([price], as_json)


def statement(
    month: Annotated[
        str | None, typer.Argument(help="Such as 2026-11; by default the current one, UTC.")
    ] = None,
    tenant: OfTenant = None,
    close: Annotated[
        bool, typer.Option("--close", help="Close it first; it must be over. For the operator.")
    ] = False,
    credit: Annotated[
        str | None, typer.Option("--credit", help="Credit so much first. For the operator.")
    ] = None,
    charge: Annotated[
        str | None, typer.Option("--charge", help="Charge so much first. For the operator.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Of a credit or charge.")] = "",
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Tell what a month costs: its lines and their total; a closed one never changes."""
    by_hand = credit is not None or charge is not None
    with client_of(server) as client:
        if (credit is not None) + (charge is not None) + close > 1:
            raise UseError("expected one of --close, --credit and --charge")
        if by_hand and not (reason and tenant and month):
            raise UseError("a credit or charge needs a month, --tenant and --reason")
        if close and month is None:
            raise UseError("--close needs a month")
        if by_hand:
            amount = charge if credit is None else f"-{credit}"
            found = client.statements.correct(
                str(month), str(amount), reason=reason, tenant=str(tenant)
            )
        elif close:
            found = client.statements.close(str(month), tenant=tenant)
        else:
            found = client.statements.get(month, tenant=tenant)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print_statement(found)


PRICES: dict[str, Callable[..., None]] = {
    "list": list_prices,
    "add": add_prices,
    "end": end_price,
}


# Files


def read_prices(path: Path) -> list[dict[str, Any]]:
    """The prices of a CSV or JSON file, as `client.prices.add` takes them.

    Raises:
        UseError: it is neither, or has what no price has.
        OSError: it cannot be read.
    """
    text = path.read_text("utf-8-sig")
    rows: Any = list(csv.DictReader(text.splitlines()))
    if path.suffix.lower() == ".json":
        try:  # decimals stay the text that they are
            rows = json.loads(text, parse_float=str)
        except ValueError as error:
            raise UseError(f"{path}: expected a JSON list of prices: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UseError(f"{path}: expected a list of prices")
    return [_price_of(path, number, row) for number, row in enumerate(rows, 1)]


def _price_of(path: Path, number: int, row: dict[Any, Any]) -> dict[str, Any]:
    known = {name: value for name, value in row.items() if value not in (None, "")}
    for name in known:
        if name not in _MEMBERS:
            listed = ", ".join(_MEMBERS)
            raise UseError(f"{path}: price {number}: expected {listed}, got {str(name)[:64]!r}")
    for name in ("unit", "amount", "currency"):
        if name not in known:
            raise UseError(f"{path}: price {number} has no {name}")
    if "valid_from" in known:
        known["valid_from"] = time_of(str(known["valid_from"]))
    return known


def time_of(text: str) -> datetime | float:
    """A day or a time of UTC, or seconds since 1970.

    Raises:
        UseError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UseError(
            f"a time: expected 2026-12-01, 2026-12-01T12:00 or seconds since 1970, got {text!r:.64}"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


# Tables


def _print_prices(found: Sequence[Price], as_json: bool) -> None:
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    table = Table("id", "unit", "price", "model", "tenant", "free", "from", "until", box=None)
    for one in found:
        each = f" / {one.per:,}" if one.per != 1 else ""
        table.add_row(
            str(one.id),
            one.unit,
            f"{plain(one.amount)} {one.currency}{each}",
            escape(one.model),
            escape(one.tenant or "all"),
            f"{one.free:,}" if one.free else "",
            moment(one.valid_from),
            "" if one.valid_until is None else moment(one.valid_until),
        )
    Console().print(table)


def _print_statement(found: Statement) -> None:
    about = ", ".join(filter(None, (found.tenant, found.month, found.state, found.currency)))
    table = Table("what", "quantity", "free", "price", "amount", box=None, title=escape(about))
    for column in table.columns[1:]:
        column.justify = "right"
    for cells in _rows(found.lines):
        table.add_row(*map(escape, cells))
    table.add_row("total", "", "", "", plain(found.total), style="bold")
    console = Console()
    console.print(table)
    if found.rounding:
        console.print(escape(found.rounding), style="dim")


def _rows(lines: Iterable[StatementLine]) -> Iterable[tuple[str, ...]]:
    for line in lines:
        price = "" if line.price is None else plain(line.price)
        each = f"{price} / {line.per:,}" if price and line.per != 1 else price
        quantity = "" if line.kind == "correction" else f"{line.quantity:,f}"
        free = f"{line.free:,f}" if line.free else ""
        yield line.description, quantity, free, each, plain(line.amount)
