"""`make bench`: the server and the SDK measured beside what they cannot be cheaper than.

Absolute figures belong to the machine and its mood; read the ratio column.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "examples"))
sys.path.append(str(Path(__file__).parents[2]))

import bulk
import curves
import features
import generate
import jobs
import lifecycle
import many
import memory
import network
import others
import overload
import real
import sdk
import sentiment
import startup
import table
import tenants
import writing_peers
from plan import Plan
from rich.console import Console
from told import Told
from zoo import repository

GROUPS: dict[str, Callable[[Plan], Iterable[table.Row]]] = {
    "start": startup.rows,
    "network": network.rows,
    "predict": sentiment.rows,
    "real": real.rows,
    "overload": overload.rows,
    "bulk": bulk.rows,
    "large": bulk.large,
    "sdk": sdk.rows,
    "memory": memory.rows,
    "features": features.rows,
    "many": many.rows,
    "lifecycle": lifecycle.rows,
    "jobs": jobs.rows,
    "generate": generate.rows,
    "tenants": tenants.rows,
}
CURVES = "curves"


def main() -> None:
    options = _options()
    console = Console(stderr=True)
    _allow_many_connections()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the servers as well
    models = repository.prepare(report=console.print)
    told = Told(options.json, options.markdown)
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        plan = _plan(options, models, Path(folder))
        for name, measure in _wanted(options, plan, told, console.print):
            console.print(f"measuring {name} ...")
            try:
                measure()
            except Exception:  # the other groups still tell something
                failed.append(name)
                console.print_exception()
            told.write()
    table.show(told.rows, Console(width=None if sys.stdout.isatty() else 160))
    console.print(f"took {told.took():.0f} s")
    if failed:
        sys.exit(f"not measured to the end: {', '.join(failed)}")


def _wanted(
    options: argparse.Namespace, plan: Plan, told: Told, report: Callable[[str], None]
) -> Iterator[tuple[str, Callable[[], None]]]:
    if CURVES in options.only:
        yield CURVES, lambda: told.points.extend(curves.ours(plan))
    for name in [group for group in GROUPS if group in options.only]:
        yield name, partial(_measure, name, plan, told)
    if options.peers:
        pythons = options.peer_python or [Path(sys.executable)]
        for name, compare in (
            ("peers", others.measure),
            (writing_peers.NAME, writing_peers.measure),
        ):
            yield name, partial(compare, plan, pythons, report, told)


def _measure(name: str, plan: Plan, told: Told) -> None:
    told.rows.extend(GROUPS[name](plan))


def _plan(options: argparse.Namespace, models: Path, folder: Path) -> Plan:
    network, work = folder / "network", folder / "work"
    shutil.copytree(models / "digits", network / "digits")
    work.mkdir()
    if options.quick:
        return Plan(models, network, work, 0.1, 1, 0.01)
    return Plan(models, network, work, long=options.long)


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
        "--peer-python", type=Path, action="append", metavar="PYTHON",
        help="an interpreter that has other servers installed; may be repeated",
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
