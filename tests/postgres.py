"""Debian's PostgreSQL, started by the tests: a cluster of its own, on a Unix socket alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # a machine that loses its power is not what these tests are about
    "max_connections": "60",
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
}
_START_SECONDS = 120


def binaries() -> Path | None:
    """Where the newest installed server is; None where there is none, or nobody to run it."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parents[1].name)
    )
    return found[-1].parent if found else None


def why_not() -> str:
    """Why no server can be started here; empty where one can."""
    if binaries() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and setpriv is not installed"
    return ""


class Postgres:
    """A running server; `stop` and `start` make it go away and come back."""

    def __init__(self) -> None:
        found = binaries()
        assert found is not None, why_not()
        self._bin = found
        # A Unix socket's path is short, and the server's user must be able to walk to it.
        self._folder = Path(tempfile.mkdtemp(prefix="aiaas-pg-", dir="/tmp"))
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        self._data = self._folder / "data"
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
        with (self._data / "postgresql.conf").open("a") as conf:
            values = {**_SETTINGS, "unix_socket_directories": str(self._folder)}
            conf.writelines(f"{name} = '{value}'\n" for name, value in values.items())
        self.start()

    def _run(self, command: str, *arguments: str | Path) -> None:
        log = self._folder / "commands.log"
        with log.open("a") as output:
            done = subprocess.run(
                [*_as_postgres(), str(self._bin / command), *map(str, arguments)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,  # no pipe: the server would keep it open
                stderr=output,
                timeout=_START_SECONDS,
                check=False,
            )
        assert done.returncode == 0, f"{command}: {log.read_text('utf-8', 'replace')[-2000:]}"

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        log = self._folder / "server.log"
        self._run("pg_ctl", "start", "-w", "-t", str(_START_SECONDS), "-D", self._data, "-l", log)

    def stop(self, mode: str = "fast") -> None:
        """Stop it; connections are broken."""
        self._run("pg_ctl", "stop", "-w", "-t", str(_START_SECONDS), "-m", mode, "-D", self._data)

    def remove(self) -> None:
        """Stop it for good."""
        self.stop("immediate")
        shutil.rmtree(self._folder)

    def make_database(self) -> str:
        """An empty database; gives its URL for the server's settings."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self._tell(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@/{name}?host={self._folder}"

    def drop_database(self, url: str) -> None:
        """Remove one, whoever is connected."""
        name = url.partition("@/")[2].partition("?")[0]
        self._tell(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _tell(self, statement: str) -> None:
        import psycopg  # not where no test asks for a server

        where = f"postgresql://postgres@/postgres?host={self._folder}"
        with closing(psycopg.connect(where, autocommit=True)) as connection:
            connection.execute(statement.encode())


def _as_postgres() -> Sequence[str]:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return ()
    return ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--")
