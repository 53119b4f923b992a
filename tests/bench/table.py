"""Rows of the benchmark and how they are shown."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

LIBRARIES = (
    "aiaas-client", "onnxruntime", "numpy", "starlette", "uvicorn", "uvloop", "httptools",
    "orjson", "httpx2", "pydantic",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, and what it is held against in the same run.

    `ratio` is `value / beside`; None where nothing fair stands beside it.
    """

    group: str
    what: str
    value: float
    unit: str
    beside: float | None = None
    beside_what: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.beside if self.beside else None


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


def as_json(rows: Iterable[Row]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "versions": versions(),
        "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
    }


def show(rows: Iterable[Row], console: Console) -> None:
    table = Table(title="aiaas benchmark", title_justify="left")
    for name, justify in (
        ("", "left"), ("measured", "left"), ("value", "right"), ("unit", "left"),
        ("beside", "right"), ("", "left"), ("ratio", "right"),
    ):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # literals above
    group = ""
    for row in rows:
        if group and row.group != group:
            table.add_section()
        table.add_row(
            row.group if row.group != group else "",
            row.what,
            _number(row.value),
            row.unit,
            _number(row.beside),
            row.beside_what,
            f"{row.ratio:.2f}" if row.ratio else "",
        )
        group = row.group
    console.print(table)
    console.print(", ".join(f"{k} {v}" for k, v in machine().items()), highlight=False)
    console.print(", ".join(f"{k} {v}" for k, v in versions().items()), highlight=False)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
