"""`make bench`: the server and the SDK measured beside what they cannot be cheaper than.

Absolute figures belong to the machine and its mood; read the ratio column.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import network
import real
import sdk
import startup
from rich.console import Console
from table import Row, as_json, show
from zoo import repository


def main() -> None:
    options = _options()
    console = Console(stderr=True)
    models = repository.prepare(report=console.print)
    seconds, rounds = (0.3, 1) if options.quick else (1.5, 3)
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder)
        shutil.copytree(models / "digits", one / "digits")
        parts: dict[str, Callable[[], Iterable[Row]]] = {
            "start": lambda: startup.rows(one, rounds),
            "network": lambda: network.rows(one, seconds, rounds),
            "real": lambda: real.rows(models, seconds, rounds),
            "sdk": lambda: sdk.rows(one, seconds, rounds),
        }
        began = time.perf_counter()
        rows: list[Row] = []
        for name in options.only or parts:
            console.print(f"measuring {name} ...")
            rows += parts[name]()
    show(rows, Console(width=None if sys.stdout.isatty() else 140))
    console.print(f"took {time.perf_counter() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(as_json(rows), indent=1) + "\n", "utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--quick", action="store_true", help="short rounds: a smoke test")
    parts = ("start", "network", "real", "sdk")
    parser.add_argument("--only", action="append", choices=parts, help="these parts alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
