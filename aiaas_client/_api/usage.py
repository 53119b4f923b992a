"""Calls of usage: what was used, by whom, when; and what the rows look like."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from aiaas_client import _errors as errors
from aiaas_client._api.call import DOWNLOAD, Call, DownloadCall, Response, ServerEvent
from aiaas_client._api.management import PAGE_ITEMS, ROOT, Part, nothing, registry_call, validated
from aiaas_client._api.plots import new_figure
from aiaas_client.protocol.documents import Told
from aiaas_client.protocol.usage import BY, TIMES, UNITS, By, UsageRow

if TYPE_CHECKING:
    import pandas as pd

Time = date | datetime | str
ExportFormat = Literal["csv", "jsonl"]
Target = Path | str | IO[bytes]

MOST_LINES = 8
"""Of one picture; the rest is added up to one."""
_PATH = f"{ROOT}/usage"


class UsageReport(Told):
    """What was used: a row for each unit of each group that was asked for.

    Attributes:
        by: What the rows tell apart, beside the unit.
        rows: In order of time, tenant, key, model, version, unit.
    """

    by: tuple[By, ...] = ()
    rows: tuple[UsageRow, ...] = ()

    @property
    def total(self) -> dict[str, int]:
        """The sum of all rows, by unit."""
        found: dict[str, int] = {}
        for row in self.rows:
            found[row.unit] = found.get(row.unit, 0) + row.amount
        return found

    def to_frame(self) -> pd.DataFrame:
        """Give a row for each group and a column for each unit, whole numbers.

        The other columns are what the rows were asked by; times are of UTC.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise errors.ConfigurationError("pandas is not installed: pip install pandas") from None
        groups: dict[tuple[Any, ...], dict[str, int]] = {}
        names = _columns(self.by)
        for row in self.rows:
            group = tuple(getattr(row, name) for name in names)
            amounts = groups.setdefault(group, {})
            amounts[row.unit] = amounts.get(row.unit, 0) + row.amount
        units = [unit for unit in UNITS if any(unit in amounts for amounts in groups.values())]
        frame = pd.DataFrame(
            [
                [*group, *(amounts.get(unit, 0) for unit in units)]
                for group, amounts in groups.items()
            ],
            columns=pd.Index([*names, *units]),
        )
        if "time" in names:
            frame["time"] = pd.to_datetime(frame["time"], unit="s", utc=True)
        return frame

    def plot(self, unit: str = "requests", figure: Any = None) -> Any:
        """Draw one unit: over time where rows were asked by a time, else a bar for each group.

        Args:
            unit: As in `protocol.usage`.
            figure: A matplotlib figure to draw on; a new one by default.
        Returns:
            The figure.
        Raises:
            ConfigurationError: matplotlib is not installed.
            InputError: there is no such unit.
        """
        if unit not in UNITS:
            raise errors.InputError(f"unit: expected one of {', '.join(UNITS)}, got {unit!r}")
        if figure is None:
            figure = new_figure((9, 5))
        axes = figure.subplots()
        groups = _groups([row for row in self.rows if row.unit == unit], self.by)
        if any(name in TIMES for name in self.by):
            _plot_times(axes, groups)
        else:
            sums = {label: sum(amounts.values()) for label, amounts in groups.items()}
            axes.barh(list(sums)[::-1], list(sums.values())[::-1])
        axes.set_title(unit)
        return figure


def usage_page(query: dict[str, str], after: str | None, limit: int = PAGE_ITEMS) -> Call[Part]:
    """`GET /api/v1/usage`, one part of it."""
    told = query | {"limit": str(limit)} | ({"after": after} if after else {})
    return registry_call("GET", f"{_PATH}?{urlencode(told)}", _read_page)


def export(query: dict[str, str], form: ExportFormat) -> DownloadCall:
    """`GET /api/v1/usage?format=…`, everything, as it comes.

    Raises:
        InputError: there is no such format.
    """
    if form not in ("csv", "jsonl"):
        raise errors.InputError(f"format: expected 'csv' or 'jsonl', got {str(form)[:40]!r}")
    path = f"{_PATH}?{urlencode(query | {'format': form})}"
    return DownloadCall(registry_call("GET", path, nothing, headers=(DOWNLOAD,)), _piece)


def query_of(
    by: Sequence[By] | str | None,
    start: Time | None,
    end: Time | None,
    **wanted: str | int | None,
) -> dict[str, str]:
    """What is asked for, as a query.

    Raises:
        InputError: it cannot be asked for.
    """
    found: dict[str, str] = {}
    if by is not None:
        found["by"] = ",".join(names_of(by))
    for name, time in (("start", start), ("end", end)):
        if time is not None:
            found[name] = str(seconds_of(name, time))
    unit = wanted.get("unit")
    if unit is not None and unit not in UNITS:
        raise errors.InputError(f"unit: expected one of {', '.join(UNITS)}, got {unit!r}")
    return found | {name: str(value) for name, value in wanted.items() if value is not None}


def names_of(by: Sequence[By] | str) -> tuple[By, ...]:
    """What rows are to tell apart: names in a list, or in a text with commas.

    Raises:
        InputError: one of them is none.
    """
    given = by.split(",") if isinstance(by, str) else list(by)
    found = []
    for name in given:
        if name not in BY:
            raise errors.InputError(f"by: expected some of {', '.join(BY)}, got {str(name)[:40]!r}")
        found.append(name)
    if len([name for name in found if name in TIMES]) > 1:
        raise errors.InputError(f"by: expected one of {', '.join(TIMES)}, got {', '.join(found)}")
    return tuple(found)


def seconds_of(name: str, time: Time) -> int:
    """Seconds since 1970 of a date (its midnight of UTC), a time (UTC where it does not say), or
    the ISO text of one.

    Raises:
        InputError: it is none of these.
    """
    wanted = "a date, a datetime, or ISO text such as '2026-11-01' or '2026-11-01T12:00:00+01:00'"
    if isinstance(time, str):
        text = time
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise errors.InputError(f"{name}: expected {wanted}, got {text[:40]!r}") from None
    if not isinstance(time, date):
        raise errors.InputError(f"{name}: expected {wanted}, got {type(time).__name__}")
    if not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day, tzinfo=UTC)
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return max(0, int(aware.timestamp()))


def _columns(by: Sequence[By]) -> list[str]:
    names = ["time"] if any(name in TIMES for name in by) else []
    return names + [name for name in ("tenant", "key", "model", "version") if name in by]


def _groups(rows: Sequence[UsageRow], by: Sequence[By]) -> dict[str, dict[int, int]]:
    """By what a group is called, its amounts by time; the largest first, the others as one."""
    names = [name for name in _columns(by) if name != "time"]
    groups: dict[str, dict[int, int]] = {}
    for row in rows:
        label = " ".join(str(getattr(row, name)) or "-" for name in names) or "all"
        amounts = groups.setdefault(label, {})
        amounts[row.time or 0] = amounts.get(row.time or 0, 0) + row.amount
    ranked = sorted(groups, key=lambda label: -sum(groups[label].values()))
    found = {label: groups[label] for label in ranked[:MOST_LINES]}
    for label in ranked[MOST_LINES:]:
        rest = found.setdefault("others", {})
        for time, amount in groups[label].items():
            rest[time] = rest.get(time, 0) + amount
    return found


def _plot_times(axes: Any, groups: dict[str, dict[int, int]]) -> None:
    times = sorted({time for amounts in groups.values() for time in amounts})
    shown = [datetime.fromtimestamp(time, UTC) for time in times]
    for label, amounts in groups.items():
        axes.plot(shown, [amounts.get(time, 0) for time in times], ".-", label=label)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", rotation=30)
    if groups:
        axes.legend(fontsize="small")


def _piece(event: ServerEvent) -> bytes:
    """A download is handed out as it comes: there are no events in it."""
    return event.data.encode()


def _read_page(response: Response) -> Part:
    from aiaas_client.protocol.usage import UsagePage

    found = validated(UsagePage, response.json())
    return Part(list(found.items), found.next)
