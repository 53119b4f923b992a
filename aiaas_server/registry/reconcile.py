"""`Reconcile`: makes the pool of this process agree with the registry, again and again.

It is level-triggered: for each model it reads what should be, whoever changed what, and acts on the
difference. New versions are loaded beside the old ones; then the calls' table is replaced; then
what is no longer wanted is retired, each after its last request. A version that cannot be loaded
changes nothing for callers: who served before does still, and it is tried again later.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from aiaas_client.protocol.names import LATEST
from aiaas_server.core.errors import Conflict, Draining, ModelUnavailable, Rejected, ServerError
from aiaas_server.core.names import full_name, parted, plain
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.registry.desired import Desired, read_all, read_one
from aiaas_server.registry.followed import Followed
from aiaas_server.registry.models import get_model
from aiaas_server.registry.names import TenantNames
from aiaas_server.registry.routing import Choices, Route, divided, route_of
from aiaas_server.registry.rows import ModelRow, VersionRow
from aiaas_server.registry.stored import RegistryRepository, policy_stamp, stored_model
from aiaas_server.registry.traffic import check_verified
from aiaas_server.state.changes import ChangeRow
from aiaas_server.state.database import Database

INTERVAL: Final = 30.0
"""Seconds after which everything is looked at anew, whatever the feed told."""
_AT_ONCE: Final = 8  # models that are worked on; they load one after the other all the same
_KINDS: Final = frozenset({"model", "version", "traffic", "rollout"})  # of changes that matter

_log = logging.getLogger("aiaas_server")


Brought = Callable[[str, ModelRow | None], object]


class Bundles(Protocol):
    """Makes versions files of this machine; blocking, for threads."""

    def materialise(self, version: VersionRow, tenant: str) -> Path:
        """The directory of a version; raises whatever is wrong with it."""
        ...


class Feed(Protocol):
    """Tells what was changed, by whichever process."""

    async def last(self) -> int:
        """The number of the newest change."""
        ...

    async def wait_beyond(self, seq: int) -> list[ChangeRow]:
        """Wait for changes behind `seq`; empty when the feed is closed."""
        ...


class Reconcile:
    """Follows the models of one tenant, or of all.

    Models have the server's own names here, see `core.names`.

    Args:
        bundles: Has the files of versions.
        repository: What it presents to the pool.
        choices: The calls' table, which it keeps.
        tenant: Whose models; None is everyone's.
        names: Whose names are whose, which it keeps.
        is_isolated: Whether a tenant's models run in processes of their own.
        brought: Called with the name and the row of a model that was brought up to date; without
            a row where it is the registry's no more.
        interval: Seconds after which everything is looked at anew.
    """

    def __init__(
        self,
        database: Database,
        feed: Feed,
        bundles: Bundles,
        repository: RegistryRepository,
        choices: Choices,
        tenant: str | None = "default",
        brought: Brought = lambda name, model: None,
        interval: float = INTERVAL,
        names: TenantNames | None = None,
        is_isolated: Callable[[str], bool] = lambda tenant: False,
    ) -> None:
        self._names = names or TenantNames()
        self._is_isolated = is_isolated
        self._brought = brought
        self._database = database
        self._feed = feed
        self._bundles = bundles
        self._repository = repository
        self._choices = choices
        self._tenant = tenant
        self._interval = interval
        self._models: dict[str, Followed] = {}
        self._pool: ModelPool | None = None
        self._seen = 0
        self._woken = asyncio.Event()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    # The life of a process

    async def start(self) -> None:
        """Present what should be, before the pool loads for the first time.

        Where the database does not answer, the pool begins without the registry's models.
        """
        try:
            self._seen = await self._feed.last()
            wanted = await self._database.read(partial(read_all, tenant=self._tenant))
        except ServerError as error:
            _log.error("the registry cannot be read; it is tried again: %s", error.message)
            return
        for desired in wanted:
            name = _full(desired.model)
            if await asyncio.to_thread(self._repository.in_directory, name):
                continue
            followed = self._followed(name)
            self._names.put(name, public=desired.model.policy.public)
            await self._materialise(name, followed, desired.versions)
            self._present(desired, followed, desired.versions)
            self._choices.put(name, _route(desired))
            self._brought(name, desired.model)

    def follow(self, pool: ModelPool) -> None:
        """Keep `pool` as it should be, until `close`."""
        self._pool = pool
        self._begin(self._listen())
        self._begin(self._run())

    async def close(self) -> None:
        """Stop following."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def problem(self, tenant: str, name: str, number: int) -> str:
        """Why a version that should be loaded is not, in this process; "" for no reason."""
        followed = self._models.get(full_name(tenant, name))
        return "" if followed is None else followed.problems.get(number, "")

    # What others ask for

    @asynccontextmanager
    async def loaded(self, tenant: str, name: str, numbers: Iterable[int]) -> AsyncIterator[None]:
        """Have versions of a tenant's model loaded and warm while the block is open, wanted or not.

        Raises:
            NotFound: There is no such model or version.
            Conflict: It is corrupt or erased, or a model of the directory has its name.
            Rejected: It cannot be loaded here.
            ModelUnavailable: There is no room for it now, or the server is starting.
        """
        asked = set(numbers)
        model = await self._database.read(lambda c: get_model(c, tenant, name))
        await self._database.read(lambda c: [check_verified(c, model, n) for n in asked])
        full = full_name(tenant, name)
        beside = await asyncio.to_thread(self._repository.in_directory, full)
        if asked and beside:
            raise Conflict(f"model '{name}' is served from the directory of models, not from here")
        followed = self._followed(full)
        try:
            with followed.holding(asked):
                await self.bring(full)
                self._check_there(full, followed, asked)
                yield
        except BaseException:
            self._look_after(full)  # what was loaded for nothing goes again
            raise

    async def ready(self, tenant: str, name: str, number: int) -> None:
        """Have a version loaded that is about to take another's place; raises as `loaded`."""
        if self._tenant in (None, tenant):
            async with self.loaded(tenant, name, [number]):
                return

    async def bring(self, name: str) -> None:
        """Make the pool agree with the registry about one model; what fails is tried again."""
        if self._pool is None:
            return  # the first look will find it
        followed = self._followed(name)
        async with followed.lock:
            followed.queued = False
            try:
                await self._bring(name, followed, self._pool)
            except Draining:
                return
            except ServerError as error:
                followed.failed()
                _log.warning("model '%s' cannot be followed now: %s", name, error.message)
            except Exception:
                followed.failed()
                _log.exception("following model '%s' failed", name)
        self._woken.set()  # there may be something to try again

    # The loops

    async def _listen(self) -> None:
        while rows := await self._feed.wait_beyond(self._seen):
            self._seen = rows[-1].seq
            for row in rows:
                if self._tenant in (None, row.tenant) and row.kind in _KINDS:
                    self._look_after(full_name(row.tenant, row.object))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        every = loop.time()
        while True:
            if loop.time() >= every:
                for name in await self._unsettled():
                    self._look_after(name)
                every = loop.time() + self._interval * random.uniform(0.9, 1.1)
            for name, followed in self._models.items():
                if followed.is_due():
                    self._look_after(name)
            self._woken.clear()
            waits = [f.retry_at for f in self._models.values() if f.retry_at is not None]
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min([every, *waits])):
                    await self._woken.wait()

    def _look_after(self, name: str) -> None:
        """Bring a model up to date, once for all that ask before that begins."""
        followed = self._followed(name)
        followed.retry_at = None
        if not followed.queued:
            followed.queued = True
            self._begin(self._bring_in_turn(name))

    async def _bring_in_turn(self, name: str) -> None:
        async with self._room:
            await self.bring(name)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unsettled(self) -> list[str]:
        """The models that are not here as they should be."""
        try:
            wanted = await self._database.read(partial(read_all, tenant=self._tenant))
        except ServerError as error:
            _log.warning("the registry cannot be read; what is loaded serves on: %s", error.message)
            return []
        names = {_full(desired.model) for desired in wanted}
        gone = [name for name, followed in self._models.items() if followed.places]
        return [_full(d.model) for d in wanted if not self._is_settled(d)] + [
            name for name in gone if name not in names
        ]

    def _is_settled(self, desired: Desired) -> bool:
        name, pool = _full(desired.model), self._pool
        followed, shown = self._models.get(name), self._repository.presented(name)
        if followed is None or shown is None or pool is None or followed.problems:
            return False
        rows = {number: row.digest for number, row in desired.versions.items()}
        return (
            {number: digest for number, (_, digest) in followed.places.items()} == rows
            and shown.stamp == policy_stamp(desired.model.policy)
            and self._names.is_right(name, public=desired.model.policy.public)
            and self._available(name, followed, pool) == rows.keys()
            and self._choices.get(name) == _route(desired)
        )

    # One model

    async def _bring(self, name: str, followed: Followed, pool: ModelPool) -> None:
        tenant, plainly = parted(name)
        desired = await self._database.read(partial(read_one, tenant=tenant, name=plainly))
        if desired is not None and await asyncio.to_thread(self._repository.in_directory, name):
            if followed.places:
                _log.warning("model '%s' is in the directory of models now: that one serves", name)
            desired = None
        if desired is None:
            await self._let_go(name, followed, pool)
            return
        self._names.put(name, public=desired.model.policy.public)
        known = dict(followed.problems)
        rows = dict(desired.versions) | await self._held_rows(desired, followed)
        await self._materialise(name, followed, rows)
        if not followed.places:
            self._choices.drop(name)
        else:
            self._present(desired, followed, followed.places)  # old and new side by side
            await self._load(name, followed, pool, rows)
            there = self._available(name, followed, pool)
            route = self._settle(desired, there)
            named = {n for alias, n in route.aliases.items() if alias != LATEST}
            keep = there & (rows.keys() | route.chosen | named | desired.corrupt)
            if keep:
                self._present(desired, followed, keep)
                await self._load(name, followed, pool, ())
        self._conclude(name, followed, rows, known)
        self._brought(name, desired.model)

    async def _load(
        self, name: str, followed: Followed, pool: ModelPool, rows: Iterable[int]
    ) -> None:
        """Have the pool agree with what is presented; note why a version of `rows` is not there."""
        reason = ""
        try:
            await pool.follow(name)
        except Draining:
            raise
        except ServerError as error:
            reason = error.message
        there = self._available(name, followed, pool)
        for number in rows:
            if number in there:
                followed.problems.pop(number, None)
            elif number in followed.places:
                followed.problems[number] = _reason(pool, name, number) or reason

    def _available(self, name: str, followed: Followed, pool: ModelPool) -> set[int]:
        """Versions that answer calls: those loaded, or all where a call has them loaded."""
        ready = set(pool.ready_versions(name))
        if pool.loads_on_demand and not ready:
            return set(followed.places)
        return ready

    def _settle(self, desired: Desired, there: set[int]) -> Route:
        """Put the route in force that suits what is there; gives it."""
        name = _full(desired.model)
        route, old = _route(desired), self._choices.get(name)
        aliases = dict(route.aliases)
        if old is not None:  # a name whose new version is not there means the old one still
            for alias, number in route.aliases.items():
                missing = number in desired.versions and number not in there
                if missing and old.aliases.get(alias) in there:
                    aliases[alias] = old.aliases[alias]
        route = route._replace(aliases=aliases)
        if not route.chosen <= there:
            if old is not None and old.chosen and old.chosen <= there:
                route = old._replace(aliases=aliases)
            elif route.chosen & there:  # nobody served before: whoever can, serves
                given = desired.model.serving.shares(desired.latest)
                left = {number: share for number, share in given.items() if number in there}
                route = divided(name, left, sticky=route.sticky, aliases=aliases)
        self._choices.put(name, route)
        return route

    async def _let_go(self, name: str, followed: Followed, pool: ModelPool) -> None:
        """Nothing of it is the registry's any more."""
        self._brought(name, None)
        followed.succeeded()
        if self._repository.presented(name) is not None:
            self._repository.withdraw(name)
            self._choices.drop(name)
            followed.places.clear()
            await pool.follow(name)
        self._names.drop(name)  # only now: until then it is loaded

    def _present(self, desired: Desired, followed: Followed, numbers: Collection[int]) -> None:
        """Show the pool exactly these versions, as far as their files are here."""
        followed.places = {n: place for n, place in followed.places.items() if n in numbers}
        if followed.places:
            model = desired.model
            isolated = self._is_isolated(model.tenant)
            self._repository.present(
                stored_model(_full(model), model.policy, followed.places, isolated=isolated)
            )

    async def _materialise(
        self, name: str, followed: Followed, rows: Mapping[int, VersionRow]
    ) -> None:
        """Have the files of these versions here; what is wrong is noted for each."""
        tenant, _ = parted(name)
        for number, row in rows.items():
            try:
                place = await asyncio.to_thread(self._bundles.materialise, row, tenant)
            except ServerError as error:
                followed.problems[number] = error.message
            except OSError as error:
                followed.problems[number] = f"its files cannot be had: {error.strerror}"
            else:
                followed.problems.pop(number, None)
                followed.places[number] = place, row.digest

    async def _held_rows(self, desired: Desired, followed: Followed) -> dict[int, VersionRow]:
        """Of versions that are held and not wanted anyway."""
        held = [number for number in followed.held if number not in desired.versions]
        if not held:
            return {}
        return await self._database.read(
            lambda c: {number: check_verified(c, desired.model, number) for number in held}
        )

    def _check_there(self, name: str, followed: Followed, numbers: Iterable[int]) -> None:
        pool = self._pool
        if pool is None:
            raise ModelUnavailable("the server is starting: no model is loaded yet", retry_after=1)
        there = self._available(name, followed, pool)
        for number in numbers:
            if number not in there:
                why = followed.problems.get(number) or "the model is not served here"
                raise Rejected(f"version {number} of model '{plain(name)}' cannot be loaded: {why}")

    def _conclude(
        self, name: str, followed: Followed, rows: Collection[int], known: Mapping[int, str]
    ) -> None:
        """Tell once what cannot be loaded, and try it again later."""
        followed.problems = {n: why for n, why in followed.problems.items() if n in rows}
        for number, why in followed.problems.items():
            if known.get(number) != why:
                _log.error("model '%s' version %d cannot be loaded: %s", name, number, why)
        if followed.problems:
            followed.failed()
        else:
            followed.succeeded()

    def _followed(self, name: str) -> Followed:
        return self._models.setdefault(name, Followed())


def _route(desired: Desired) -> Route:
    return route_of(_full(desired.model), desired.model.serving, desired.latest)


def _full(model: ModelRow) -> str:
    """The server's own name of a model."""
    return full_name(model.tenant, model.name)


def _reason(pool: ModelPool, name: str, number: int) -> str:
    """Why the pool has not loaded a version."""
    for entry in pool.index():
        if entry["name"] == name and entry.get("version") == str(number):
            return entry.get("reason", "")
    return ""
