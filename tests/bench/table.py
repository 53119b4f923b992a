"""Rows of the benchmark, what they are to reach, and how they are shown."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

LIBRARIES = (
    "aiaas-client", "onnxruntime", "numpy", "starlette", "uvicorn", "uvloop", "httptools",
    "orjson", "httpx2", "aiohttp", "urllib3", "tritonclient", "pydantic",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row is to reach: `of` says which of its columns is held against `limit`."""

    limit: float
    at_least: bool = False
    of: Literal["ratio", "value"] = "ratio"

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.limit:.3g}{' ×' if self.of == 'ratio' else ''}"

    def reached(self, figure: float) -> bool:
        return figure >= self.limit if self.at_least else figure <= self.limit


def at_most(limit: float) -> Goal:
    """The ratio may be `limit`."""
    return Goal(limit)


def at_least(limit: float) -> Goal:
    """The ratio is to be `limit` or more."""
    return Goal(limit, at_least=True)


def value_at_most(limit: float) -> Goal:
    """The value itself may be `limit`."""
    return Goal(limit, of="value")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, and what it is held against in the same run.

    `ratio` is `value / beside`; None where nothing fair stands beside it. `reached` is None where
    the row has no goal.
    """

    group: str
    what: str
    value: float
    unit: str
    beside: float | None = None
    beside_what: str = ""
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.beside if self.beside else None

    @property
    def reached(self) -> bool | None:
        if self.goal is None:
            return None
        figure = self.value if self.goal.of == "value" else self.ratio
        return figure is not None and self.goal.reached(figure)

    @property
    def mark(self) -> str:
        return {None: "", True: "pass", False: "MISS"}[self.reached]


def machine() -> dict[str, str]:
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    return {name: _version(name) for name in LIBRARIES}


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [
        {
            **asdict(row),
            "goal": str(row.goal) if row.goal else None,
            "ratio": row.ratio,
            "reached": row.reached,
        }
        for row in rows
    ]


def show(rows: list[Row], console: Console) -> None:
    table = Table(title="aiaas benchmark", title_justify="left")
    for name, justify in (
        ("", "left"), ("measured", "left"), ("value", "right"), ("unit", "left"),
        ("beside", "right"), ("", "left"), ("ratio", "right"), ("to reach", "right"), ("", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # literals above
    group = ""
    for row in rows:
        if group and row.group != group:
            table.add_section()
        cells = list(_cells(row))
        table.add_row(
            row.group if row.group != group else "", *cells, style="" if row.mark else "dim"
        )
        group = row.group
    console.print(table)
    console.print(summary(rows), highlight=False)
    console.print(", ".join(f"{k} {v}" for k, v in machine().items()), highlight=False)
    console.print(", ".join(f"{k} {v}" for k, v in versions().items()), highlight=False)


def summary(rows: Iterable[Row]) -> str:
    marks = [row.mark for row in rows]
    return f"{marks.count('pass')} goals reached, {marks.count('MISS')} missed"


def markdown(rows: Iterable[Row]) -> str:
    """The same as a table for a document."""
    lines = [
        "| | Measured | Value | Beside | Ratio | To reach | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        what, value, unit, beside, beside_what, ratio, goal, mark = _cells(row)
        against = f"{beside} {beside_what}".strip()
        mark = f"**{mark}**" if mark == "MISS" else mark
        lines.append(
            f"| {row.group} | {what} | {value} {unit} | {against} | {ratio} | {goal} | {mark} |"
        )
    return "\n".join(lines)


def _cells(row: Row) -> Iterator[str]:
    yield row.what
    yield _number(row.value)
    yield row.unit
    yield _number(row.beside)
    yield row.beside_what
    yield f"{row.ratio:.2f}" if row.ratio is not None else ""
    yield str(row.goal) if row.goal else ""
    yield row.mark


def _number(value: float | None) -> str:
    if value is None:
        return ""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine() or sys.platform
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
