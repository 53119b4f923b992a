"""The process of a job: started apart, heard with suspicion, kept to its limits, ended whole.

It has no environment but what is listed here, its home is its directory, and every process that it
starts is found again by a variable that names that directory, whatever group it has put itself in.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from aiaas_client.protocol.jobs import JobError
from aiaas_server.core.errors import (
    InvalidInput,
    OutOfMemory,
    PayloadTooLarge,
    ServerError,
    StorageFull,
)
from aiaas_server.jobs.family import end_all, memory_of
from aiaas_server.jobs.hearing import Hear, Heard, Hearing, Limits, Outcome, out_of_memory
from aiaas_server.jobs.orders import (
    LONGEST_LINE,
    ORDER_FILE,
    Order,
    Product,
)

WORKER: Final = "aiaas_server.job_process.worker"
MARK: Final = "AIAAS_JOB_DIRECTORY"
"""The variable by which whatever belongs to a job is known."""

_PACKAGES: Final = Path(__file__).parents[2]
# Isolated, so that neither the environment nor a current directory adds to what is imported; the
# place of this package comes last, for one that runs from where it was unpacked.
_START: Final = """
import sys
sys.path.append(sys.argv[1])
from importlib import import_module
import_module(sys.argv[2]).main(sys.argv[3], int(sys.argv[4]))
"""
_PASSED_ON: Final = (
    *("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TZ"),
    # How to join a Ray cluster: by a token in a file, never by one that stands here.
    *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"),
)
_QUIET: Final = {
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_ARENA_MAX": "2",
    "HF_HUB_OFFLINE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "MPLBACKEND": "Agg",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_THREADS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
)
_LOOK: Final = 1.0  # seconds between two looks at its memory; each reads of every process there is
_LOOKS_AT_DISK: Final = 2  # each so many of them, at the disk too
_LEAVING: Final = 5.0  # seconds to end in, once it has said the last line


async def run(
    order: Order, directory: Path, limits: Limits, hear: Hear, *, worker: str = WORKER
) -> Outcome:
    """Carry out an order in a directory that has all that it names. Whatever happens, nothing of
    the process runs on afterwards; a caller who is cancelled ends it.

    Args:
        hear: Awaited with what it says and prints, one after another.
        worker: The module whose `main(directory, parent)` it runs.
    Raises:
        OSError: It cannot be started.
    """
    await asyncio.to_thread(_write_order, order, directory)
    place = mark_of(directory)
    process = await _start(place, limits, worker)
    hearing = Hearing(directory, hear)
    assert process.stdout is not None, "it was asked for"
    assert process.stderr is not None, "it was asked for"
    told = asyncio.ensure_future(hearing.lines(process.stdout))
    logged = asyncio.ensure_future(hearing.log(process.stderr))
    watched = asyncio.ensure_future(_watch(process, limits))
    try:
        await asyncio.wait({told, watched}, timeout=limits.timeout, return_when="FIRST_COMPLETED")
        if told.done():  # it has said its last line, or closed its pipe: it is about to end
            await asyncio.wait({watched}, timeout=_LEAVING)
        beyond = watched.result() if watched.done() else None
        late = not told.done() and not watched.done()
        await _end(process, place)
        await asyncio.wait({told, logged}, timeout=_LEAVING)
        if told.done():
            told.result()  # what `hear` has raised
        return hearing.outcome(process.returncode, limits, beyond, late=late)
    finally:
        await _settle(process, place, (told, logged, watched))


async def run_once(
    order: Order,
    directory: Path,
    *,
    timeout: float,
    memory_bytes: int,
    threads: int = 1,
    worker: str = WORKER,
) -> Product:
    """Carry out an order that somebody waits for, once.

    Raises:
        InvalidInput: What lies there cannot be read or used; the message says why.
        OutOfMemory: It takes more memory than it may.
        StorageFull: The disk is full.
        ServerError: It failed in another way, or took too long.
    """

    async def nobody(heard: Heard) -> None:
        pass

    limits = Limits(memory_bytes, timeout, threads)
    outcome = await run(order, directory, limits, nobody, worker=worker)
    if outcome.product is not None:
        return outcome.product
    if outcome.error is None:
        raise ServerError(f"the process for it {outcome.lost}")
    kinds = {
        "invalid_input": InvalidInput,
        "out_of_memory": OutOfMemory,
        "storage_full": StorageFull,
        "too_large": PayloadTooLarge,
    }
    raise kinds.get(outcome.error.code, ServerError)(outcome.error.message)


def mark_of(directory: Path) -> str:
    """What `MARK` says in every process that belongs to a job in `directory`."""
    return os.path.abspath(directory)  # noqa: PTH100  # without a look at the disk


def _write_order(order: Order, directory: Path) -> None:
    (directory / ORDER_FILE).write_bytes(order.model_dump_json().encode())


async def _start(place: str, limits: Limits, worker: str) -> Process:
    environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    environment |= _QUIET | dict.fromkeys(_THREADS, str(limits.threads)) | {MARK: place}
    homes = ("HOME", "TMPDIR", "MPLCONFIGDIR", "JOBLIB_TEMP_FOLDER", "XDG_CACHE_HOME")
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-c",
        _START,
        str(_PACKAGES),
        worker,
        place,
        str(os.getpid()),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        limit=LONGEST_LINE,
        cwd=place,
        env=environment | dict.fromkeys(homes, place),
        start_new_session=True,
    )


async def _watch(process: Process, limits: Limits) -> JobError | None:
    """Look at it until it ends, or goes beyond a limit."""
    most, looks = limits.memory_bytes, 0
    while process.returncode is None:
        if most and await asyncio.to_thread(memory_of, process.pid, most) > most:
            return out_of_memory(most)
        looks += 1
        if limits.check_room is not None and looks % _LOOKS_AT_DISK == 1:
            try:
                await asyncio.to_thread(limits.check_room)
            except StorageFull as error:
                return JobError(code="storage_full", message=error.message)
            except ServerError:  # it does not tell now
                pass
        await asyncio.sleep(_LOOK)
    return None


async def _end(process: Process, place: str) -> None:
    """End it and all that it has started; it is gone when this returns."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.to_thread(end_all, MARK, place)
    # `wait` would also wait for whoever has its pipes
    while process.returncode is None:  # noqa: ASYNC110  # there is no event
        await asyncio.sleep(0.01)


async def _settle(process: Process, place: str, tasks: Sequence[asyncio.Future[Any]]) -> None:
    """See to it that nothing of it is left, even where the caller is cancelled again."""

    async def gone() -> None:
        await _end(process, place)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        process._transport.close()  # type: ignore[attr-defined]  # pipes that others hold open

    work = asyncio.ensure_future(gone())
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await work
        raise
