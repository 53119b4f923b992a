"""Puts stored models into the table of those that serve, and takes them out again.

Versions are opened one at a time, each in a thread of its own; everything else happens on the
event loop. Loads of one name follow one another, those of different names do not wait for each
other but for their turn to open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.describe.stored import ModelRepository, StoredModel, StoredVersion
from aiaas_server.core.errors import LoadFailed, ModelNotFound, ModelUnavailable, ServerError
from aiaas_server.core.isolation import quarantine_of
from aiaas_server.core.names import plain
from aiaas_server.core.pool.budget import Key, MemoryBudget
from aiaas_server.core.pool.loads import Load, LoadLock, in_own_thread
from aiaas_server.core.pool.opener import Opened, Opener
from aiaas_server.core.pool.states import Entry, Table, Version, short
from aiaas_server.core.pool.unloader import Unloader, finished

T = TypeVar("T")
Work = Callable[[Load], Coroutine[Any, Any, None]]

_log = logging.getLogger("aiaas_server")


class Loader:
    """Loads and unloads.

    Args:
        table: What it keeps up to date.
        patience: Seconds after which one that is being opened no longer holds up the next.

    Attributes:
        repository: Where models lie; `on_disk` calls it.
    """

    def __init__(
        self,
        repository: ModelRepository,
        opener: Opener,
        table: Table,
        unloader: Unloader,
        budget: MemoryBudget,
        patience: float,
    ) -> None:
        self.repository = repository
        self._opener = opener
        self._table = table
        self._unloader = unloader
        self._budget = budget
        self._lock = LoadLock(patience)
        self._disk = ThreadPoolExecutor(1, "aiaas-disk")

    # Looking

    async def look(self, *, closely: bool) -> Mapping[str, Hashable]:
        """Read which models the repository holds.

        Args:
            closely: Also which versions of each are to be served; costs reading each directory.
        Returns:
            By name a stamp that changes with the model; None where it was not looked at closely.
        """
        self._table.misplaced = await self.on_disk(self.repository.misplaced)
        if not closely:
            names = await self.on_disk(self.repository.names)
            known = self._table.known
            self._table.known = {name: known.get(name, ()) for name in names}
            return dict.fromkeys(names)
        found = await self.on_disk(self._find_all)
        self._table.known = {stored.name: _chosen(stored) for stored in found}
        return {stored.name: stamp_of(stored) for stored in found}

    def _find_all(self) -> list[StoredModel]:
        found = [self.repository.find(name) for name in self.repository.names()]
        return [stored for stored in found if stored is not None]

    async def on_disk(self, function: Callable[..., T], *args: object) -> T:
        """Call what reads the repository, which blocks for a short while."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, function, *args)

    # Loads

    def begin(self, name: str, work: Work, failure: str = "", success: str = "") -> Load:
        """Start `work`, which loads `name`; it goes on whoever waits for it.

        Args:
            failure: What the log calls its failure, such as "is not served"; "" where somebody
                waits who is told.
            success: What the log calls its success, such as "was loaded"; "" where that is told
                elsewhere.
        """
        load = Load(name)
        self._table.entry(name).loads.add(load)
        load.task = asyncio.create_task(work(load))
        load.task.add_done_callback(partial(self._ended, load, failure, success))
        return load

    def _ended(self, load: Load, failure: str, success: str, task: asyncio.Task[None]) -> None:
        load.settled.set()
        entry = self._table.entries.get(load.name)
        if entry is not None:
            entry.loads.discard(load)
            if entry.is_blank:
                del self._table.entries[load.name]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ServerError):
            if failure:
                _log.error("model '%s' %s: %s", load.name, failure, error.message)
        elif error is not None:
            _log.error("model '%s': loading it failed", load.name, exc_info=error)
        elif success and not task.cancelled():
            numbers = ", ".join(map(str, self._table.serving_versions(load.name)))
            _log.info("model '%s' %s; it serves version %s", load.name, success, numbers)

    async def interrupt(self, loads: Iterable[Load]) -> None:
        """Cancel `loads`; returns when none of them can change anything any more."""
        tasks = [load.task for load in loads]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def load_stored(
        self,
        load: Load,
        *,
        config: str | None = None,
        force: bool = False,
        on_demand: bool = False,
    ) -> None:
        """Load a model as it lies in the repository.

        Args:
            config: A configuration as JSON text instead of the stored one.
            force: Reload although nothing changed.
            on_demand: A call needs it: what failed a short while ago is not tried again.
        Raises:
            ModelNotFound: The repository has no such model.
            ModelUnavailable: There is no room for it now.
            LoadFailed: A version cannot be loaded, or can never fit into the budget; what served
                before still does.
        """
        name = load.name
        override = None if config is None else _named(name, config)
        entry = self._table.entry(name)
        async with entry.lock:
            stored = await self.on_disk(self.repository.find, name)
            if stored is None:
                raise ModelNotFound(self._why_not_there(name))
            self._table.known[name] = _chosen(stored)
            entry.put_away = False
            entry.tried = stamp_of(stored)
            if override is not None:
                stored = _with_config(stored, override, config)
            await self._apply(load, entry, stored, force=force, on_demand=on_demand)
            entry.uploaded = False

    def _why_not_there(self, name: str) -> str:
        """Of a name under which the repository holds nothing that can be served."""
        problem = self._table.misplaced.get(name)
        if problem is not None:
            return f"model '{plain(name)[:64]}' has no available versions: {short(problem)}"
        return f"model '{plain(name)[:64]}' is not in the repository"

    async def load_files(
        self, load: Load, *, config: str | None, files: Mapping[str, bytes]
    ) -> None:
        """Load a model from files that came with a call, `<version>/<file name>` to bytes.

        Raises:
            LoadFailed: They cannot be served, or no configuration came with them.
        """
        if config is None:
            raise LoadFailed(f"model '{load.name[:64]}': files need a config beside them")
        parsed = _named(load.name, config)
        entry = self._table.entry(load.name)
        async with entry.lock:
            upload = self.repository.upload(load.name, parsed, files)
            stored = await self.on_disk(upload.__enter__)
            try:
                await self._apply(load, entry, stored, force=True, on_demand=False)
            finally:
                await self.on_disk(upload.__exit__, None, None, None)
            entry.uploaded, entry.put_away = True, False

    async def _apply(
        self, load: Load, entry: Entry, stored: StoredModel, *, force: bool, on_demand: bool
    ) -> None:
        """Load the versions that the policy wants; retire the others when all went well."""
        name = stored.name
        if stored.problem or not stored.versions:
            _note_problem(entry, stored)
            raise LoadFailed(f"failed to load '{plain(name)}': {entry.problem}")
        entry.problem = ""
        chosen = _chosen(stored)
        wanted = [version for version in stored.versions if version.number in chosen]
        failures = [] if chosen else ["version_policy chooses none of its versions"]
        for version in wanted:
            state = entry.versions.setdefault(version.number, Version())
            lately = on_demand and state.failed_lately((version.stamp, stored.stamp))
            if state.model is None and not lately:
                state.state, state.reason = "LOADING", ""
        try:
            for version in wanted:
                failure = await self._load_version(
                    load, entry, stored, version, force=force, on_demand=on_demand
                )
                if failure:
                    failures.append(f"version {version.number}: {failure}")
        finally:
            for version in wanted:
                if entry.versions[version.number].state == "LOADING":
                    entry.versions[version.number].failed("loading was interrupted")
        if failures:
            raise LoadFailed(f"failed to load '{plain(name)}', {'; '.join(failures)}")
        ending = self._retire_others(entry, name, chosen, {v.number for v in stored.versions})
        load.settled.set()  # what it replaces may be at work for long
        await finished(ending)

    async def _load_version(
        self,
        load: Load,
        entry: Entry,
        stored: StoredModel,
        version: StoredVersion,
        *,
        force: bool,
        on_demand: bool,
    ) -> str:
        """Load one version and put it in the place of the one that serves; gives why it failed."""
        state = entry.versions[version.number]
        stamp = (version.stamp, stored.stamp)
        serves = state.state == "READY" and (on_demand or not quarantine_of(state.model))
        if serves and state.stamp == stamp and not force:
            return ""
        if on_demand and state.failed_lately(stamp):
            return state.reason
        try:
            await self._replace(load, state, stored, version, stamp)
        except ModelUnavailable as error:
            state.failed(error.message)
            raise
        except LoadFailed as error:
            state.failed(error.message, stamp)
            return error.message
        return ""

    async def _replace(
        self,
        load: Load,
        state: Version,
        stored: StoredModel,
        version: StoredVersion,
        stamp: Hashable,
    ) -> None:
        """Open a version in its turn and have it serve instead of the one that does."""
        key = (stored.name, version.number)
        expected = await self._expected_size(key, version)
        async with self._lock.held_by(load):
            with self._budget.reserving(key):
                await self._make_room(key, expected, stored)
                opened = await in_own_thread(
                    partial(self._opener.open, stored, version, state.statistics), _close
                )
                self._budget.took(key, opened.size)
                try:
                    await self._make_room(key, opened.size, stored)
                except BaseException:
                    await opened.model.scheduler.close()
                    raise
                self._install(state, opened, stamp)

    def _install(self, state: Version, opened: Opened, stamp: Hashable) -> None:
        old = state.model
        state.serves(opened.model, stamp)
        state.statistics.memory_bytes, state.statistics.load_ns = opened.size, opened.took_ns
        self._table.publish(opened.model.full)
        if old is not None:
            old.successor = opened.model
            self._unloader.retire(old)

    # Room

    async def _expected_size(self, key: Key, version: StoredVersion) -> int:
        """Bytes that a version will take: as it took before, or its files."""
        if not self._budget.limit:
            return 0
        known = self._budget.last_size(key)
        return known or await self.on_disk(self._opener.size_of_files, version)

    async def _make_room(self, key: Key, needed: int, stored: StoredModel) -> None:
        """Unload what was used least recently until `needed` bytes for `key` fit.

        Raises:
            LoadFailed: They never can; nothing was unloaded.
            ModelUnavailable: They do not fit now; nothing was unloaded.
        """
        name, number = key
        stays = set(_chosen(stored)) - {number}
        sizes = {
            (other, n): model.statistics.memory_bytes
            for (other, n), model in self._table.ready.items()
            if other != name or n in stays
        }
        leaving = self._budget.leaving(key, needed, sizes, self._may_unload)
        withdraw = partial(self._unloader.withdraw, reason="unloaded to make room")
        # All at once: while one is awaited, a call could begin to use the next.
        await finished([task for other in leaving for task in withdraw(other)])

    def _may_unload(self, name: str) -> bool:
        entry = self._table.entries[name]
        if name in self._budget.pinned or entry.uploaded or entry.waiting:
            return False  # what came with a call is nowhere to be loaded from again
        if self._budget.is_held(name):
            return False
        models = [version.model for version in entry.versions.values() if version.model]
        return not any(model.statistics.pending or model.in_use for model in models)

    def _retire_others(
        self, entry: Entry, name: str, keep: Sequence[int], present: set[int]
    ) -> list[asyncio.Task[None]]:
        """Take the versions out of service that are not to `keep`, and forget those not there."""

        def drop() -> None:
            for number in [n for n in entry.versions if n not in present]:
                if entry.versions[number].state == "UNAVAILABLE":
                    del entry.versions[number]
                    self._budget.forget((name, number))

        others = [number for number in entry.versions if number not in keep]
        ending = self._unloader.withdraw(name, numbers=others, then=drop)
        drop()
        return ending

    def forget(self, name: str) -> None:
        """Take a model out of service and of the table: it is gone from the repository."""
        entry = self._table.entries.get(name)
        if entry is None:
            return
        for load in entry.loads:
            load.task.cancel()
        self._unloader.withdraw(name)
        for number in entry.versions:
            self._budget.forget((name, number))
        del self._table.entries[name]

    def close(self) -> None:
        """Let go of the thread that reads the disk; after all loads."""
        self._disk.shutdown(wait=False, cancel_futures=True)


def stamp_of(stored: StoredModel) -> Hashable:
    """Differs when anything of the model does."""
    return stored.stamp, tuple((v.number, v.stamp) for v in stored.versions)


def _chosen(stored: StoredModel) -> list[int]:
    """The versions to serve, ascending."""
    if stored.problem:
        return []
    return stored.config.version_policy.choose([version.number for version in stored.versions])


def _close(opened: Opened) -> None:
    """Nobody waits for it any more."""
    opened.model.session.close()


def _note_problem(entry: Entry, stored: StoredModel) -> None:
    entry.problem = stored.problem or "it has no version directory, a positive integer"
    for version in stored.versions:
        entry.versions.setdefault(version.number, Version()).reason = entry.problem


def _named(name: str, text: str) -> ModelConfig:
    """A configuration that is given for `name`."""
    config = ModelConfig.parse(text)
    if config.name not in ("", name):
        raise LoadFailed(f"configuration: expected the name '{name}', got '{config.name[:64]}'")
    return config


def _with_config(stored: StoredModel, config: ModelConfig, text: str | None) -> StoredModel:
    """`stored` under another configuration; its version files are looked for anew."""
    filename = config.default_model_filename or "model.onnx"
    versions = stored.versions
    if stored.directory is not None:
        versions = tuple(
            StoredVersion(v.number, v.path.with_name(filename), v.stamp) for v in versions
        )
    stamp = stored.stamp, text
    return replace(stored, config=config, versions=versions, problem="", stamp=stamp)
