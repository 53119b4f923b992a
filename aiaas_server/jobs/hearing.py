"""Hears what the process of a job says and prints, and believes none of it but its form."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from aiaas_client.protocol.jobs import JobError
from aiaas_server.jobs.log_filter import LogFilter
from aiaas_server.jobs.orders import (
    LONGEST_LINE,
    CheckpointLine,
    DoneLine,
    FailedLine,
    Line,
    Product,
    ProgressLine,
)

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


def out_of_memory(memory_bytes: int) -> JobError:
    """What is told of a process that took too much."""
    text = f"out of memory: a job may take {memory_bytes >> 20} MiB here (job_memory_bytes)"
    return JobError(code="out_of_memory", message=text)


class Hearing:
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
        missing = next((path for path in paths if not self._is_inside(path)), "")
        return missing or self._no_bundle(product)

    def _no_bundle(self, product: Product) -> str:
        """A version that is no directory, or a file of one that lies elsewhere; "" if none."""
        for made in product.versions:
            if not (self._directory / made.path).is_dir():
                return made.path
            for path in sorted((self._directory / made.path).iterdir()):
                name = f"{made.path}/{path.name}"
                if not self._is_inside(name):
                    return name
        return ""

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
