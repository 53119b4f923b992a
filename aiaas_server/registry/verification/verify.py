"""Verifies a bundle in a process of its own, which is thrown away afterwards.

Nothing of a model that somebody brought is parsed, loaded or run in the server: a graph may crash
the runtime, never end, or ask for all memory there is. The process has limits, an empty
environment and directory, no way to write, and dies with the server.
"""

from __future__ import annotations

import asyncio
import math
import os
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from aiaas_server.core.errors import LoadFailed
from aiaas_server.registry.verification.hearing import Hearing
from aiaas_server.registry.verification.process import Spare, kill, start
from aiaas_server.registry.verification.verdict import Order, Verified

_WATCHED_EVERY: Final = 0.1  # seconds, where the system cannot hold the memory limit itself


class Verifier:
    """Verifies one bundle after the other, so that uploads do not starve what serves.

    Args:
        timeout: Seconds from the start of the process to its verdict.
        memory_bytes: What a bundle may take, or four times its size where that is more.
        providers: Execution providers, as the settings write them. A hostile model has no business
            on a device that others use, hence the processor.
        threads: Of one run.
        at_once: Processes at a time.
        scratch: Where their empty directories are made; by default where the system has such.

    Raises:
        LoadFailed: What verifies is not installed.
    """

    def __init__(
        self,
        *,
        timeout: float,
        memory_bytes: int,
        providers: Sequence[str] = ("cpu",),
        threads: int = 1,
        at_once: int = 1,
        scratch: Path | None = None,
    ) -> None:
        if find_spec("onnx") is None:
            raise LoadFailed(
                "what verifies models needs the package 'onnx': "
                'pip install "aiaas-client[server,platform]"'
            )
        self._timeout = timeout
        self._memory_bytes = memory_bytes
        self._providers = tuple(providers)
        self._threads = max(threads, 1)
        self._turns = asyncio.Semaphore(at_once)
        self._spare = Spare(scratch)

    def expect(self) -> None:
        """A bundle is on its way: have a process ready when it is here."""
        self._spare.prepare()

    async def close(self) -> None:
        """End the process that is ready for one."""
        await self._spare.close()

    async def verify(
        self, directory: Path, *, name: str = "model", digests: Mapping[str, str] | None = None
    ) -> Verified:
        """Verify the bundle whose files lie in `directory`; queues behind others.

        Cancelling it ends the process.

        Args:
            name: Of the model, for what its task says.
            digests: SHA-256 of its files, of those that are known; the others are computed.
        Raises:
            Rejected: It is not fit to be served; the message says why in one line.
            StateUnavailable: The process could not even start: that says nothing of the bundle.
            StorageFull: The disk does not take its directory.
        """
        async with self._turns:
            return await verify(
                directory,
                name=name,
                digests=digests,
                timeout=self._timeout,
                memory_bytes=self._memory_bytes,
                providers=self._providers,
                threads=self._threads,
                spare=self._spare,
            )


async def verify(
    directory: Path,
    *,
    timeout: float,
    memory_bytes: int,
    name: str = "model",
    digests: Mapping[str, str] | None = None,
    providers: Sequence[str] = ("cpu",),
    threads: int = 1,
    spare: Spare | None = None,
) -> Verified:
    """As `Verifier.verify`, at once, and raises the same; in a process that is ready, if any is."""
    where, size = await asyncio.to_thread(_look_at, directory)
    memory = max(memory_bytes, 4 * size)
    order = Order(
        directory=where,
        name=name,
        digests=dict(digests or {}),
        memory_bytes=memory,
        cpu_seconds=math.ceil(timeout * (threads + 1)),
        providers=tuple(providers),
        threads=threads,
    )
    hearing = Hearing()
    started = await (start() if spare is None else spare.take())
    try:
        async with asyncio.timeout(timeout):
            code = await _converse(started.process, order, hearing)
    except TimeoutError:
        raise hearing.too_late(timeout) from None
    finally:
        await started.end()
    return hearing.outcome(code, memory)


async def _converse(process: Process, order: Order, hearing: Hearing) -> int:
    """Give the order, hear what is said, and wait for the end; gives the exit status."""
    assert process.stdin is not None, "it was asked for"
    process.stdin.write(order.model_dump_json().encode() + b"\n")
    with suppress(ConnectionError):  # it is gone already: its end tells why
        await process.stdin.drain()
    process.stdin.close()
    watching = None
    if not order.on_cpu:
        watching = asyncio.create_task(_watch(process, order.memory_bytes, hearing))
    try:
        await _listen(process, hearing)
        return await process.wait()
    finally:
        if watching is not None:
            watching.cancel()


async def _listen(process: Process, hearing: Hearing) -> None:
    assert process.stdout is not None, "it was asked for"
    while piece := await process.stdout.read(65536):
        hearing.add(piece)


async def _watch(process: Process, limit: int, hearing: Hearing) -> None:
    """End a process that takes too much: a GPU's driver reserves addresses without end, which
    the system's own limit would count.
    """
    while process.returncode is None:
        if _resident(process.pid) > limit:
            hearing.too_large = True
            kill(process)
            return
        await asyncio.sleep(_WATCHED_EVERY)


def _resident(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]
    except (OSError, IndexError):  # it has ended
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _look_at(directory: Path) -> tuple[str, int]:
    """Where the bundle lies for a process that stands elsewhere, and its bytes."""
    try:
        size = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    except OSError:
        size = 0  # what is wrong with it the process will say
    return str(directory.absolute()), size
