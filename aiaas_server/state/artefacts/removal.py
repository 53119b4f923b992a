"""Removes the bytes of artefacts that nobody uses, one remover at a time."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from aiaas_server.core.errors import StateUnavailable
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.artefacts import Artefacts
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Database

_REMOVERS_LOCK: Final = 0x41494152  # of PostgreSQL's advisory locks, ours: one remover at a time
_WAIT: Final = 30.0  # seconds for another remover
_ASK: Final = 0.02
_CLAIMS: Final = 5  # tries of a claim, each behind a removal


class Remover:
    """Deletes by the rules of `claims`; a lock that dies with its process keeps others out.

    With PostgreSQL the lock is the database's, for all servers that share it; else it is a file of
    the data directory, for the processes of this machine.

    Args:
        database: The rows.
        artefacts: The bytes.
        threads: Where it works.
        data: The directory of the file.
    """

    def __init__(
        self, database: Database, artefacts: Artefacts, threads: Threads, data: Path
    ) -> None:
        self._database = database
        self._artefacts = artefacts
        self._threads = threads
        self._lock = data / "removing.lock"

    async def claim(
        self,
        tenant: str,
        digest: str,
        user: str,
        check: Callable[[Connection], object] = lambda connection: None,
    ) -> claims.Standing:
        """Use an artefact for `user`; one that is being removed is gone first.

        Args:
            check: Called in the same transaction; raises where `user` is no more.
        Returns:
            "stored" or "awaited".
        Raises:
            StateUnavailable: The store or the database does not answer, or it is removed each time.
        """

        def claimed(connection: Connection) -> claims.Standing:
            check(connection)
            return claims.claim(connection, tenant, digest, user)

        for _ in range(_CLAIMS):
            standing = await self._database.write(claimed)
            if standing != "leaving":
                return standing
            await self.remove(tenant, [digest])
        raise StateUnavailable(f"artefact {digest}: the same bytes are being removed; try again")

    async def remove(self, tenant: str, digests: Collection[str]) -> list[str]:
        """Remove those that nobody uses; gives their digests, of which nothing is left.

        Raises:
            StateUnavailable: The store or the database does not answer, or another remover takes
                too long. What was marked goes with the next sweep.
        """
        if not digests:
            return []
        return await self._threads.run(self.remove_now, tenant, digests)

    def remove_now(self, tenant: str, digests: Collection[str]) -> list[str]:
        """As `remove`, in this thread."""
        with self._alone():
            marked = self._database.submit(
                lambda c: claims.mark_leaving(c, tenant, digests), spares_room=True
            ).result()
            self._artefacts.forget(tenant, marked)  # of a server that ends now, too
            for digest in marked:
                self._artefacts.delete(tenant, digest)
            self._database.submit(
                lambda c: claims.forget(c, tenant, marked), spares_room=True
            ).result()
        return marked

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._database.engine.dialect.name == "postgresql":
            try:
                with self._locked_database():
                    yield
            except SQLAlchemyError as error:
                raise StateUnavailable("the database does not answer; try again") from error
        else:
            with self._locked_file():
                yield

    @contextmanager
    def _locked_file(self) -> Iterator[None]:
        with self._lock.open("ab") as file:
            until = time.monotonic() + _WAIT
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    _wait(until)
            yield  # closing the file lets go of it

    @contextmanager
    def _locked_database(self) -> Iterator[None]:
        engine = self._database.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            until = time.monotonic() + _WAIT
            while not connection.execute(
                text(f"SELECT pg_try_advisory_lock({_REMOVERS_LOCK})")
            ).scalar_one():
                _wait(until)
            try:
                yield
            finally:
                connection.execute(text(f"SELECT pg_advisory_unlock({_REMOVERS_LOCK})"))


def _wait(until: float) -> None:
    if time.monotonic() > until:
        raise StateUnavailable("artefacts are being removed; try again", retry_after=1.0)
    time.sleep(_ASK)
