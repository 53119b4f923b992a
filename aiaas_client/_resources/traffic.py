"""Who gets which version: `client.models.promote`, `split`, `shadow`, `pin`, `rollback`.

Each change is one transaction on the server, written down in the model's history.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import fsum, isfinite
from typing import TYPE_CHECKING, Any, Generic

from aiaas_client._api import management as calls
from aiaas_client._errors import InputError, PreconditionFailedError
from aiaas_client._resources.numbers import number_of
from aiaas_client._resources.registry import OneModel

if TYPE_CHECKING:
    from aiaas_client._send.work import Work
    from aiaas_client.protocol.management import Guard, Serving

PRODUCTION = "production"
_MOST_TRIES = 5  # where others change the same model at the same moment
_TOLERANCE = 1e-6  # of shares, which are to add up to 1


class Traffic(Generic[OneModel]):
    """Who gets which version of a model."""

    _sender: Any
    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    def promote(
        self,
        name: str,
        version: str | int,
        *,
        alias: str = PRODUCTION,
        guard: Guard | Mapping[str, Any] | None = None,
        note: str = "",
    ) -> OneModel:
        """Point an alias at a version; it is loaded and warm before anyone gets it.

        Args:
            name: The model.
            version: Its number, or an alias: "canary" promotes what that stands for now.
            alias: Which one; "production" is whom calls without a version get.
            guard: Go step by step, and back by itself when the new version is worse; returns with
                the first step (see `wait_rollout`). A rollout that goes on is replaced.
            note: One line for the history.
        Returns:
            The model as it serves now.
        Raises:
            NotFoundError: there is no such model or version.
            ConflictError: the version is damaged or erased.
            LoadFailedError, UnprocessableError: it does not load; nothing has changed.
        """
        calls.checked_alias(alias)
        members: dict[str, Any] = {"note": note} if note else {}
        if guard is not None:
            members["guard"] = _guard(name, guard)
        steps = _promote(name, version, alias, members)
        found: OneModel = self._carry_out(steps, self._sender)
        return found

    def unalias(self, name: str, alias: str) -> OneModel:
        """Take an alias away; without "production" calls get the latest version.

        Raises:
            NotFoundError: there is no such model or alias.
        """
        found: OneModel = self._sender.send(calls.unalias(name, alias))
        return found

    def split(
        self,
        name: str,
        shares: Mapping[str, float] | Mapping[int, float],
        *,
        sticky: bool = True,
        note: str = "",
    ) -> OneModel:
        """Share the calls that name no version among several.

        Args:
            name: The model.
            shares: Version to its share, `{"3": 0.95, "4": 0.05}`; they add up to 1.
            sticky: Callers stay on their version, by `client.model(name, sticky_key="…")` or else
                by their API key; who has neither, and all with False, are drawn anew each call.
            note: One line for the history.
        Raises:
            InputError: the shares are none, or do not add up to 1.
        """
        checked = _shares(name, shares)
        members: dict[str, Any] = {"split": checked, "sticky": bool(sticky)}
        return self._change(name, members, note)

    def unsplit(self, name: str, *, note: str = "") -> OneModel:
        """End a split: calls without a version get "production", or else the latest."""
        return self._change(name, {"split": None}, note)

    def shadow(
        self, name: str, version: str | int, share: float = 1.0, *, note: str = ""
    ) -> OneModel:
        """Have a version answer copies of the calls, too: compared, counted and thrown away.

        Args:
            name: The model.
            version: Who gets the copies.
            share: Of how many of the calls, above 0 and up to 1.
            note: One line for the history.
        """
        _check_share(name, "shadow: share", share)
        if share == 0:
            raise InputError("shadow: share: expected above 0; unshadow ends it", model=name)
        steps = _shadow(name, version, float(share), note)
        found: OneModel = self._carry_out(steps, self._sender)
        return found

    def unshadow(self, name: str, *, note: str = "") -> OneModel:
        """Send no more copies."""
        return self._change(name, {"shadow": None}, note)

    def pin(self, name: str, version: str | int, *, note: str = "") -> OneModel:
        """Keep a version loaded and on the disk, whatever else points at it or not."""
        steps = _pins(name, version, note, pinned=True)
        found: OneModel = self._carry_out(steps, self._sender)
        return found

    def unpin(self, name: str, version: str | int, *, note: str = "") -> OneModel:
        """Leave a version to what points at it, and to the rules of the model."""
        steps = _pins(name, version, note, pinned=False)
        found: OneModel = self._carry_out(steps, self._sender)
        return found

    def rollback(self, name: str, steps: int = 1, *, note: str = "") -> OneModel:
        """Go back to who answered callers `steps` changes ago; done again it goes further back.

        A change of aliases or of a split is one, and what came of a rollout: see `history`. A
        change of the shadow or of pins is none, and they stay as they are.

        Raises:
            ConflictError: there were fewer changes, or a version of then is no longer there.
        """
        members: dict[str, Any] = {"note": note} if note else {}
        request = calls.asked("RollbackRequest", name, steps=steps, **members)
        found: OneModel = self._sender.send(calls.rollback(name, request))
        return found

    def _change(self, name: str, members: Mapping[str, Any], note: str) -> OneModel:
        found: OneModel = self._sender.send(_changing(name, members, note))
        return found


def _guard(name: str, guard: Guard | Mapping[str, Any]) -> dict[str, Any]:
    checked: Guard = calls.asked("Guard", name, **calls.members_of("Guard", name, guard))
    return checked.model_dump()


def _changing(name: str, members: Mapping[str, Any], note: str, etag: str = "") -> Any:
    noted = {**members, "note": note} if note else members
    return calls.change_traffic(name, calls.asked("TrafficRequest", name, **noted), etag)


def _promote(name: str, version: str | int, alias: str, members: Mapping[str, Any]) -> Work[Any]:
    number = yield from number_of(name, version)
    request = calls.asked("PromoteRequest", name, version=number, **members)
    return (yield calls.promote(name, alias, request))


def _shadow(name: str, version: str | int, share: float, note: str) -> Work[Any]:
    number = yield from number_of(name, version)
    return (yield _changing(name, {"shadow": {"version": number, "share": share}}, note))


def _pins(name: str, version: str | int, note: str, *, pinned: bool) -> Work[Any]:
    """Change the pins as they are; if somebody else does meanwhile, as they are then."""
    number = yield from number_of(name, version)
    tries = 0
    while True:
        serving, etag = yield calls.traffic(name)
        known: Serving = serving
        pins = sorted(({*known.pins} | {number}) if pinned else ({*known.pins} - {number}))
        if pins == sorted(known.pins):
            return (yield calls.model(name))
        try:
            return (yield _changing(name, {"pins": pins}, note, etag))
        except PreconditionFailedError:
            tries += 1
            if tries == _MOST_TRIES:
                raise


def _shares(name: str, shares: Mapping[Any, float]) -> dict[str, float]:
    if not shares:
        raise InputError(
            f"split: expected versions and their shares, {{'3': 0.95, '4': 0.05}}, got {shares!r}",
            model=name,
        )
    found: dict[str, float] = {}
    for version, share in shares.items():
        text = str(version)
        if isinstance(version, bool) or not (text.isascii() and text.isdigit()):
            raise InputError(f"split: expected a version's number, got {version!r}", model=name)
        _check_share(name, f"split: version {text}", share)
        found[str(int(text))] = float(share)
    if len(found) != len(shares):
        raise InputError(f"split: a version is named twice: {shares!r}", model=name)
    total = fsum(found.values())
    if abs(total - 1.0) > _TOLERANCE:
        raise InputError(f"split: expected shares that add up to 1, got {total:g}", model=name)
    return found


def _check_share(name: str, where: str, share: Any) -> None:
    is_number = isinstance(share, int | float) and not isinstance(share, bool)
    if not is_number or not isfinite(share) or not 0 <= share <= 1:
        raise InputError(f"{where}: expected a share from 0 to 1, got {share!r}", model=name)
