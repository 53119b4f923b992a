"""`client.models.wait_rollout`: a guarded promotion, followed to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic

from aiaas_client import _errors as errors
from aiaas_client._api import management as calls
from aiaas_client._resources.changes import PASSING, PATIENCE
from aiaas_client._resources.registry import OneModel
from aiaas_client._send.options import positive
from aiaas_client._send.work import Pause

if TYPE_CHECKING:
    from aiaas_client._api.management import Part
    from aiaas_client._send.work import Work
    from aiaas_client.protocol.management import HistoryEntry, Model

Told = Callable[["Model"], object]

ROLLOUT_TIMEOUT = 3600.0
"""Seconds: the steps of a guard take minutes each, and wait for requests."""
STARTED, PROMOTED, ROLLED_BACK = "rollout_started", "promoted", "rolled_back"  # of a history
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between two looks


class Rollouts(Generic[OneModel]):
    """Guarded promotions under way."""

    _sender: Any
    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    def wait_rollout(
        self, name: str, timeout: float = ROLLOUT_TIMEOUT, *, progress: Told | None = None
    ) -> OneModel:
        """Wait until the guarded promotion of a model has ended, or the last one that has.

        Args:
            name: The model.
            timeout: Seconds.
            progress: Is told the model at each look; `serving.rollout` has the step.
        Returns:
            The model, whose new version is in production.
        Raises:
            RolledBackError: the guard went back to the old version, or something else ended the
                rollout; the text gives the reason of the history.
            DeadlineExceededError: it still goes on; nothing has been changed.
            InputError: the model never had a rollout.
            NotFoundError: there is no such model.
        """
        steps = _until_the_end(self._sender.clock.monotonic, name, timeout, progress)
        found: OneModel = self._carry_out(steps, self._sender)
        return found


def _until_the_end(
    now: Callable[[], float], name: str, timeout: float, progress: Told | None
) -> Work[Model]:
    """Look again and again; a server that is away for a moment is waited for."""
    began = heard = now()
    ends, pause = began + positive("timeout", timeout), _FIRST_PAUSE
    version: int | None = None
    while True:
        try:
            model: Model = yield calls.model(name)
        except PASSING:
            if now() >= min(ends, heard + PATIENCE):
                raise
        else:
            heard, rollout = now(), model.serving.rollout
            if progress is not None:
                progress(model)
            if rollout is None or version not in (None, rollout.version):
                yield from _check_end(name, version)
                return model
            version = rollout.version
        if (left := ends - now()) <= 0:
            what = "the rollout" if version is None else f"the rollout of version {version}"
            raise errors.DeadlineExceededError(
                f"{what} of model '{name}' goes on after {timeout:g} s", model=name
            )
        yield Pause(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)


def _check_end(name: str, version: int | None) -> Work[None]:
    """See in the history how the newest rollout, or that of a version, has ended.

    Raises:
        RolledBackError: otherwise than by its promotion.
    """
    end: HistoryEntry | None = None
    after: str | None = None
    while True:
        part: Part = yield calls.history(name, after)
        entry: HistoryEntry
        for entry in part.items:
            if entry.kind == STARTED and version in (None, entry.version):
                if end is not None and (end.kind, end.version) != (PROMOTED, entry.version):
                    raise _not_promoted(entry, end)
                return
            if entry.kind == STARTED or _has_no_rollout(entry):
                end = entry  # the oldest one behind the start
        if part.following is None or part.following == after:
            raise errors.InputError(
                f"model '{name}' had no rollout: `promote` with a guard starts one", model=name
            )
        after = part.following


def _has_no_rollout(entry: HistoryEntry) -> bool:
    """Whether it tells who serves afterwards, and that no rollout goes on."""
    return entry.after is not None and "aliases" in entry.after and not entry.after.get("rollout")


def _not_promoted(start: HistoryEntry, end: HistoryEntry) -> errors.RolledBackError:
    how = "went back" if end.kind == ROLLED_BACK else f"was ended ({end.kind}"
    if end.kind != ROLLED_BACK:
        how += ")" if end.version is None else f", version {end.version})"
    reason = f": {end.reason}" if end.reason else ""
    return errors.RolledBackError(
        f"the rollout of version {start.version} of model '{start.model}' {how}{reason}",
        model=start.model,
    )
