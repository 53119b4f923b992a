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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from aiaas_client.protocol.jobs import JobError
from aiaas_server.core.errors import (
    InvalidInput,
    OutOfMemory,
    PayloadTooLarge,
    ServerError,
    StorageFull,
)
from aiaas_server.jobs.family import end_all, memory_of
from aiaas_server.jobs.log_filter import LogFilter
from aiaas_server.jobs.orders import (
    LONGEST_LINE,
    ORDER_FILE,
    CheckpointLine,
    DoneLine,
    FailedLine,
    Line,
    Order,
    Product,
    ProgressLine,
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
_PASSED_ON: Final = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TZ")
_QUIET: Final = {
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_ARENA_MAX": "2",
    "HF_HUB_OFFLINE": "1",
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
_LOOK: Final = 0.25  # seconds between two looks at its memory
_LOOKS_AT_DISK: Final = 8  # each so many of them, at the disk too
_LEAVING: Final = 5.0  # seconds to end in, once it has said the last line
_LOG_PIECE: Final = 16 << 10  # bytes
_LOG_PAUSE: Final = 0.01  # after each: what prints without end waits, not this server
_NO_ROOM: Final = ("std::bad_alloc", "Cannot allocate memory", "MemoryError")
_line: Final[TypeAdapter[Line]] = TypeAdapter(Line)


class LogLine(NamedTuple):
    """A line that it printed, secrets left out."""

    text: str


Heard = ProgressLine | CheckpointLine | LogLine
Hear = Callable[[Heard], Awaitable[None]]


class Limits(NamedTuple):
    """What a process may take.

    Attributes:
        memory_bytes: With all that it starts.
        timeout: Seconds that are left of the job.
        threads: Processor cores.
        whole: Seconds that the job has all in all, for the message.
        check_room: Raises `StorageFull` where the disk has too little left; blocks.
    """

    memory_bytes: int
    timeout: float
    threads: int = 1
    whole: float | None = None
    check_room: Callable[[], object] | None = None


class Outcome(NamedTuple):
    """What came of a process: one of the three.

    Attributes:
        product: It is done.
        error: It failed, and would fail again.
        lost: It ended before it was done: another one may go on from the last checkpoint.
    """

    product: Product | None = None
    error: JobError | None = None
    lost: str = ""


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
    place = os.path.abspath(directory)  # noqa: PTH100, ASYNC240  # it asks no disk
    process = await _start(place, limits, worker)
    hearing = _Hearing(directory, hear)
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


def out_of_memory(memory_bytes: int) -> JobError:
    """What is told of a process that took too much."""
    text = f"out of memory: a job may take {memory_bytes >> 20} MiB here (job_memory_bytes)"
    return JobError(code="out_of_memory", message=text)


class _Hearing:
    """What a process has told and printed; none of it is believed but its form."""

    def __init__(self, directory: Path, hear: Hear) -> None:
        self._directory = directory
        self._hear = hear
        self._filter = LogFilter()
        self._no_room = False
        self._problem = ""
        self.last: DoneLine | FailedLine | None = None

    async def lines(self, pipe: asyncio.StreamReader) -> None:
        """Hear it until it has said its last line, says nonsense, or ends."""
        while self.last is None:
            try:
                text = await pipe.readuntil(b"\n")
            except asyncio.IncompleteReadError:  # a line that is half is of one that was killed
                return
            except (asyncio.LimitOverrunError, ValueError):
                self._problem = f"said a line of more than {LONGEST_LINE} bytes"
                return
            try:
                line = _line.validate_json(text)
            except ValidationError:
                self._problem = "said what nobody can read"
                return
            if isinstance(line, DoneLine | FailedLine):
                self.last = line
            elif not isinstance(line, CheckpointLine) or self._is_inside(line.path):
                await self._hear(line)

    async def log(self, pipe: asyncio.StreamReader) -> None:
        """Hear what it prints, for as long as anything of it may print."""
        rest = b""
        while piece := await pipe.read(_LOG_PIECE):
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[-_LOG_PIECE:]
            for line in lines:
                await self._print(line)
            if len(piece) == _LOG_PIECE:
                await asyncio.sleep(_LOG_PAUSE)
        if rest:
            await self._print(rest)

    async def _print(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        self._no_room = self._no_room or any(sign in text for sign in _NO_ROOM)
        kept = self._filter.line(text)
        if kept is not None and kept.strip():
            await self._hear(LogLine(kept))

    def outcome(
        self, code: int | None, limits: Limits, beyond: JobError | None, *, late: bool
    ) -> Outcome:
        """What came of it, once it has ended."""
        if isinstance(self.last, DoneLine):
            missing = self._missing(self.last.product)
            if not missing:
                return Outcome(product=self.last.product)
            text = f"the job says that it made {missing!r}, and that is not there"
            return Outcome(error=JobError(code="failed", message=text))
        if isinstance(self.last, FailedLine):
            error = self.last.error
            if error.code == "out_of_memory" or (error.code == "failed" and self._no_room):
                error = out_of_memory(limits.memory_bytes)
            return Outcome(error=error)
        if beyond is not None:
            return Outcome(error=beyond)
        if late:
            whole = limits.timeout if limits.whole is None else limits.whole
            text = f"not done within {whole:g} s, all attempts together"
            return Outcome(error=JobError(code="timeout", message=text))
        if self._problem:
            text = f"the process of the job {self._problem}"
            return Outcome(error=JobError(code="failed", message=text))
        if self._no_room and code == -signal.SIGABRT:
            return Outcome(error=out_of_memory(limits.memory_bytes))
        return Outcome(lost=f"ended with {_named(code)}")

    def _missing(self, product: Product) -> str:
        """A path of a product that is not a file or directory of the job; "" where all are."""
        paths = [made.path for made in product.versions]
        paths += [made.reference for made in product.versions if made.reference is not None]
        paths += [made.path for made in product.datasets]
        paths += product.files.values()
        return next((path for path in paths if not self._is_inside(path)), "")

    def _is_inside(self, path: str) -> bool:
        with suppress(OSError, ValueError):
            found = (self._directory / path).resolve(strict=True)
            return found.is_relative_to(self._directory.resolve())
        return False


def _named(code: int | None) -> str:
    if code is None or code >= 0:
        return f"status {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


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
