"""The process in which a bundle is verified: started, kept ready for the next one, ended.

To import what verifying takes is a second of a processor, as long as many bundles take to come. So
when one is on its way a process is started that imports and waits. Each verifies one bundle.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiaas_server.core.confine.command import command, environment
from aiaas_server.core.errors import ServerError
from aiaas_server.state.artefacts.stores import file_errors

READY_SECONDS: Final = 60.0
"""After which a process is ended that waits for a bundle: it holds memory."""


class Place:
    """An empty directory, locked: one of a server that was killed may be removed by whoever can.

    Args:
        scratch: Where it is made; by default where the system has such.
    Raises:
        StorageFull, StateUnavailable: The disk does not take it.
    """

    def __init__(self, scratch: Path | None) -> None:
        self.path = (scratch or Path(tempfile.gettempdir())) / f".{secrets.token_hex(16)}"
        with file_errors():
            self.path.mkdir(mode=0o700, parents=True)
            self._handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._handle, fcntl.LOCK_EX)  # see `Cache.clean`

    def remove(self) -> None:
        """Empty as it is, it goes at once."""
        os.close(self._handle)
        shutil.rmtree(self.path, ignore_errors=True)


class Started(NamedTuple):
    """A process that waits for an order, in an empty directory of its own."""

    process: Process
    place: Place

    async def end(self) -> None:
        """See to it that nothing of it is left, whoever waits or no longer does."""
        kill(self.process)
        await asyncio.shield(asyncio.ensure_future(self._gone()))

    async def _gone(self) -> None:
        process = self.process
        assert process.stdin is not None, "it was asked for"
        assert process.stdout is not None, "it was asked for"
        process.stdin.close()
        with suppress(RuntimeError):  # somebody was still reading
            while await process.stdout.read(65536):
                pass
        await process.wait()
        self.place.remove()


class Spare:
    """At most one process that waits, of one event loop.

    Args:
        scratch: Where its directory is made.
        seconds: How long it waits for a bundle.
    """

    def __init__(self, scratch: Path | None = None, seconds: float = READY_SECONDS) -> None:
        self._scratch = scratch
        self._seconds = seconds
        self._starting: asyncio.Task[Started] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def prepare(self) -> None:
        """Have one ready soon, if there is none."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(start(self._scratch))
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._leave)

    async def take(self) -> Started:
        """The one that waits, or else a new one; the caller ends it."""
        starting = self._untie()
        if starting is None:
            return await start(self._scratch)
        try:
            found = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._begin(_ended(starting))
            raise
        if found.process.returncode is None:
            return found
        await found.end()  # somebody has killed it, as one does where memory is short
        return await start(self._scratch)

    async def close(self) -> None:
        """End the one that waits."""
        self._leave()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _leave(self) -> None:
        starting = self._untie()
        if starting is not None:
            self._begin(_ended(starting))

    def _untie(self) -> asyncio.Task[Started] | None:
        starting, self._starting = self._starting, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return starting

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _ended(starting: asyncio.Task[Started]) -> None:
    with suppress(OSError, ServerError):  # it could not be started: nothing is left of it
        await (await starting).end()


async def start(scratch: Path | None = None) -> Started:
    """Start one.

    Raises:
        StorageFull, StateUnavailable: The disk does not take its directory.
        OSError: The system has no room for it.
    """
    place = await asyncio.to_thread(Place, scratch)
    try:
        process = await asyncio.create_subprocess_exec(
            *command("aiaas_server.verifier.worker", os.getpid()),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            cwd=place.path,
            env=environment(place.path),
            start_new_session=True,
        )
    except BaseException:
        place.remove()
        raise
    return Started(process, place)


def kill(process: Process) -> None:
    """End it now, and all that it has started."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
