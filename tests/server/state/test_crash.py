"""Whatever was acknowledged is there after the process was killed, and nothing by halves."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from sqlalchemy import select

from aiaas_server.state.changes import changes_after
from aiaas_server.state.database import Database
from aiaas_server.state.tables import ARTEFACTS

# Each call writes two rows that belong together, from several threads, so that they share groups.
WRITER = """
import sys, threading
from aiaas_server.state.changes import tell
from aiaas_server.state.database import Database
from aiaas_server.state.tables import ARTEFACTS

database = Database(sys.argv[1])
telling = threading.Lock()

def write(connection, name):
    row = dict(tenant="t", digest=name, size=1, leaving=False, created=0.0)
    connection.execute(ARTEFACTS.insert().values(row))
    tell(connection, "t", "artefact", name, {})

def work(who):
    for n in range(100_000):
        name = f"{sys.argv[2]}-{who}-{n}"
        database.submit(lambda c: write(c, name)).result()
        with telling:
            print(name, flush=True)

for who in range(4):
    threading.Thread(target=work, args=(who,)).start()
"""


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_nothing_is_there_by_halves(
    database: Database, state_url: str
) -> None:
    acknowledged: set[str] = set()
    rng = random.Random(7)
    for round_ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, state_url, str(round_)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 200)):
            acknowledged.add(process.stdout.readline().strip())
        process.kill()
        # Lines that were told before the end count too; the last one may be cut off.
        rest = process.stdout.read().split("\n")[:-1]
        acknowledged.update(rest)
        process.wait(60)
        process.stdout.close()
        database.submit(lambda c: None).result(60)  # the lock of the one who died is free
        kept = set(database.read_now(lambda c: c.execute(select(ARTEFACTS.c.digest)).scalars()))
        told = {row.object for row in database.read_now(lambda c: changes_after(c, 0, 1_000_000))}
        assert acknowledged <= kept
        assert kept == told
