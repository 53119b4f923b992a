"""`aiaas usage`: what was used, as a table with bars, or as a file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aiaas_client._api.usage import UsageReport
from aiaas_client._cli.plain import escape
from aiaas_client._cli.server import Server
from aiaas_client._cli.session import AsJson, client_of, print_json
from aiaas_client.protocol.usage import UNITS, UsageRow

BAR = 20
"""Characters of the longest bar."""
_NAMES = ("tenant", "key", "model", "version")

By = Annotated[
    str | None,
    typer.Option(
        "--by",
        help="What rows tell apart: key, model, version, and one of hour, day, month; "
        "the operator may also ask by tenant. Several with commas: model,day.",
        show_default="model",
    ),
]
Start = Annotated[
    str | None,
    typer.Option("--start", help="From then on, 2026-11-01 or 2026-11-01T12:00; this month's 1st."),
]
End = Annotated[str | None, typer.Option("--end", help="And before then, of UTC; by default now.")]
Tenant = Annotated[
    str | None, typer.Option("--tenant", help="For the operator: of this tenant; * is all.")
]
OnlyModel = Annotated[str | None, typer.Option("--model", help="Only of this model.")]
OnlyKey = Annotated[str | None, typer.Option("--key", help="Only of this key, by its id.")]
OnlyUnit = Annotated[str | None, typer.Option("--unit", help="Only this unit.")]
ToCsv = Annotated[
    Path | None, typer.Option("--csv", help="Write all of it to this file, by hours or by --by.")
]


def usage(
    by: By = None,
    start: Start = None,
    end: End = None,
    tenant: Tenant = None,
    model: OnlyModel = None,
    key: OnlyKey = None,
    unit: OnlyUnit = None,
    csv: ToCsv = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """What was used: requests, rows, compute time, bytes, tokens, storage and jobs."""
    wanted: dict[str, Any] = {
        "start": start,
        "end": end,
        "tenant": tenant,
        "model": model,
        "key": key,
        "unit": unit,
    }
    with client_of(server) as client:
        if csv is not None:
            client.usage.export(csv, by=by, **wanted)
            return
        found = client.usage.get("model" if by is None else by, **wanted)
    if as_json:
        print_json([row.model_dump(mode="json", exclude_none=True) for row in found.rows])
    else:
        show(found, Console())


def show(found: UsageReport, console: Console) -> None:
    """Print a table a unit, its rows with bars as long as their part of the largest."""
    if not found.rows:
        console.print("nothing was used in that time")
        return
    names = [name for name in _NAMES if name in found.by]
    times = [name for name in found.by if name in ("hour", "day", "month")]
    for unit in UNITS:
        rows = [row for row in found.rows if row.unit == unit]
        if rows:
            console.print(_table(unit, rows, times, names))


def _table(
    unit: str, rows: Sequence[UsageRow], times: Sequence[str], names: Sequence[str]
) -> Table:
    table = Table(*times, *names, box=None, title=unit, title_justify="left")
    table.add_column("amount", justify="right")
    table.add_column("")
    largest = max(1, *(row.amount for row in rows))
    for row in rows:
        cells = [_time(row.time or 0, times[0])] if times else []
        cells += [escape(str(getattr(row, name))) for name in names]
        bar = "█" * round(BAR * max(0, row.amount) / largest)
        table.add_row(*cells, told_amount(unit, row.amount), bar or "▏")
    return table


def told_amount(unit: str, amount: int) -> str:
    """An amount for people: times in seconds, bytes as such, thousands apart."""
    if unit.endswith("_us"):
        return f"{amount / 1e6:,.3f} s"
    if unit == "stored_byte_seconds":
        return f"{amount / 3600 / (1 << 30):,.3f} GiB h"
    return f"{amount:,}"


def _time(seconds: int, kind: str) -> str:
    form = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m"}[kind]
    return datetime.fromtimestamp(seconds, UTC).strftime(form)
