"""What is known of each model: its versions, their states, and why some of them do not serve."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from operator import ne
from typing import Literal

from aiaas_server.core.errors import (
    ModelNotFound,
    ModelUnavailable,
    ServerError,
    VersionNotFound,
)
from aiaas_server.core.isolation import quarantine_of
from aiaas_server.core.model import LoadedModel, Serving
from aiaas_server.core.pool.loads import Load
from aiaas_server.core.statistics import Statistics

State = Literal["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]

RETRY_AFTER = 1.0
PAUSE_AFTER_FAILURE = 30.0  # seconds in which calls alone do not try again what failed
_MOST_REASON = 200
_MOST_NAME = 64  # characters of a name that came with a call
_MOST_COMPARED = 30  # names looked at for one that was misspelt
_MOST_RANKED = 1000  # names from which those are taken: the ones that differ in fewest places
_MOST_DIFFERENT = 4  # characters that one of them is longer or shorter
_path = re.compile(r"(?<![\w/])/(?:[^\s/'\"]+/)+")


class Version:
    """What is known of one version.

    Attributes:
        reason: Why it is not ready, or why its last reload failed while the old one serves.
        stamp: Of the files and configuration it was loaded from.
        statistics: Goes on counting when the version is reloaded.
    """

    __slots__ = ("_failed", "model", "reason", "stamp", "state", "statistics")

    def __init__(self) -> None:
        self.state: State = "UNAVAILABLE"
        self.reason = ""
        self.model: LoadedModel | None = None
        self.stamp: Hashable = None
        self.statistics = Statistics()
        self._failed: tuple[Hashable, float] | None = None

    def serves(self, model: LoadedModel, stamp: Hashable) -> None:
        """`model` takes its place."""
        self.model, self.stamp = model, stamp
        self.state, self.reason, self._failed = "READY", "", None

    def failed(self, reason: str, stamp: Hashable | None = None) -> None:
        """Loading failed; `stamp` is of files that fail again as long as they are the same."""
        self.reason = reason
        if self.model is None:
            self.state = "UNAVAILABLE"
        if stamp is not None:
            self._failed = (stamp, time.monotonic())

    def failed_lately(self, stamp: Hashable | None = None) -> bool:
        """Whether these files (any, if None) were tried a short while ago and are unusable."""
        if self._failed is None or time.monotonic() - self._failed[1] > PAUSE_AFTER_FAILURE:
            return False
        return stamp is None or self._failed[0] == stamp


@dataclass(slots=True)
class Entry:
    """What is known of one name.

    Attributes:
        problem: Why none of its versions can be tried; "" when they can.
        uploaded: It came with a call, and is nowhere to be loaded from again.
        put_away: A call unloaded it: it stays away until a call loads it.
        tried: Stamp of what was last tried to be loaded.
        lock: Held while it is being loaded: one load of a name at a time.
        loads: Under way, or waiting for their turn; `demand` is the one that calls wait for.
        waiting: Calls that wait for it to be loaded.
        quiet_until: On the monotonic clock; the log has heard that calls cannot have it.
    """

    versions: dict[int, Version] = field(default_factory=dict)
    problem: str = ""
    uploaded: bool = False
    put_away: bool = False
    tried: Hashable = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    loads: set[Load] = field(default_factory=set)
    demand: Load | None = None
    waiting: int = 0
    quiet_until: float = 0.0

    @property
    def overdue(self) -> bool:
        """Whether a load of it takes so long that others no longer wait for it."""
        return any(load.overdue for load in self.loads)

    @property
    def is_blank(self) -> bool:
        """Whether nothing would be lost without it."""
        return not (self.versions or self.problem or self.loads or self.put_away)


class Table:
    """All names: those in the repository and those that were loaded.

    Args:
        serving: Where calls look; `publish` keeps it right.

    Attributes:
        entries: By name, of those that somebody asked to load.
        known: The names in the repository, each with the versions that its policy chooses;
            without versions where nobody looked.
        misplaced: Names that look like models and cannot be served, each with what to do.
        newest: The greatest version of each name that serves.
        ready: Every version that serves.
    """

    def __init__(self, serving: Serving) -> None:
        self.entries: dict[str, Entry] = {}
        self.known: dict[str, Sequence[int]] = {}
        self.misplaced: Mapping[str, str] = {}
        self.newest = serving.newest
        self.ready = serving.ready

    def entry(self, name: str) -> Entry:
        """The entry of `name`, made if there is none."""
        return self.entries.setdefault(name, Entry())

    def publish(self, name: str) -> None:
        """Make the tables that calls read agree with the versions of `name`."""
        entry = self.entries.get(name)
        versions = {} if entry is None else entry.versions
        ready = {n: v.model for n, v in versions.items() if v.state == "READY" and v.model}
        for number in versions:
            self.ready.pop((name, number), None)
        self.ready.update({(name, number): model for number, model in ready.items()})
        self.newest.pop(name, None)
        if ready:
            self.newest[name] = ready[max(ready)]

    def serving_versions(self, name: str) -> list[int]:
        """Versions that serve, ascending; empty for an unknown model."""
        entry = self.entries.get(name)
        versions = {} if entry is None else entry.versions
        return sorted(number for number, one in versions.items() if one.state == "READY")

    def would_serve(self, name: str, version: int | None) -> bool:
        """Whether the version, or any when None, can be expected to serve once it is loaded."""
        entry = self.entries.get(name)
        if entry is not None and (entry.problem or entry.put_away):
            return False
        failed = {} if entry is None else entry.versions
        return any(
            version in (None, number)
            for number in self.known.get(name, ())
            if number not in failed or not failed[number].failed_lately()
        )

    def index(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """One entry a version; only the name of what was never loaded."""
        told = {name for name, entry in self.entries.items() if entry.versions or entry.problem}
        entries: list[dict[str, str]] = []
        for name in sorted(told | self.known.keys() | self.misplaced.keys()):
            entry = self.entries.get(name) or Entry()
            versions = entry.versions
            entries += [_told(name, number, versions[number]) for number in sorted(versions)]
            problem = entry.problem or self.misplaced.get(name, "")
            if not versions and problem:
                entries.append({"name": name, "state": "UNAVAILABLE", "reason": problem})
            elif not versions:
                entries.append({"name": name})
        if ready_only:
            return [entry for entry in entries if entry.get("state") == "READY"]
        return entries

    def why_missing(
        self,
        name: str,
        called: str,
        version: int | None,
        near: Iterable[str] = (),
        rule: str = "",
    ) -> ServerError:
        """What a call is told that found nothing to run.

        Args:
            called: What the caller calls it.
            near: Names that the caller may have meant.
            rule: Which versions are loaded, where that is not all there are.
        """
        shown = called[:_MOST_NAME]
        entry = self.entries.get(name)
        if (entry is None or entry.is_blank) and name not in self.known:
            if name in self.misplaced:
                problem = short(self.misplaced[name])
                return ModelNotFound(f"model '{shown}' has no available versions: {problem}")
            return ModelNotFound(
                f"Request for unknown model: '{shown}' is not found{_meant(called, near)}"
            )
        entry = entry or Entry()
        which = "" if version is None else f"version {version} of "
        if doing := _under_way(entry, version):
            return ModelUnavailable(
                f"{which}model '{shown}' is not at ready state: {doing}", retry_after=RETRY_AFTER
            )
        if version is None:
            return ModelNotFound(
                f"model '{shown}' has no available versions: {short(_reason(entry))}"
            )
        request = f"Request for unknown model: '{shown}' version {version}"
        if version in entry.versions or version in self.known.get(name, ()):
            told = entry.versions[version].reason if version in entry.versions else ""
            reason = told or ("unloaded" if entry.put_away else "nobody asked for it")
            return VersionNotFound(f"{request} is not loaded: {short(reason)}")
        return VersionNotFound(f"{request} is not found{rule and f'; {rule}'}")


def short(reason: str) -> str:
    """A reason as callers may read it: one short line; of a path only the file's name."""
    line = " ".join(_path.sub("", reason).split())
    return line if len(line) <= _MOST_REASON else line[: _MOST_REASON - 1] + "…"


def _told(name: str, number: int, version: Version) -> dict[str, str]:
    entry = {"name": name, "version": str(number), "state": version.state}
    if version.state == "READY" and (reason := quarantine_of(version.model)):
        return entry | {"state": "UNAVAILABLE", "reason": reason}
    if version.reason:
        entry["reason"] = version.reason
    return entry


def _under_way(entry: Entry, version: int | None) -> str:
    """What is being done to the version, or to any when None; "" for nothing."""
    versions: Mapping[int, Version] = entry.versions
    if version is not None and versions:
        versions = {version: versions[version]} if version in versions else {}
    if any(one.state in ("LOADING", "UNLOADING") for one in versions.values()):
        return "it is being loaded or unloaded"
    if entry.loads and (version is None or not entry.versions):
        return "it waits for its turn to be loaded"
    return ""


def _reason(entry: Entry) -> str:
    """Why no version of it serves: that of the newest which has a reason."""
    if entry.problem:
        return entry.problem
    told = [number for number, version in entry.versions.items() if version.reason]
    if told:
        return entry.versions[max(told)].reason
    return "unloaded" if entry.put_away else "it is not loaded"


def _meant(name: str, names: Iterable[str]) -> str:
    """The names nearest to `name`, as the end of a sentence; of many names only some are tried."""
    alike = (one for one in names if abs(len(one) - len(name)) <= _MOST_DIFFERENT)
    nearest = sorted(islice(alike, _MOST_RANKED), key=lambda one: sum(map(ne, one, name)))
    near = get_close_matches(name[:_MOST_NAME], nearest[:_MOST_COMPARED], 3, 0.7)
    return f"; did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
