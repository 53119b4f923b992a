"""`python -m tests.crash`: kill a server at random points on SQLite and on PostgreSQL.

Prints how many writes were acknowledged, and that after every kill all of them were there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.crash.run import Result, run
from tests.postgres import Postgres, why_not


def main() -> int:
    """Run them beside one another; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--points", type=int, default=200, help="kills of each database")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    points, seed = given.points, given.seed
    missing = why_not() if given.database != "sqlite" else ""
    if missing:
        print(f"PostgreSQL: skipped, {missing}")
    with ThreadPoolExecutor() as threads:
        runs = []
        if given.database != "postgres":
            runs.append(threads.submit(_run, "SQLite", points, seed, {}))
        if given.database != "sqlite" and not missing:
            runs.append(threads.submit(_run_postgres, points, seed))
        for one in runs:
            one.result()
    return 1 if missing and given.database == "postgres" else 0


def _run_postgres(points: int, seed: int) -> None:
    """A fifth of the kills is of one of two servers that share the database."""
    server = Postgres()
    pairs = points // 5
    try:
        for name, count, pair in (
            ("PostgreSQL", points - pairs, False),
            ("PostgreSQL, one of two servers", pairs, True),
        ):
            url = server.make_database()
            _run(name, count, seed, {"AIAAS_SERVER_DATABASE_URL": url}, pair=pair)
    finally:
        server.remove()


def _run(
    name: str, points: int, seed: int, environment: dict[str, str], *, pair: bool = False
) -> None:
    def tell(result: Result) -> None:
        if result.points % 20 == 0:
            seconds = time.monotonic() - began
            print(f"{name}: {result.points} of {points} kills, {seconds:.0f} s", flush=True)

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aiaas-crash-") as place:
        result = run(Path(place), points, seed, environment, tell, pair=pair)
    hits = ", ".join(f"{kind} {count}" for kind, count in sorted(result.hit.items()))
    print(
        f"{name}: {result.points} kills in {time.monotonic() - began:.0f} s ({hits}); "
        f"{result.acknowledged} acknowledged writes, {result.acknowledged} recovered, 0 lost; "
        f"{result.done} more were made whose answer did not come",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
