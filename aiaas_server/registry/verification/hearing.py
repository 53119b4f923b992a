"""Hears what the throw-away process says, and believes none of it but its form."""

from __future__ import annotations

import logging
import signal
from typing import Final

from pydantic import ValidationError

from aiaas_server.core.errors import Rejected, ServerError, StateUnavailable
from aiaas_server.registry.verification.verdict import DOING, Line, Phase, Verified, no_room

_log = logging.getLogger("aiaas_server")

_MAX_SAID: Final = 8 << 20  # bytes; most is a few thousand, the card among it may be a million
_MAX_REASON: Final = 480


class Hearing:
    """What a process has told so far.

    Attributes:
        phase: Where it was last.
        too_large: It was ended, since it took too much memory.
    """

    def __init__(self) -> None:
        self.phase: Phase = "start"
        self._last: Line | None = None
        self.too_large = False
        self._rest = b""
        self._total = 0

    def add(self, piece: bytes) -> None:
        """Take in a piece of its output.

        Raises:
            Rejected: That is not what an honest process would say.
        """
        self._total += len(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if self._total > _MAX_SAID:
            raise Rejected("the model made its verification say more than it may")
        for text in lines:
            try:
                line = Line.model_validate_json(text)
            except ValidationError:
                raise Rejected("the model made its verification say what nobody can read") from None
            if line.phase is not None:
                self.phase = line.phase
            else:
                self._last = line

    def too_late(self, timeout: float) -> ServerError:
        """What to say of a process that had `timeout` seconds and did not end."""
        if self.phase == "start":
            return StateUnavailable(
                f"the server is too busy to verify models: within {timeout:g} s the process for "
                "it did not start",
                retry_after=30.0,
            )
        return Rejected(
            f"the model was not verified within {timeout:g} s: it took longer {DOING[self.phase]}"
        )

    def outcome(self, code: int, memory_bytes: int) -> Verified:
        """What came of it, once the process has ended.

        Args:
            code: Its exit status; negative is the signal that ended it.
            memory_bytes: What it might take.
        Raises:
            Rejected: Anything but a verdict in favour.
            StateUnavailable: It ended before it looked at anything.
        """
        last = self._last
        if self.too_large:
            raise Rejected(no_room(memory_bytes, self.phase))
        if last is not None and last.verified is not None and code == 0:
            return last.verified
        if last is not None and last.rejected is not None:
            raise Rejected(_plain(last.rejected))
        if self.phase == "start":
            told = f"status {code}" if last is None or last.failed is None else last.failed[:1024]
            _log.error("the process that verifies models does not work: %s", told)
            raise StateUnavailable("models cannot be verified now: the process for it failed")
        if last is not None and last.failed is not None:
            _log.error("a bundle could not be verified: %s", last.failed[:1024])
            name = _plain(last.failed.partition(":")[0])
            raise Rejected(f"the model could not be verified: {name} {DOING[self.phase]}")
        raise Rejected(_ended(code, memory_bytes, self.phase))


def _ended(code: int, memory: int, phase: Phase) -> str:
    if code >= 0:
        return f"the model ended its verification with status {code} {DOING[phase]}"
    if -code == signal.SIGXCPU:
        return f"the model used up its processor time {DOING[phase]}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return (
        f"the model ended the process that verified it ({name}) {DOING[phase]}; "
        f"it may take {memory} bytes there"
    )


def _plain(text: str) -> str:
    """A reason as one printable line that is not long."""
    line = " ".join(text.split())
    return "".join(sign for sign in line if sign.isprintable())[:_MAX_REASON]
