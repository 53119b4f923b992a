"""`make bench`: the server and the SDK measured beside what they cannot be cheaper than.

Absolute figures belong to the machine and its mood; read the ratio column.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import bulk
import curves
import features
import many
import memory
import network
import others
import real
import sdk
import startup
import table
from plan import Plan
from rich.console import Console
from zoo import repository

GROUPS: dict[str, Callable[[Plan], Iterable[table.Row]]] = {
    "start": startup.rows,
    "network": network.rows,
    "real": real.rows,
    "bulk": bulk.rows,
    "large": bulk.large,
    "sdk": sdk.rows,
    "many": many.rows,
    "memory": memory.rows,
    "features": features.rows,
}
CURVES = "curves"


def main() -> None:
    options = _options()
    console = Console(stderr=True)
    _allow_many_connections()
    models = repository.prepare(report=console.print)
    began = time.perf_counter()
    rows: list[table.Row] = []
    points: list[curves.Point] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        plan = _plan(options, models, Path(folder))
        for name in [group for group in GROUPS if group in options.only]:
            console.print(f"measuring {name} ...")
            try:
                rows.extend(GROUPS[name](plan))
            except Exception as error:  # the other groups still tell something
                failed.append(name)
                console.print_exception()
                console.print(f"{name} ended early: {error}")
        if CURVES in options.only:
            console.print("measuring curves ...")
            points += curves.ours(plan)
        if options.peers:
            found = others.measured(plan, options.peer_python, console.print)
            rows += found.rows
            points += found.points
    took = time.perf_counter() - began
    table.show(rows, Console(width=None if sys.stdout.isatty() else 160))
    console.print(f"took {took:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(_told(rows, points, took), indent=1) + "\n", "utf-8")
    if options.markdown:
        options.markdown.write_text(table.markdown(rows) + "\n", "utf-8")
    if failed:
        sys.exit(f"not measured to the end: {', '.join(failed)}")


def _plan(options: argparse.Namespace, models: Path, folder: Path) -> Plan:
    network, work = folder / "network", folder / "work"
    shutil.copytree(models / "digits", network / "digits")
    work.mkdir()
    if options.quick:
        return Plan(models, network, work, 0.1, 1, 0.01)
    return Plan(models, network, work, long=options.long)


def _told(rows: list[table.Row], points: list[curves.Point], took: float) -> dict[str, object]:
    return {
        "machine": table.machine(),
        "versions": table.versions(),
        "seconds": took,
        "rows": table.as_json(rows),
        "curves": curves.as_json(points),
    }


def _allow_many_connections() -> None:
    """As many open files as the system lets us, here and in what is started from here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also as a Markdown table")
    parser.add_argument("--quick", action="store_true", help="tiny counts: does it run at all?")
    parser.add_argument("--long", action="store_true", help="watch memory over 1,000,000 requests")
    parser.add_argument("--peers", action="store_true", help="other servers and clients as well")
    parser.add_argument(
        "--peer-python", type=Path, default=Path(sys.executable), metavar="PYTHON",
        help="the interpreter that has the other servers installed",
    )  # fmt: skip
    names = [*GROUPS, CURVES]
    parser.add_argument(
        "--only", type=lambda text: _known(text, names), default=names, metavar="GROUP,...",
        help=f"these groups alone, of: {', '.join(names)}; 'none' is none",
    )  # fmt: skip
    return parser.parse_args()


def _known(text: str, names: list[str]) -> list[str]:
    wanted = [] if text == "none" else text.split(",")
    for name in wanted:
        if name not in names:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(names)}, got {name!r}")
    return wanted


if __name__ == "__main__":
    main()
