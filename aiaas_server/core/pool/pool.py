"""Which model versions are loaded now: find the one to call, load, unload, stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from aiaas_client.protocol.scopes import OPERATOR_SCOPE
from aiaas_server.core.describe.bundle import Bundles
from aiaas_server.core.describe.stored import ModelRepository
from aiaas_server.core.errors import (
    Conflict,
    ControlDisabled,
    Draining,
    LoadFailed,
    ModelUnavailable,
    ServerError,
    misnamed_version,
)
from aiaas_server.core.events import NOBODY, Caller, Observer
from aiaas_server.core.isolation import quarantine_of
from aiaas_server.core.model import Aliases, Choose, LoadedModel, Serving
from aiaas_server.core.names import Names, parted, plain
from aiaas_server.core.pool.budget import MemoryBudget
from aiaas_server.core.pool.loader import Loader
from aiaas_server.core.pool.loads import Load, settled
from aiaas_server.core.pool.memory import give_back, resident_bytes
from aiaas_server.core.pool.opener import OnServe, Opener
from aiaas_server.core.pool.states import PAUSE_AFTER_FAILURE, RETRY_AFTER, Entry, Table, short
from aiaas_server.core.pool.unloader import Unloader, finished
from aiaas_server.core.pool.watch import Watch
from aiaas_server.core.schedule.queues import QueueBudget
from aiaas_server.core.schedule.shares import Shares
from aiaas_server.core.session import OpenSession
from aiaas_server.settings import Settings

T = TypeVar("T")

_log = logging.getLogger("aiaas_server")

PATIENCE = 60.0
_CLOSE_GRACE = 2.0
_WHICH_ARE_LOADED = (
    "loaded are the versions that an alias, split, shadow or pin names, else the latest"
)


class ModelPool:
    """All models of a server.

    Args:
        repository: Where they lie.
        open_session: Opens one model file.
        settings: Limits, what to load at start, whether control is allowed.
        observers: Called once a request, for all models.
        bundles: Opens the cards beside the models; without it they serve tensors only.
        measure: Tells the memory this process takes, in bytes.
        give_back: Returns to the system what a model that has gone has freed; called in a thread.
        choose: Decides the version of calls that name none; must be quick.
        aliases: Knows the names of versions other than their numbers; must be quick.
        on_serve: Is told of each version that was opened, before it serves.
        names: Says which models a caller means, and of which it may know; without it everyone
            knows all.
        open_isolated: Opens one model file in a process of its own.
        patience: Seconds after which a model that is being opened no longer holds up the others.

    Attributes:
        serving: The versions that serve now, for those who look only among them.

    With a memory budget, models are loaded when `obtain` asks for them, and those it has not
    asked for for longest are unloaded to make room; those that the settings name are loaded at
    start and stay.

    Everything but opening models and reading the disk happens on the event loop; models are
    opened one at a time.
    """

    def __init__(
        self,
        repository: ModelRepository,
        open_session: OpenSession,
        settings: Settings,
        observers: Sequence[Observer] = (),
        bundles: Bundles | None = None,
        *,
        measure: Callable[[], int] = resident_bytes,
        give_back: Callable[[], None] = give_back,
        choose: Choose | None = None,
        aliases: Aliases | None = None,
        on_serve: OnServe | None = None,
        names: Names | None = None,
        open_isolated: OpenSession | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._names = names
        self.budget = QueueBudget(settings.total_queue_size, settings.queue_bytes)
        shares = Shares() if settings.tenants else None
        pinned = frozenset(settings.load_models) - {"*"}
        self._memory = MemoryBudget(settings.memory_budget_bytes, pinned)
        used = self._memory.used if self._memory.limit else None
        self.serving = Serving(choose, used, aliases, names)
        self._table = Table(self.serving)
        opener = Opener(
            repository,
            open_session,
            settings,
            observers if shares is None else (*observers, shares),
            bundles,
            self.budget,
            shares,
            measure,
            on_serve,
            open_isolated,
        )
        self._unloader = Unloader(self._table, give_back)
        self._loader = Loader(
            repository, opener, self._table, self._unloader, self._memory, patience
        )
        self._watch = Watch(self._loader, self._table, self._follows)
        self._watcher: asyncio.Task[None] | None = None
        self._looked = False
        self._started = False
        self._draining = False
        self._closed = False

    # Finding a model

    def find(
        self, name: str, version: int | str | None = None, caller: Caller = NOBODY
    ) -> LoadedModel | None:
        """The version to call, if it is loaded: the one named, or the one chosen for the caller."""
        return self.serving.find(name, version, caller)

    async def obtain(
        self,
        name: str,
        version: int | str | None = None,
        caller: Caller = NOBODY,
        deadline: float | None = None,
    ) -> LoadedModel:
        """The version to call, loaded first if there is a memory budget and it is not loaded.

        Args:
            version: Its number or another name of it; None is the one chosen for the caller.
            caller: Who asks.
            deadline: On the loop's clock; a load that takes longer goes on without the caller.
        Raises:
            ModelNotFound: No such model, or no version of it is loaded; the message says why.
            VersionNotFound: No such version, or it is not loaded.
            ModelUnavailable: It is being loaded or unloaded, or it does not fit into the budget
                beside what is at work now.
            LoadFailed: It cannot be loaded, or can never fit into the budget.
            DeadlineExceeded: It was not loaded in time.
        """
        version = self.number(name, version, caller)
        found = self.find(name, version, caller)
        full = self.full_name(name, caller)
        if found is None and full not in self._table.newest and self._may_demand(full):
            found = await self._demand(name, version, caller, deadline)
        if found is None:
            raise self._missing(name, version, caller)
        return found

    def full_name(self, name: str, caller: Caller | None) -> str:
        """The server's own name of what a caller means by `name`; of nobody's it is that."""
        if self._names is None or caller is None:
            return name
        return self._names.resolve(name, caller)

    def sees(self, full: str, caller: Caller | None) -> bool:
        """Whether a caller may know of a model; nobody in particular knows of all."""
        return self._names is None or caller is None or self._names.sees(full, caller)

    def read_beside(self, model: LoadedModel, name: str) -> bytes:
        """The bytes of a file beside a version that serves; blocking.

        Raises:
            FileNotFoundError: There is none, or the version came with a load call.
        """
        stored = self._repository.find(model.full)
        for version in () if stored is None else stored.versions:
            if stored is not None and version.number == model.version:
                return self._repository.read_beside(stored, version, name)
        raise FileNotFoundError(name)

    def number(
        self, name: str, version: int | str | None, caller: Caller | None = NOBODY
    ) -> int | None:
        """A version by its number, whatever it was called; None stays.

        Raises:
            VersionNotFound: It is no number, and no other name of a version.
        """
        if not isinstance(version, str):
            return version
        aliases = self.serving.aliases
        if aliases is None:
            raise misnamed_version(name, version)
        found = aliases(self.full_name(name, caller), version)
        if found is None:
            raise misnamed_version(name, version, "whole numbers or aliases")
        return found

    def resolve(
        self, name: str, version: int | None = None, caller: Caller = NOBODY
    ) -> LoadedModel:
        """`obtain` of what is loaded.

        Raises:
            ModelNotFound, VersionNotFound, ModelUnavailable: As `obtain`.
        """
        found = self.find(name, version, caller)
        if found is None:
            raise self._missing(name, version, caller)
        return found

    def controlled(self, name: str, caller: Caller) -> str | None:
        """The server's own name of what a caller may load and unload; None of what it may not.

        These are its own models of the registry. All else is the operator's alone.
        """
        if self._names is None or OPERATOR_SCOPE in caller.identity.scopes:
            return self.full_name(name, caller)
        full = self.full_name(name, caller)
        own = parted(full)[0] == caller.identity.tenant and self._repository.governs(full)
        return full if own else None

    @property
    def loads_on_demand(self) -> bool:
        """Whether `obtain` may load what `find` does not find."""
        return self._memory.limit > 0

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Meanwhile `name` makes no room for others; for runs in a thread that is not the loop's.

        What runs on the loop is seen without it: as pending, or as in use.
        """
        self._memory.hold(name)
        try:
            yield
        finally:
            self._memory.release(name)

    def _may_demand(self, name: str) -> bool:
        if not self.loads_on_demand or self._draining or name not in self._table.known:
            return False
        entry = self._table.entries.get(name)
        return entry is None or not (entry.put_away or entry.overdue)

    async def _demand(
        self, name: str, version: int | None, caller: Caller, deadline: float | None
    ) -> LoadedModel | None:
        """Have `name` loaded, by one load for all who wait; None if it cannot be found then."""
        full = self.full_name(name, caller)
        entry = self._table.entry(full)
        load = entry.demand
        if load is None:
            work = partial(self._loader.load_stored, on_demand=True)
            is_news = time.monotonic() > entry.quiet_until
            failure = "is not loaded on demand" if is_news else ""
            load = entry.demand = self._loader.begin(full, work, failure, "was loaded for a call")
            load.task.add_done_callback(partial(_demanded, entry))
        entry.waiting += 1  # until this caller has found it, it makes no room for others
        try:
            await load.wait(deadline)
            return self.find(name, version, caller)
        except LoadFailed as error:
            raise LoadFailed(short(error.message)) from None
        finally:
            entry.waiting -= 1

    def _missing(self, name: str, version: int | None, caller: Caller) -> ServerError:
        full = self.full_name(name, caller)
        if self._closed or (self._draining and self.loads_on_demand and full in self._table.known):
            return _stopping()
        if not self._looked and full not in self._table.entries:
            return ModelUnavailable(
                "the server is starting: its models are not known yet", retry_after=RETRY_AFTER
            )
        if version is None and self.serving.choose is not None:
            version = self.serving.choose(full, caller)
        near = (plain(one) for one in self._table.known if self.sees(one, caller))
        rule = "" if self.serving.aliases is None else _WHICH_ARE_LOADED
        return self._table.why_missing(full, name, version, near, rule)

    def ready_versions(self, full: str) -> list[int]:
        """Versions that serve, ascending; empty for an unknown model.

        Args:
            full: The server's own name of it.
        """
        return self._table.serving_versions(full)

    def is_ready(self, name: str, version: int | None = None, caller: Caller | None = None) -> bool:
        """Whether the version, or any when None, serves or would be loaded at the first call.

        Args:
            caller: Who means something by `name`; without one that is the server's own name.
        """
        table, name = self._table, self.full_name(name, caller)
        model = table.newest.get(name) if version is None else table.ready.get((name, version))
        if model is not None:
            return not quarantine_of(model)
        return self._may_demand(name) and table.would_serve(name, version)

    def models(self, caller: Caller | None = None) -> Iterable[LoadedModel]:
        """All versions that serve, of which a caller may know, by name and version."""
        ready = self._table.ready
        return [ready[key] for key in sorted(ready) if self.sees(key[0], caller)]

    def index(self, ready_only: bool = False, caller: Caller | None = None) -> list[dict[str, str]]:
        """The protocol's repository index: one entry a version, only the name if never loaded.

        Args:
            caller: Who is told, of what it may know and by the names that it knows; without one
                these are all, by the server's own names.
        """
        entries = self._table.index(ready_only=ready_only)
        if self._names is None or caller is None:
            return entries
        seen = [entry for entry in entries if self.sees(entry["name"], caller)]
        return [entry | {"name": plain(entry["name"])} for entry in seen]

    async def refresh(self) -> None:
        """Read again which models the repository holds, for `index`."""
        await self._loader.look(closely=self.loads_on_demand)
        self._looked = True

    @property
    def ready(self) -> bool:
        """Started, not stopping, and every model that was asked for by name serves.

        One that was unloaded on purpose is not asked for any more.
        """
        if not self._started or self._draining:
            return False
        entries = self._table.entries
        demanded = (name for name in self._settings.load_models if name != "*")
        newest = self._table.newest  # a memory budget loads these at start, and they stay
        return all(
            (name in entries and entries[name].put_away) or name in newest for name in demanded
        )

    @property
    def draining(self) -> bool:
        """A drain has begun, or the pool is closed."""
        return self._draining

    # Loading

    async def start(self) -> None:
        """Load what the settings say; a model that fails is noted in the index and logged.

        Returns when each of them serves or has been refused; one that takes longer than the
        patience is not waited for.

        Raises:
            LoadFailed: The repository itself cannot be read.
        """
        await self.refresh()
        for name, problem in self._table.misplaced.items():
            _log.error("model '%s' is not served: %s", name, problem)
        names = self._settings.load_models
        wanted = sorted(self._table.known) if self._loads_all else []
        wanted += [name for name in names if name != "*" and name not in wanted]
        loads = [
            self._loader.begin(name, self._loader.load_stored, "is not served") for name in wanted
        ]
        await settled(loads)
        self._started = True
        if self._settings.watch and not self._draining:
            self._watcher = asyncio.create_task(self._watch.run(self._settings.watch_interval))

    @property
    def _loads_all(self) -> bool:
        return "*" in self._settings.load_models and not self.loads_on_demand

    async def poll(self) -> None:
        """Look at the repository once; act on what has changed and stood still since last time."""
        await self._watch.poll()

    def _follows(self, name: str, entry: Entry) -> bool:
        """Whether a change in the repository loads the model, or loads it anew."""
        if self._loads_all or name in self._settings.load_models:
            return True
        if self.loads_on_demand:
            return name in self._table.newest
        return entry.tried is not None

    async def load(
        self,
        name: str,
        *,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
        force: bool = False,
    ) -> None:
        """Load or reload a model; returns when it serves.

        Args:
            config: A configuration as JSON text instead of the stored one.
            files: `<version>/<file name>` to bytes: load from these only; needs `config`.
            force: Reload although nothing changed.
        Raises:
            ControlDisabled: Control calls are switched off.
            Conflict: The registry has it, and says what of it is loaded and how.
            ModelNotFound: The repository has no such model.
            ModelUnavailable: There is no room for it now, or an earlier load of it takes very long.
            LoadFailed: A version cannot be loaded, or the model was unloaded meanwhile; what
                served before still does.
        """
        self._refuse_control()
        if self._loader.repository.governs(name):
            if config is not None or files or force:
                raise _governed(name)
            await self.follow(name)
            return
        entry = self._table.entries.get(name)
        if entry is not None and entry.overdue:
            raise ModelUnavailable(
                f"model '{plain(name)[:64]}' is being loaded already, and it takes very long",
                retry_after=RETRY_AFTER,
            )
        if files:
            work = partial(self._loader.load_files, config=config, files=files)
        else:
            work = partial(self._loader.load_stored, config=config, force=force)
        if not await self._loader.begin(name, work, success="was loaded as asked").wait():
            if self._draining:
                raise _stopping()
            raise LoadFailed(f"failed to load '{plain(name)[:64]}': it was unloaded meanwhile")

    async def follow(self, name: str) -> None:
        """Make what serves of a model agree with the repository; returns when it does.

        Versions that the repository has, and its policy chooses, are loaded, those that are there
        already stay as they are, and then all others are retired after their last answer. Where a
        version cannot be loaded nothing is retired.

        Raises:
            ModelUnavailable: There is no room for it now.
            LoadFailed: A version cannot be loaded.
        """
        if self._draining:
            raise _stopping()
        stored = await self._loader.on_disk(self._loader.repository.find, name)
        if stored is None:
            ending = self._unloader.withdraw(name)
            self._loader.forget(name)
            self._table.known.pop(name, None)
            await finished(ending)
            return
        if self.loads_on_demand and name not in self._table.newest:
            await self._loader.look(closely=True)
            return
        if not await self._loader.begin(name, self._loader.load_stored).wait() and self._draining:
            raise _stopping()

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Stop serving a model; returns when its last request is answered.

        New requests are refused at once, and a load of it that goes on is given up. Nothing
        happens for a model that is not loaded.

        Args:
            unload_dependents: Accepted for the protocol's sake; no model depends on another.
        Raises:
            ControlDisabled: Control calls are switched off.
            Conflict: The registry has it, and says what of it is loaded.
        """
        self._refuse_control()
        if self._loader.repository.governs(name):
            raise _governed(name)
        table = self._table
        if name not in table.entries and name not in table.known:
            return  # not any name a client thinks of
        entry = table.entry(name)
        entry.put_away, entry.uploaded = True, False
        ending = self._unloader.withdraw(name)
        if ending:
            _log.info("model '%s' is unloaded as asked", name)
        await self._loader.interrupt(list(entry.loads))
        await finished(ending)

    def _refuse_control(self) -> None:
        if self._settings.control == "none":
            raise ControlDisabled("explicit model load / unload is not allowed on this server")
        if self._draining:
            raise _stopping()

    # The end

    def begin_drain(self) -> None:
        """Be not ready, and refuse control calls; inference goes on."""
        self._draining = True
        if self._watcher is not None:
            self._watcher.cancel()

    async def drain(self, timeout: float) -> bool:
        """Wait until every accepted request is answered, at most `timeout` seconds.

        Requests that come meanwhile are refused, and so are those that wait for a model to be
        loaded; those left at the end fail with `Draining`.

        Returns:
            Whether all were answered in time.
        """
        self.begin_drain()
        await self._loader.interrupt(self._loads())
        models = list(self._table.ready.values())
        tasks = [asyncio.ensure_future(model.scheduler.drain(_stopping())) for model in models]
        tasks += list(self._unloader.ending)
        if not tasks:
            return True
        _, late = await asyncio.wait(tasks, timeout=timeout)
        for model in models:
            model.scheduler.abort(_stopping())
        for task in late:
            task.cancel()
        return not late

    async def close(self) -> None:
        """Refuse everything, fail what is pending, release sessions and threads."""
        self.begin_drain()
        self._closed = True
        if self._watcher is not None:
            with suppress(asyncio.CancelledError):
                await self._watcher
        await self._loader.interrupt(self._loads())
        await self._unloader.close(_stopping(), _CLOSE_GRACE)
        self._loader.close()

    def _loads(self) -> list[Load]:
        return [load for entry in self._table.entries.values() for load in entry.loads]


def _demanded(entry: Entry, task: asyncio.Task[None]) -> None:
    entry.demand = None
    now = time.monotonic()
    if not task.cancelled() and task.exception() is not None and now > entry.quiet_until:
        entry.quiet_until = now + PAUSE_AFTER_FAILURE


def _governed(name: str) -> Conflict:
    return Conflict(
        f"model '{plain(name)[:64]}' is in the registry, which says what of it is loaded: change "
        "its traffic, aliases, pins or policy there"
    )


def _stopping() -> Draining:
    return Draining("the server is stopping")
