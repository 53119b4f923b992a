"""Bringing files to a draft, piece by piece, whatever breaks on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from aiaas_client import _errors as errors
from aiaas_client._api.call import Call
from aiaas_client._bulk.progress import Progress, Report, open_progress
from aiaas_client._bundles.bundle import Part
from aiaas_client._send.work import Local, Pause, Work
from aiaas_client.protocol.management import DraftFile

PIECE_BYTES = 16 << 20
"""Of a file, at a time: what a broken connection loses at most, and what is held in memory."""
MOST_FAILURES = 5
"""In a row, of one file that gets no further."""
FIRST_PAUSE = 0.1
"""Seconds; doubling with each failure."""
_TEMPORARY = (
    errors.APIConnectionError,
    errors.APITimeoutError,
    errors.ConflictError,
    errors.BadGatewayError,
    errors.ServiceUnavailableError,
    errors.GatewayTimeoutError,
    errors.RateLimitError,
)

Show = bool | Report | None


class Phases:
    """One bar after another: reading, sending, verifying; a callback hears of what is sent."""

    def __init__(self, wanted: Show, title: str) -> None:
        self._wanted = wanted
        self._title = title
        self._shown: Progress | None = None

    def begin(self, phase: str, total: int | None, *, is_sending: bool = False) -> None:
        """End the former phase, and show this one."""
        self.close()
        wanted = self._wanted or False
        if wanted is not True and not is_sending:
            wanted = False
        title = f"{self._title}: {phase}"
        self._shown = open_progress(wanted, total, title, is_bytes=total is not None)

    def advance(self, count: int) -> None:
        """So many more bytes are done."""
        if self._shown is not None and count:
            self._shown.advance(count)

    def close(self) -> None:
        """End the phase."""
        shown, self._shown = self._shown, None
        if shown is not None:
            shown.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Draft(Protocol):
    """What is being brought: a version of a model, or a data set."""

    @property
    def files(self) -> Sequence[DraftFile]:
        """What the server has of each file."""
        ...


class Draftsman(NamedTuple):
    """How files get into one draft.

    Attributes:
        put: The call that brings bytes of a file from an offset on; it gives the draft.
        look: The call that gives the draft as it is now.
    """

    put: Callable[[str, int, bytes], Call[Any]]
    look: Callable[[], Call[Any]]


def send(to: Draftsman, file: DraftFile, part: Part, piece: int, phases: Phases) -> Work[None]:
    """Send what is missing of a file, piece by piece; after a break from where the server is."""
    failures = 0
    while not file.complete:
        offset = file.received
        count = max(min(piece, part.size - offset), 0)
        content = yield Local(partial(part.read, offset, count))
        try:
            told = yield to.put(file.name, offset, content)
        except _TEMPORARY:
            failures += 1
            if failures >= MOST_FAILURES:
                raise
            yield Pause(FIRST_PAUSE * 2**failures)
            file = _found((yield to.look()), file.name)
        else:
            file = _found(told, file.name)
            if file.received <= offset and not file.complete:
                raise errors.ProtocolError(
                    f"{file.name}: {count} bytes were sent, and the server still has {offset}"
                )
        if file.received > offset:
            failures = 0
            phases.advance(file.received - offset)


def _found(draft: Draft, name: str) -> DraftFile:
    for file in draft.files:
        if file.name == name:
            return file
    raise errors.ProtocolError(f"the draft: {name!r} is no longer a file of it")
