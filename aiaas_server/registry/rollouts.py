"""`Rollouts`: watches the guarded promotions that go on, and has each go on, end or go back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Protocol

from sqlalchemy import Connection

from aiaas_client.protocol.management import PromoteRequest, Rollout
from aiaas_client.protocol.names import PRODUCTION
from aiaas_server.core.errors import ServerError
from aiaas_server.core.names import full_name
from aiaas_server.core.tally import Judge, Tally, Verdict
from aiaas_server.registry import rollout as steps
from aiaas_server.registry.models import find_model, find_version
from aiaas_server.registry.rollout import Transition, same_step
from aiaas_server.registry.rows import Author, ModelRow
from aiaas_server.registry.trials import read_trials, write_trial
from aiaas_server.state.database import Database

INTERVAL: Final = 1.0
"""Seconds between two looks at a rollout, fewer where its window is short."""
_LOOKS: Final = 4  # in a window at least

_log = logging.getLogger("aiaas_server")

Told = Callable[[Transition], Awaitable[None]]
"""Is told of what became of a rollout by this process, once it is committed."""


class Counts(Protocol):
    """Who counts the requests of the versions on trial, in this process."""

    def watch(self, name: str, versions: Iterable[int]) -> None:
        """Count these versions of a model, from nothing, and no others of it."""
        ...

    def forget(self, name: str) -> None:
        """Count no version of a model any more."""
        ...

    def taken(self, name: str) -> Mapping[int, Tally]:
        """What was counted since `watch`, by version."""
        ...


@dataclass(slots=True)
class _Watched:
    """A step of a rollout that this process looks at.

    Attributes:
        began: On the monotonic clock, when it was first seen here.
        before: Seconds for which it had been seen then, by others or before a restart; None until
            the database was asked.
        waiting: What the guard said last.
    """

    model_id: str
    tenant: str
    name: str
    rollout: Rollout
    began: float
    before: float | None = None
    waiting: str = "it was not looked at yet"

    @property
    def full(self) -> str:
        """The server's own name of the model."""
        return full_name(self.tenant, self.name)


class _Look(NamedTuple):
    """What one look found.

    Attributes:
        model: As it is now; None where it is gone.
        before: See `_Watched`.
    """

    model: ModelRow | None
    before: float | None = None
    verdict: Verdict | None = None
    transition: Transition | None = None


class Rollouts:
    """The rollouts of one process. Any number of processes may watch the same ones.

    Args:
        judge: Says what to do with a step.
        counts: Who counts in this process.
        node: This process among all that ever share the database.
        told: Is told what became of a rollout; it alarms, and has new choices take effect here.
        clock: Monotonic, in seconds: how long a step lasts.
        wall: Seconds since 1970, for documents and history only.
    """

    def __init__(
        self,
        database: Database,
        judge: Judge,
        counts: Counts,
        *,
        node: str,
        told: Told | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._judge = judge
        self._counts = counts
        self._node = node
        self._told = told
        self._clock = clock
        self._wall = wall
        self._watched: dict[str, _Watched] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(
        self, author: Author, name: str, request: PromoteRequest, alias: str = PRODUCTION
    ) -> ModelRow:
        """Start a rollout, as `rollout.begin`; returns when it is written down.

        Raises:
            InvalidInput, NotFound, Conflict: It cannot be.
            StateUnavailable, StorageFull.
        """
        work = partial(
            steps.begin, author=author, name=name, request=request, now=self._wall(), alias=alias
        )
        model = await self._database.write(work)
        self.follow(model)
        return model

    def gone(self, name: str) -> None:
        """A model is the registry's no more; `name` is the server's own."""
        for model_id in [w.model_id for w in self._watched.values() if w.full == name]:
            self.forget(model_id)

    def follow(self, model: ModelRow) -> None:
        """Take note of how a model's document is now; call it at start and after each change."""
        rollout, watched = model.serving.rollout, self._watched.get(model.id)
        if rollout is None:
            self.forget(model.id)
        elif watched is None or not same_step(watched.rollout, rollout):
            versions = {rollout.version} | ({rollout.stable} if rollout.stable else set())
            self._counts.watch(full_name(model.tenant, model.name), versions)
            self._watched[model.id] = _Watched(
                model.id, model.tenant, model.name, rollout, self._clock()
            )
            self._news.set()

    def forget(self, model_id: str) -> None:
        """A model is gone, or no rollout of it goes on."""
        watched = self._watched.pop(model_id, None)
        if watched is not None:
            self._counts.forget(watched.full)

    def waiting(self, model_id: str) -> str:
        """Why the rollout of a model has not gone on yet, in words; "" where none goes on."""
        watched = self._watched.get(model_id)
        return "" if watched is None else watched.waiting

    # Looking

    async def look(self) -> list[Transition]:
        """Look at each rollout once: write down what was counted here, judge what all counted.

        Returns:
            What this process changed.
        Raises:
            StateUnavailable, StorageFull: The database cannot be written; nothing is lost.
        """
        made: list[Transition] = []
        for watched in list(self._watched.values()):
            found = await self._database.write(partial(self._look, watched))
            transition = self._noted(watched, found)
            if transition is not None:
                what = transition.kind.replace("_", " ")
                _log.info(
                    "model '%s': version %d %s: %s",
                    watched.name,
                    transition.version,
                    what,
                    transition.reason,
                )
                made.append(transition)
                if self._told is not None:
                    await self._told(transition)
        return made

    def _noted(self, watched: _Watched, found: _Look) -> Transition | None:
        """Keep what a look found, unless the rollout is another one by now."""
        if self._watched.get(watched.model_id) is not watched:
            return found.transition
        if found.model is None:
            self.forget(watched.model_id)
            return None
        watched.before = found.before
        if found.verdict is not None:
            watched.waiting = found.verdict.reason
        self.follow(found.model)
        return found.transition

    def _look(self, watched: _Watched, connection: Connection) -> _Look:
        """In the transaction."""
        model = find_model(connection, watched.tenant, watched.name)
        if model is None or model.id != watched.model_id:
            return _Look(None)
        rollout = model.serving.rollout
        if rollout is None or not same_step(rollout, watched.rollout):
            return _Look(model)
        before = self._write_down(connection, watched)
        trials = read_trials(connection, model.id, rollout)
        verdict = self._judge(rollout.guard, trials.new, trials.old, trials.seconds)
        unusable = _unusable(connection, model, rollout)
        if unusable:
            verdict = Verdict("broken", unusable)
        made = self._acted(connection, model, verdict)
        return _Look(model if made is None else made.model, before, verdict, made)

    def _write_down(self, connection: Connection, watched: _Watched) -> float:
        """Put down what was counted here; gives for how long the step was seen before."""
        elapsed, before = self._clock() - watched.began, watched.before
        if before is None:
            seen = read_trials(connection, watched.model_id, watched.rollout).seconds
            before = max(seen - elapsed, 0.0)
        for version, tally in self._counts.taken(watched.full).items():
            write_trial(
                connection,
                watched.model_id,
                version,
                watched.rollout,
                self._node,
                tally,
                before + elapsed,
            )
        return before

    def _acted(
        self, connection: Connection, model: ModelRow, verdict: Verdict
    ) -> Transition | None:
        if verdict.kind == "waits":
            return None
        if verdict.kind == "broken":
            return steps.go_back(connection, model, verdict.reason)
        return steps.advance(connection, model, verdict.reason, self._wall())

    # In the background

    def start(self) -> None:
        """Look again and again, on this event loop, until `close`."""
        self._task = self._task or asyncio.create_task(self._run())

    async def close(self) -> None:
        """Look no more; what was counted since the last look is written down, not judged."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for watched in self._watched.values():
            with suppress(ServerError):
                await self._database.write(partial(self._leave, watched))

    def _leave(self, watched: _Watched, connection: Connection) -> None:
        """In the transaction: the last counts of this process, if the step still goes on."""
        model = find_model(connection, watched.tenant, watched.name)
        if model is not None and same_step(model.serving.rollout, watched.rollout):
            self._write_down(connection, watched)

    async def _run(self) -> None:
        failing = False
        while True:
            if not self._watched:
                await self._news.wait()
            self._news.clear()
            try:
                await self.look()
                failing = False
            except ServerError as error:
                if not failing:
                    _log.warning("rollouts are not judged now: %s", error.message)
                failing = True
            except Exception:
                _log.exception("a look at the rollouts failed")
            with suppress(TimeoutError):  # a new step is seen at once, so that its time counts
                await asyncio.wait_for(self._news.wait(), self._pause())

    def _pause(self) -> float:
        windows = [watched.rollout.guard.window for watched in self._watched.values()]
        return min([INTERVAL, *(window / _LOOKS for window in windows)])


def _unusable(connection: Connection, model: ModelRow, rollout: Rollout) -> str:
    """Why the new version can serve no longer; "" where it can."""
    version = find_version(connection, model.id, rollout.version)
    if version is None:
        return f"version {rollout.version} is gone"
    return "" if version.state == "verified" else f"version {version.number} is {version.state}"
