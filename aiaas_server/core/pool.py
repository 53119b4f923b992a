"""Which model versions are loaded now: load, swap, unload, and find the one to call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal, TypeVar

from aiaas_server.settings import Settings

from .bundle import Bundles, NoSession
from .cache import ResponseCache
from .card import Card
from .config import ModelConfig
from .derive import complete, signature_of, with_instances, without_batch
from .errors import (
    ControlDisabled,
    DeadlineExceeded,
    Draining,
    LoadFailed,
    ModelNotFound,
    ModelUnavailable,
    ServerError,
    VersionNotFound,
)
from .events import Observer
from .memory import estimate, give_back, resident_bytes
from .model import LoadedModel
from .padding import Padding, declared, verify
from .placement import Placement
from .queues import QueueBudget
from .rounding import warm_sizes
from .scheduler import Scheduler
from .session import OpenSession, Session
from .statistics import Statistics
from .stored import ModelRepository, StoredModel, StoredVersion
from .warmup import run_declared, run_sizes, useful_runs_at_once, warm_up

State = Literal["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]
T = TypeVar("T")

_log = logging.getLogger("aiaas.server")
_CLOSE_GRACE = 2.0
_RETRY_AFTER = 1.0


class _Version:
    """What is known of one version.

    Attributes:
        reason: Why it is not ready, or why its last reload failed while the old one serves.
        stamp: Of the files and configuration it was loaded from.
    """

    __slots__ = ("model", "reason", "stamp", "state")

    def __init__(self) -> None:
        self.state: State = "UNAVAILABLE"
        self.reason = ""
        self.model: LoadedModel | None = None
        self.stamp: Hashable = None


class ModelPool:
    """All models of a server.

    Args:
        repository: Where they lie.
        open_session: Opens one model file.
        settings: Limits, what to load at start, whether control is allowed.
        observers: Called once a request, for all models.
        bundles: Opens the cards beside the models; without it they serve tensors only.
        measure: Tells the memory this process takes, in bytes.

    With a memory budget, models are loaded when `obtain` asks for them, and those it has not
    asked for for longest are unloaded to make room; those that the settings name are loaded at
    start and stay.

    Everything but opening sessions and reading the disk happens on the event loop; sessions are
    opened one at a time.
    """

    def __init__(
        self,
        repository: ModelRepository,
        open_session: OpenSession,
        settings: Settings,
        observers: Sequence[Observer] = (),
        bundles: Bundles | None = None,
        measure: Callable[[], int] = resident_bytes,
    ) -> None:
        self._repository = repository
        self._open_session = open_session
        self._settings = settings
        self._observers = tuple(observers)
        self._bundles = bundles
        self._measure = measure
        self._memory_budget = settings.memory_budget_bytes
        self._pinned = frozenset(settings.load_models) - {"*"}
        self._sizes: dict[tuple[str, int], int] = {}
        self._uses = count(1)
        self._last_use: dict[str, int] = {}
        self._demands: dict[str, asyncio.Task[None]] = {}
        self._put_away: set[str] = set()
        self.budget = QueueBudget(settings.total_queue_size, settings.queue_bytes)
        self._cache = ResponseCache(settings.response_cache_bytes)
        self._models: dict[str, dict[int, _Version]] = {}
        self._problems: dict[str, str] = {}
        self._uploaded: set[str] = set()
        self._statistics: dict[tuple[str, int], Statistics] = {}
        self._newest: dict[str, LoadedModel] = {}
        self._ready: dict[tuple[str, int], LoadedModel] = {}
        self._known: frozenset[str] = frozenset()
        self._one_load = asyncio.Lock()
        self._disk = ThreadPoolExecutor(1, "aiaas-load")
        self._ending: set[asyncio.Task[None]] = set()
        self._going = 0  # models that are still to be closed, of those in `_ending`
        self._watcher: asyncio.Task[None] | None = None
        self._seen: dict[str, Hashable] = {}
        self._tried: dict[str, Hashable] = {}
        self._started = False
        self._draining = False
        self._closed = False

    @property
    def observed(self) -> bool:
        """Whether somebody looks on, so that requests should say who asks."""
        return bool(self._observers)

    # Finding a model

    def resolve(self, name: str, version: int | None = None) -> LoadedModel:
        """The version to call: the greatest that is ready, unless one is named.

        Raises:
            ModelNotFound: No such model, or no version of it is loaded.
            VersionNotFound: No such version, or it is not loaded.
            ModelUnavailable: It is being loaded or unloaded.
        """
        found = self._newest.get(name) if version is None else self._ready.get((name, version))
        if found is None:
            raise self._not_resolved(name, version)
        return found

    @property
    def loads_on_demand(self) -> bool:
        """Whether `obtain` may load what `resolve` does not find."""
        return self._memory_budget > 0

    async def obtain(
        self, name: str, version: int | None = None, deadline: float | None = None
    ) -> LoadedModel:
        """`resolve`, after loading the model if there is a memory budget and it is not loaded.

        Args:
            deadline: On the loop's clock; a load that takes longer goes on without the caller.
        Raises:
            ModelNotFound, VersionNotFound, ModelUnavailable: As `resolve`; the last also when
                the model does not fit into the budget beside what must stay.
            LoadFailed: It cannot be loaded.
            DeadlineExceeded: It was not loaded in time.
        """
        if not self._memory_budget:
            return self.resolve(name, version)
        self._last_use[name] = next(self._uses)
        if name not in self._newest and self._may_demand(name):
            task = self._demands.get(name)
            if task is None:
                task = self._demands[name] = asyncio.create_task(self._demand(name))
                task.add_done_callback(partial(self._demanded, name))
            try:
                async with asyncio.timeout_at(deadline):
                    await asyncio.shield(task)
            except TimeoutError:
                raise DeadlineExceeded(f"model '{name[:64]}' was not loaded in time") from None
        return self.resolve(name, version)

    def _may_demand(self, name: str) -> bool:
        return name in self._known and name not in self._put_away and not self._draining

    async def _demand(self, name: str) -> None:
        await self._load_stored(name, force=False)

    def _demanded(self, name: str, task: asyncio.Task[None]) -> None:
        self._demands.pop(name, None)
        if not task.cancelled() and isinstance(task.exception(), ServerError):
            _log.warning("model '%s' is not loaded on demand: %s", name, task.exception())

    def _not_resolved(self, name: str, version: int | None) -> ServerError:
        if self._closed:
            return Draining("the server is stopping")
        versions = self._models.get(name)
        shown = name[:64]
        if versions is None and name not in self._known:
            return ModelNotFound(f"Request for unknown model: '{shown}' is not found")
        states = versions or {}
        asked = (
            states.values() if version is None else [states[version]] if version in states else []
        )
        if any(entry.state in ("LOADING", "UNLOADING") for entry in asked):
            which = "" if version is None else f"version {version} of "
            return ModelUnavailable(
                f"{which}model '{shown}' is not at ready state: it is being loaded or unloaded",
                retry_after=_RETRY_AFTER,
            )
        if version is None:
            return ModelNotFound(f"model '{shown}' has no available versions")
        if version in states:
            return VersionNotFound(
                f"Request for unknown model: '{shown}' version {version} is not loaded"
            )
        return VersionNotFound(
            f"Request for unknown model: '{shown}' version {version} is not found"
        )

    def ready_versions(self, name: str) -> list[int]:
        """Versions that serve, ascending; empty for an unknown model."""
        return sorted(
            number for number, entry in self._models.get(name, {}).items() if entry.state == "READY"
        )

    def is_ready(self, name: str, version: int | None = None) -> bool:
        """Whether the version, or any when None, serves or would be loaded at the first call."""
        if (name in self._newest) if version is None else ((name, version) in self._ready):
            return True
        return self.loads_on_demand and self._may_demand(name) and name not in self._problems

    def models(self) -> Iterable[LoadedModel]:
        """All versions that serve, by name and version."""
        return [self._ready[key] for key in sorted(self._ready)]

    def index(self, ready_only: bool = False) -> list[dict[str, str]]:
        """The protocol's repository index: one entry a version, only the name if never loaded."""
        entries: list[dict[str, str]] = []
        for name in sorted({*self._models, *self._known, *self._problems}):
            versions = self._models.get(name) or {}
            entries += [_entry(name, number, versions[number]) for number in sorted(versions)]
            if not versions and name in self._problems:
                entries.append(
                    {"name": name, "state": "UNAVAILABLE", "reason": self._problems[name]}
                )
            elif not versions:
                entries.append({"name": name})
        if ready_only:
            return [entry for entry in entries if entry.get("state") == "READY"]
        return entries

    async def refresh(self) -> None:
        """Read again which models the repository holds, for `index`."""
        self._known = frozenset(await self._blocking(self._repository.names))

    @property
    def ready(self) -> bool:
        """Started, not stopping, and every model that was asked for by name serves.

        One that was unloaded on purpose is not asked for any more.
        """
        if not self._started or self._draining:
            return False
        demanded = (name for name in self._settings.load_models if name != "*")
        return all(name in self._put_away or self.is_ready(name) for name in demanded)

    @property
    def draining(self) -> bool:
        """A drain has begun, or the pool is closed."""
        return self._draining

    # Loading

    async def start(self) -> None:
        """Load what the settings say; a model that fails is noted in the index and logged.

        Raises:
            LoadFailed: The repository itself cannot be read.
        """
        await self.refresh()
        names = self._settings.load_models
        all_at_start = "*" in names and not self.loads_on_demand
        wanted = sorted(self._known) if all_at_start else [name for name in names if name != "*"]
        wanted += [name for name in names if name != "*" and name not in wanted]
        for name in wanted:
            try:
                await self._load_stored(name, force=False)
            except ServerError as error:
                _log.error("model '%s' is not served: %s", name, error.message)
        self._started = True
        if self._settings.watch:
            self._watcher = asyncio.create_task(self._watch())

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
            ModelNotFound: The repository has no such model.
            LoadFailed: A version cannot be loaded; what served before still does.
        """
        self._refuse_control()
        if files:
            await self._load_files(name, config, files)
        else:
            await self._load_stored(name, config=config, force=force)

    async def _load_stored(self, name: str, *, config: str | None = None, force: bool) -> None:
        override = None if config is None else _named(name, config)
        async with self._one_load:
            stored = await self._blocking(self._repository.find, name)
            if stored is None:
                raise ModelNotFound(f"model '{name[:64]}' is not in the repository")
            self._known |= {name}
            self._put_away.discard(name)
            self._tried[name] = _stamp(stored)
            if override is not None:
                stored = _with_config(stored, override, config)
            await self._apply(stored, force=force)
            self._uploaded.discard(name)

    async def _load_files(self, name: str, config: str | None, files: Mapping[str, bytes]) -> None:
        if config is None:
            raise LoadFailed(f"model '{name[:64]}': files need a config beside them")
        parsed = _named(name, config)
        async with self._one_load:
            upload = self._repository.upload(name, parsed, files)
            stored = await self._blocking(upload.__enter__)
            try:
                await self._apply(stored, force=True)
            finally:
                await self._blocking(upload.__exit__, None, None, None)
            self._uploaded.add(name)
            self._put_away.discard(name)

    async def _apply(self, stored: StoredModel, *, force: bool) -> None:
        """Load the versions that the policy wants; retire the others when all went well."""
        name = stored.name
        versions = self._models.get(name, {})
        if stored.problem or not stored.versions:
            self._note_problem(stored, versions)
            raise LoadFailed(f"failed to load '{name}': {self._problems[name]}")
        self._problems.pop(name, None)
        self._models[name] = versions
        chosen = stored.config.version_policy.choose([v.number for v in stored.versions])
        failures = []
        for version in stored.versions:
            if version.number not in chosen:
                continue
            failure = await self._load_version(stored, version, force=force)
            if failure:
                failures.append(f"version {version.number}: {failure}")
        if not chosen:
            failures.append("version_policy chooses none of its versions")
        if failures:
            raise LoadFailed(f"failed to load '{name}', {'; '.join(failures)}")
        await self._retire_others(name, chosen, {v.number for v in stored.versions})

    def _note_problem(self, stored: StoredModel, versions: dict[int, _Version]) -> None:
        problem = stored.problem or "it has no version directory, a positive integer"
        self._problems[stored.name] = problem
        for version in stored.versions:
            entry = versions.setdefault(version.number, _Version())
            entry.reason = problem
        if versions:
            self._models[stored.name] = versions

    async def _load_version(
        self, stored: StoredModel, version: StoredVersion, *, force: bool
    ) -> str:
        """Load one version and put it in the place of the one that serves; gives why it failed."""
        entry = self._models[stored.name].setdefault(version.number, _Version())
        stamp = (version.stamp, stored.stamp)
        if entry.state == "READY" and entry.stamp == stamp and not force:
            return ""
        if entry.model is None:
            entry.state, entry.reason = "LOADING", ""
        try:
            await self._make_room(stored.name, await self._expected_size(stored, version))
            model = await self._blocking(self._open, stored, version)
            await self._hold_to_budget(model)
        except ModelUnavailable as error:
            if entry.model is None:
                entry.state = "UNAVAILABLE"
            entry.reason = error.message
            raise
        except LoadFailed as error:
            entry.reason = error.message
            if entry.model is None:
                entry.state = "UNAVAILABLE"
            return error.message
        except BaseException:
            if entry.model is None:
                entry.state, entry.reason = "UNAVAILABLE", "loading was interrupted"
            raise
        old, entry.model = entry.model, model
        entry.state, entry.reason, entry.stamp = "READY", "", stamp
        self._publish(stored.name)
        if old is not None:
            old.successor = model
            self._retire(old)
        return ""

    def _open(self, stored: StoredModel, version: StoredVersion) -> LoadedModel:
        """Open, complete, warm up: blocking, on the loading thread."""
        card = None if self._bundles is None else self._bundles.card(stored, version)
        without_model = card is not None and bool(card.steps)
        if not without_model and not version.path.is_file():
            raise LoadFailed(f"it has no file '{version.path.name}'")
        stored.config.refuse_unsupported()
        size = 0 if without_model else _size(self._repository.files_of(version))
        before, started = self._measure(), time.monotonic_ns()
        session = NoSession() if without_model else self._opened(stored, version)
        try:
            model = self._prepared(stored, version, session, card)
        except BaseException:
            session.close()
            raise
        taken = estimate(size, before, self._measure())
        model.statistics.memory_bytes = taken
        model.statistics.load_ns = time.monotonic_ns() - started
        self._sizes[stored.name, version.number] = taken
        return model

    def _opened(self, stored: StoredModel, version: StoredVersion) -> Session:
        try:
            return self._open_session(version.path, stored.config)
        except LoadFailed:
            raise
        except Exception as error:
            _log.exception("model '%s': opening version %d failed", stored.name, version.number)
            raise LoadFailed(f"it cannot be opened: {type(error).__name__}") from error

    def _prepared(
        self, stored: StoredModel, version: StoredVersion, session: Session, card: Card | None
    ) -> LoadedModel:
        name = stored.name
        config = complete(
            name,
            stored.config,
            session,
            default_max_batch_size=self._settings.default_max_batch_size,
            instances=self._settings.runs_at_once,
        )
        labels = {
            output.name: self._repository.labels(stored, output.label_filename)
            for output in config.output
            if output.label_filename
        }
        placement = Placement(never=session.has_loops)
        signature = signature_of(config)
        unbatched = warm_up(session, signature, placement)
        if unbatched:
            config = _not_batching(config, stored, session, unbatched)
            signature = signature_of(config)
        sizes = warm_sizes(config, session.providers)
        run_sizes(session, signature, sizes)
        read = partial(self._repository.warmup_data, stored)
        run_declared(session, signature, config.model_warmup, read)
        if not stored.config.instance_group and not self._settings.instances:
            useful = useful_runs_at_once(session, signature, config.instances)
            config = with_instances(config, useful)
        padding = None
        declaration = declared(config, card.batching if card is not None else None)
        if declaration is not None:
            padding = Padding(declaration, signature)
            verify(padding, declaration, session, signature)
        task = None
        if card is not None and self._bundles is not None:
            task = self._bundles.task(card, stored, version, signature, session.metadata)
        statistics = self._statistics.setdefault((name, version.number), Statistics())
        scheduler = Scheduler(
            name,
            version.number,
            session,
            signature,
            config,
            statistics,
            queue_size=self._settings.queue_size,
            budget=self.budget,
            placement=placement,
            padding=padding,
            warm_sizes=sizes,
            observers=self._observers,
        )
        return LoadedModel(
            name,
            version.number,
            config,
            signature,
            statistics,
            labels,
            session,
            scheduler,
            card=card,
            task=task,
            cache=self._cache if config.response_cache.enable else None,
        )

    # The memory budget

    async def _expected_size(self, stored: StoredModel, version: StoredVersion) -> int:
        """Bytes that a version will take: as it took before, or its files."""
        if not self._memory_budget:
            return 0
        known = self._sizes.get((stored.name, version.number), 0)
        return known or await self._blocking(self._size_of_files, version)

    def _size_of_files(self, version: StoredVersion) -> int:
        return _size(self._repository.files_of(version)) if version.path.is_file() else 0

    async def _make_room(self, name: str, needed: int) -> None:
        """Unload what was used least recently until `needed` bytes for model `name` fit.

        Raises:
            ModelUnavailable: They do not, beside what is pinned or at work; nothing was unloaded.
        """
        budget = self._memory_budget
        if not budget:
            return
        sizes = self._loaded_sizes(name)
        idle = [other for other in sizes if self._may_unload(other)]
        kept = sum(size for other, size in sizes.items() if other not in idle)
        if kept + needed > budget:
            raise ModelUnavailable(
                f"model '{name[:64]}' needs about {needed} bytes; of the memory budget of "
                f"{budget} bytes {max(budget - kept, 0)} can be made free now",
                retry_after=_RETRY_AFTER,
            )
        used = sum(sizes.values())
        for other in sorted(idle, key=lambda one: self._last_use.get(one, 0)):
            if used + needed <= budget:
                return
            _log.info("model '%s' makes room for '%s'", other, name)
            used -= sizes[other]
            await _all(self._withdraw(other, list(self._models[other])))

    async def _hold_to_budget(self, model: LoadedModel) -> None:
        """Make room for what a model just opened turned out to take; close it when that fails."""
        try:
            await self._make_room(model.name, model.statistics.memory_bytes)
        except BaseException:
            model.statistics.memory_bytes = 0
            await model.scheduler.close()
            raise

    def _loaded_sizes(self, but: str) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for (name, _), model in self._ready.items():
            if name != but:
                sizes[name] = sizes.get(name, 0) + model.statistics.memory_bytes
        return sizes

    def _may_unload(self, name: str) -> bool:
        if name in self._pinned or name in self._uploaded:
            return False  # what came with a call is nowhere to be loaded from again
        models = [model for (other, _), model in self._ready.items() if other == name]
        return not any(model.statistics.pending for model in models)

    # Unloading

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Stop serving a model; returns when its last request is answered.

        New requests are refused at once. Nothing happens for a model that is not loaded.

        Args:
            unload_dependents: Accepted for the protocol's sake; no model depends on another.
        Raises:
            ControlDisabled: Control calls are switched off.
        """
        self._refuse_control()
        async with self._one_load:
            if name in self._models or name in self._known:  # not any name a client thinks of
                self._put_away.add(name)
            ending = self._withdraw(name, list(self._models.get(name, {})))
            self._uploaded.discard(name)
        await _all(ending)

    def _withdraw(self, name: str, numbers: Iterable[int]) -> list[asyncio.Task[None]]:
        """Take versions out of service now; the tasks end when their last answer is out."""
        versions = self._models.get(name, {})
        ending = []
        for number in numbers:
            entry = versions[number]
            if entry.state != "READY" or entry.model is None:
                continue
            entry.state, entry.reason = "UNLOADING", ""
            model, entry.model = entry.model, None
            ending.append(self._retire(model, entry))
        self._publish(name)
        return ending

    async def _retire_others(self, name: str, keep: Sequence[int], present: set[int]) -> None:
        versions = self._models[name]
        others = [number for number in versions if number not in keep]
        await _all(self._withdraw(name, others))
        for number in others:
            if number not in present and versions[number].state == "UNAVAILABLE":
                del versions[number]
                self._statistics.pop((name, number), None)

    def _retire(self, model: LoadedModel, entry: _Version | None = None) -> asyncio.Task[None]:
        """Close `model` when its last request is answered; then `entry` is unavailable."""

        model.scheduler.refuse()

        async def finish() -> None:
            try:
                await model.scheduler.close()
            finally:
                self._going -= 1
            model.forget_answers()
            if entry is not None and entry.state == "UNLOADING":
                entry.state, entry.reason, entry.stamp = "UNAVAILABLE", "unloaded", None
                model.statistics.memory_bytes = 0
            if not self._going and not self._closed:  # once for all that go together
                await asyncio.to_thread(give_back)

        self._going += 1
        task = asyncio.create_task(finish())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    def _publish(self, name: str) -> None:
        """Make the tables that `resolve` reads agree with the versions of `name`."""
        versions = self._models.get(name, {})
        ready = {n: e.model for n, e in versions.items() if e.state == "READY" and e.model}
        for number in versions:
            self._ready.pop((name, number), None)
        self._ready.update({(name, number): model for number, model in ready.items()})
        self._newest.pop(name, None)
        if ready:
            self._newest[name] = ready[max(ready)]

    def _refuse_control(self) -> None:
        if self._settings.control == "none":
            raise ControlDisabled("explicit model load / unload is not allowed on this server")
        if self._draining:
            raise Draining("the server is stopping")

    # Watching

    async def poll(self) -> None:
        """Look at the repository once; act on what has changed and stood still since last time.

        A file that is being copied changes between two looks and waits for the next.
        """
        snapshot = await self._blocking(self._snapshot)
        self._known = frozenset(snapshot)
        for name, stamp in snapshot.items():
            changed = name not in self._tried or self._tried[name] != stamp
            if changed and self._seen.get(name) == stamp and name not in self._uploaded:
                try:
                    await self._load_stored(name, force=False)
                except ServerError as error:
                    _log.error("model '%s' is not updated: %s", name, error.message)
        await self._forget_removed(snapshot)
        self._seen = snapshot

    def _snapshot(self) -> dict[str, Hashable]:
        found = {name: self._repository.find(name) for name in self._repository.names()}
        return {name: _stamp(stored) for name, stored in found.items() if stored is not None}

    async def _forget_removed(self, snapshot: Mapping[str, Hashable]) -> None:
        gone = [name for name in self._tried if name not in snapshot and name not in self._seen]
        for name in gone:
            del self._tried[name]
            self._problems.pop(name, None)
            if name in self._uploaded or name not in self._models:
                continue
            async with self._one_load:
                await _all(self._withdraw(name, list(self._models[name])))
                for number in self._models.pop(name):
                    self._statistics.pop((name, number), None)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.watch_interval)
            try:
                await self.poll()
            except ServerError as error:
                _log.error("the repository cannot be watched: %s", error.message)
            except Exception:
                _log.exception("looking at the repository failed")

    # The end

    def begin_drain(self) -> None:
        """Be not ready, and refuse control calls; inference goes on."""
        self._draining = True
        if self._watcher is not None:
            self._watcher.cancel()

    async def drain(self, timeout: float) -> bool:
        """Wait until every accepted request is answered, at most `timeout` seconds.

        Requests that come meanwhile are refused; those left at the end fail with `Draining`.

        Returns:
            Whether all were answered in time.
        """
        self.begin_drain()
        models = list(self._ready.values())
        tasks = [asyncio.ensure_future(model.scheduler.drain(_stopping())) for model in models]
        tasks += list(self._ending)
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
        models = list(self._ready.values())
        for demand in self._demands.values():
            demand.cancel()
        self._newest.clear()
        self._ready.clear()
        for model in models:
            model.scheduler.abort(_stopping())
            self._retire(model)
        if self._ending:
            _, late = await asyncio.wait(list(self._ending), timeout=_CLOSE_GRACE)
            for task in late:
                task.cancel()
        self._disk.shutdown(wait=False, cancel_futures=True)

    async def _blocking(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, function, *args)


def _size(files: Iterable[Path]) -> int:
    """Bytes of `files`; one that has just been removed counts nothing."""
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.stat().st_size
    return total


def _entry(name: str, number: int, version: _Version) -> dict[str, str]:
    entry = {"name": name, "version": str(number), "state": version.state}
    if version.reason:
        entry["reason"] = version.reason
    return entry


def _named(name: str, text: str) -> ModelConfig:
    """A configuration that is given for `name`."""
    config = ModelConfig.parse(text)
    if config.name not in ("", name):
        raise LoadFailed(f"configuration: expected the name '{name}', got '{config.name[:64]}'")
    return config


def _stamp(stored: StoredModel) -> Hashable:
    return stored.stamp, tuple((v.number, v.stamp) for v in stored.versions)


def _with_config(stored: StoredModel, config: ModelConfig, text: str | None) -> StoredModel:
    """`stored` under another configuration; its version files are looked for anew."""
    filename = config.default_model_filename or "model.onnx"
    versions = stored.versions
    if stored.directory is not None:
        versions = tuple(
            StoredVersion(v.number, v.path.with_name(filename), v.stamp) for v in versions
        )
    return StoredModel(stored.name, config, versions, "", (stored.stamp, text), stored.directory)


def _not_batching(
    config: ModelConfig, stored: StoredModel, session: Session, outputs: Sequence[str]
) -> ModelConfig:
    """A configuration that joins no requests, since `outputs` could not be split."""
    _log.warning(
        "model '%s': requests are not joined, since %s does not begin with the batch",
        config.name,
        ", ".join(f"'{name}'" for name in outputs),
    )
    if stored.config.max_batch_size is None:
        return without_batch(config, session)
    return config.model_copy(update={"dynamic_batching": None})


def _stopping() -> Draining:
    return Draining("the server is stopping")


async def _all(tasks: Iterable[Awaitable[None]]) -> None:
    for task in tasks:
        await asyncio.shield(task)
