"""Tracebacks that show the caller's frames, not those of the libraries under the SDK."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

from aiaas_client._transport.failures import HTTP_LIBRARIES

E = TypeVar("E", bound=BaseException)

_LIBRARIES = HTTP_LIBRARIES | {"h11", "http", "anyio"}
_HIDDEN = _LIBRARIES | {"aiaas_client", "tenacity", "asyncio", "contextlib", "socket", "ssl"}
_LONGEST_CHAIN = 20


def trimmed(error: E) -> E:
    """Take the frames of the SDK and of its libraries off an error and off its causes.

    What stays are the causes themselves, and the frames of the application's own middleware.
    """
    one: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if one is None:
            break
        one.__traceback__ = _shown(one.__traceback__)
        one = one.__cause__ or _of_library(one.__context__)
    return error


def _of_library(error: BaseException | None) -> BaseException | None:
    """`error`, unless it is the application's own: the call was made while handling it."""
    ours = type(error).__module__.partition(".")[0] in _LIBRARIES
    return error if ours else None


def _shown(traceback: TracebackType | None) -> TracebackType | None:
    kept = []
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in _HIDDEN:
            kept.append(traceback)
        traceback = traceback.tb_next
    shown = None
    for one in reversed(kept):
        shown = TracebackType(shown, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return shown
