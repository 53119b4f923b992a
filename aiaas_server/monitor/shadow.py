"""Shadow traffic: which version gets copies of which model's requests."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

from aiaas_client.protocol.management import Serving
from aiaas_server.core.errors import ServerError
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.schedule.requests import Tap
from aiaas_server.core.schedule.taps import with_tap, without_tap
from aiaas_server.monitor.guard import MIRRORED_SHARE
from aiaas_server.monitor.mirror import Finding, Mirror, Witness
from aiaas_server.monitor.shadow_counts import WINDOW, ShadowCounts, write_shadows
from aiaas_server.state.database import Database

FLUSHED_EVERY: Final = 10.0

_log = logging.getLogger("aiaas_server")


class _Watch:
    """A shadow's counts since they were last written; drops come from any thread."""

    def __init__(self) -> None:
        self._counts = ShadowCounts()
        self._dropped = 0
        self._lock = threading.Lock()

    def found(self, finding: Finding) -> None:
        self._counts.add(finding)

    def dropped(self) -> None:
        with self._lock:
            self._dropped += 1

    def taken(self) -> ShadowCounts:
        """What there is, and begin anew; on the event loop."""
        counts, self._counts = self._counts, ShadowCounts()
        with self._lock:
            counts.dropped += self._dropped
            self._dropped = 0
        return counts

    def put_back(self, counts: ShadowCounts) -> None:
        """Count again what could not be written."""
        counts.merge(self._counts)
        self._counts = counts


@dataclass(slots=True)
class _Of:
    """What is mirrored of one model.

    Attributes:
        shadow: To the shadow that its owner asked for.
        trial: To the version that a rollout tries, of what `stable` answers.
    """

    model_id: str
    shadow: Mirror | None = None
    trial: Mirror | None = None
    stable: int | None = None


class Shadows:
    """All shadows of one process.

    Args:
        find: Gives a version while it serves.
        loaded: All versions that serve.
        node: This process among all that ever share the database.
        mirrored: Is told, of a rollout that bounds disagreement: model, version, and whether it
            agreed.
        wall: Seconds since 1970.

    Everything but the taps themselves happens on one event loop.
    """

    def __init__(
        self,
        find: Callable[[str, int], LoadedModel | None],
        loaded: Callable[[], Iterable[LoadedModel]],
        *,
        node: str,
        mirrored: Callable[..., object] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._find = find
        self._loaded = loaded
        self._node = node
        self._mirrored = mirrored
        self._wall = wall
        self._models: dict[str, _Of] = {}
        self._watches: dict[tuple[str, int], _Watch] = {}
        self._taps: WeakKeyDictionary[LoadedModel, dict[Mirror, Tap]] = WeakKeyDictionary()
        self._task: asyncio.Task[None] | None = None

    def follow(self, model_id: str, name: str, serving: Serving) -> bool:
        """Take note of a model's document; gives whether that changes who gets copies.

        Call it at start, after each change, and when versions were loaded. What waits for a shadow
        that is one no longer is forgotten, what runs is stopped.
        """
        of = self._models.get(name)
        if of is None or of.model_id != model_id:
            self.forget(name)
            of = self._models[name] = _Of(model_id)
        before = of.shadow, of.trial, of.stable
        shadow, rollout = serving.shadow, serving.rollout
        wanted = None if shadow is None else (shadow.version, shadow.share)
        of.shadow = self._instead(name, of.shadow, wanted, partial(self._counting, model_id))
        tried = None
        if rollout is not None and rollout.guard.max_disagreement is not None:
            tried = rollout.version, MIRRORED_SHARE
        of.stable = None if tried is None or rollout is None else rollout.stable
        of.trial = self._instead(name, of.trial, tried, partial(self._judging, name))
        if of.shadow is None and of.trial is None:
            del self._models[name]
        self._attach_all(name)
        return (of.shadow, of.trial, of.stable) != before

    def forget(self, name: str) -> None:
        """A model is gone."""
        of = self._models.pop(name, None)
        for mirror in () if of is None else (of.shadow, of.trial):
            if mirror is not None:
                mirror.end()
        if of is not None:
            self._attach_all(name)

    def _attach_all(self, name: str) -> None:
        for model in self._loaded():
            if model.full == name:
                self.attach(model)

    def attach(self, model: LoadedModel) -> None:
        """Have a version show its requests to who wants copies of them now, and to no others."""
        wanted, before = self._mirrors_of(model), self._taps.get(model, {})
        if wanted == list(before):
            return
        tap = model.scheduler.tap
        for old in before.values():
            tap = without_tap(tap, old)
        taps = {mirror: mirror.tap(model) for mirror in wanted}
        for new in taps.values():
            tap = with_tap(tap, new)
        model.scheduler.tap = tap
        self._taps[model] = taps

    def _mirrors_of(self, model: LoadedModel) -> list[Mirror]:
        of = self._models.get(model.full)
        if of is None:
            return []
        found = []
        if of.shadow is not None and of.shadow.version != model.version:
            found.append(of.shadow)
        if of.trial is not None and of.stable == model.version:
            found.append(of.trial)
        return found

    def _instead(
        self,
        name: str,
        before: Mirror | None,
        wanted: tuple[int, float] | None,
        witness: Callable[[int], Witness],
    ) -> Mirror | None:
        if before is not None:
            if wanted == (before.version, before.share):
                return before
            before.end()
        if wanted is None:
            return None
        told = witness(wanted[0])
        return Mirror(name, *wanted, self._find, told, asyncio.get_running_loop())

    def _counting(self, model_id: str, version: int) -> Witness:
        watch = self._watches.setdefault((model_id, version), _Watch())
        return Witness(watch.found, watch.dropped)

    def _judging(self, name: str, version: int) -> Witness:
        def found(finding: Finding) -> None:
            if self._mirrored is not None:
                agrees = finding.compared is not None and finding.compared.agrees
                self._mirrored(name, version, agrees=agrees)

        return Witness(found, lambda: None)

    # Written down

    async def flush(self, database: Database) -> None:
        """Add what was counted to the window of this minute.

        Raises:
            StateUnavailable, StorageFull: It is kept for the next time.
        """
        taken = {key: watch.taken() for key, watch in self._watches.items()}
        taken = {key: counts for key, counts in taken.items() if counts != ShadowCounts()}
        if not taken:
            return
        start = int(self._wall()) // WINDOW * WINDOW
        try:
            await database.write(partial(write_shadows, start=start, node=self._node, taken=taken))
        except ServerError:
            for key, counts in taken.items():
                self._watches[key].put_back(counts)
            raise
        self._let_go()

    def _let_go(self) -> None:
        """Of the counts of those that are no shadows any more."""
        now = {(of.model_id, of.shadow.version) for of in self._models.values() if of.shadow}
        self._watches = {key: watch for key, watch in self._watches.items() if key in now}

    def start(self, database: Database) -> None:
        """Write down what is counted again and again, until `close`."""
        self._task = self._task or asyncio.create_task(self._flush_often(database))

    async def close(self, database: Database) -> None:
        """End all shadows, and write down what was counted."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for name in list(self._models):
            self.forget(name)
        with suppress(ServerError):
            await self.flush(database)

    async def _flush_often(self, database: Database) -> None:
        while True:
            await asyncio.sleep(FLUSHED_EVERY)
            try:
                await self.flush(database)
            except ServerError as error:
                _log.warning("what shadows did is not written now: %s", error.message)
            except Exception:
                _log.exception("what shadows did cannot be written")
