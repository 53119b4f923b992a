"""Several taps on one version: each is shown every request, and none costs the others anything."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.events import Caller
from aiaas_server.core.schedule.requests import Outcome, Tap

_log = logging.getLogger("aiaas_server")


class Taps:
    """Shows what it is shown to all of `taps`, in order; one that fails is logged, not heard of."""

    __slots__ = ("taps",)

    def __init__(self, taps: tuple[Tap, ...]) -> None:
        self.taps = taps

    def __call__(self, inputs: Mapping[str, Array], outcome: Outcome, caller: Caller) -> None:
        """Show one request and its answer."""
        for tap in self.taps:
            try:
                tap(inputs, outcome, caller)
            except Exception:
                _log.exception("one of several taps failed")


def with_tap(current: Tap | None, tap: Tap) -> Tap:
    """What `Scheduler.tap` becomes when `tap` is added to what is there; once, if it is."""
    taps = _taps_of(current)
    return _joined(taps if tap in taps else (*taps, tap)) or tap


def without_tap(current: Tap | None, tap: Tap) -> Tap | None:
    """The same when `tap` is taken away."""
    return _joined(tuple(one for one in _taps_of(current) if one is not tap))


def _taps_of(current: Tap | None) -> tuple[Tap, ...]:
    if current is None:
        return ()
    return current.taps if isinstance(current, Taps) else (current,)


def _joined(taps: tuple[Tap, ...]) -> Tap | None:
    if len(taps) < 2:
        return taps[0] if taps else None
    return Taps(taps)
