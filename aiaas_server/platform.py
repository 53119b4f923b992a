"""`Platform`: what `--data` adds to a server, wired together. Imported only where that is given."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable, Sequence
from functools import partial

from starlette.routing import BaseRoute

from aiaas_client.protocol.management import Version
from aiaas_server.core.describe.stored import ModelRepository
from aiaas_server.core.events import OPERATOR, Observer
from aiaas_server.core.isolation import quarantine_of
from aiaas_server.core.measures import Measure
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.names import full_name
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.manage import drafts, files
from aiaas_server.http.manage.changes import ChangeRoutes
from aiaas_server.http.manage.datasets import DatasetRoutes
from aiaas_server.http.manage.erasure import ErasureRoutes
from aiaas_server.http.manage.models import ModelRoutes
from aiaas_server.http.manage.requests import Manage
from aiaas_server.http.manage.traffic import TrafficRoutes
from aiaas_server.http.process_group import ProcessGroup
from aiaas_server.monitor.alerts import Alert, Alerts
from aiaas_server.monitor.guard import judge
from aiaas_server.monitor.measures import families_of
from aiaas_server.monitor.monitor import Monitor
from aiaas_server.monitor.profile import Feature, trusted_profile
from aiaas_server.monitor.profiles import add_profile, get_profile
from aiaas_server.monitor.shadow import Shadows
from aiaas_server.monitor.steps import StepCounts
from aiaas_server.platform_routes import monitoring_routes, tenancy_routes
from aiaas_server.registry.commit import Verified
from aiaas_server.registry.damage import Damage
from aiaas_server.registry.deployment import Deployment
from aiaas_server.registry.models import find_model
from aiaas_server.registry.names import TenantNames
from aiaas_server.registry.reconcile import Reconcile
from aiaas_server.registry.registry import Registry
from aiaas_server.registry.rollout import ROLLED_BACK, Transition, begin
from aiaas_server.registry.rollouts import Rollouts
from aiaas_server.registry.routing import Choices
from aiaas_server.registry.rows import ModelRow, VersionRow
from aiaas_server.registry.stored import RegistryRepository
from aiaas_server.registry.verification.verify import Verifier
from aiaas_server.settings import Settings
from aiaas_server.state.artefacts.vault import open_vault
from aiaas_server.state.database import Connection, Database
from aiaas_server.state.feed import Feed
from aiaas_server.state.prepare import database_url
from aiaas_server.state.sealed_answers import AnswerSeal
from aiaas_server.state.space import check_room
from aiaas_server.tenancy.certificates import Signer
from aiaas_server.tenancy.erasing import TenantEraser
from aiaas_server.tenancy.notices import Notice
from aiaas_server.tenancy.tenancy import Tenancy
from aiaas_server.workshop.datasets import Datasets
from aiaas_server.workshop.workshop import Workshop

_log = logging.getLogger("aiaas_server")


class Platform:
    """The registry, its routes and what follows it, for one process.

    Args:
        settings: With `data`.
        models: The directory of models beside the registry.
        local: Whether whoever calls runs this server, and needs no key.

    Attributes:
        repository: What the pool loads from: that directory, and the registry's versions.
        choose, aliases: Which version a call gets.
        names: Which model a tenant means by a name; None on a server without tenants.
        observers: Who wants a record of every request.
        measures: What the metrics page tells besides.
        alerts: Tells the operator.
        find_key, entrance: Whose a key is, and what its tenant may use; None without tenants.
        monitor: Counts what is asked and answered.
        acts: Keeps a record of what is done.
    """

    def __init__(self, settings: Settings, models: ModelRepository, *, local: bool = False) -> None:
        assert settings.data is not None, "there is no platform without it"
        self._settings = settings
        room = partial(check_room, settings.data, reserve=settings.disk_reserve_bytes)
        self.database = Database(database_url(settings), room)
        self._feed = Feed(self.database)
        self.tenancy = Tenancy(settings, self.database, self._feed, local=local)
        self.find_key = self.tenancy.find_key
        self.entrance = self.tenancy.entrance
        self._vault = open_vault(settings, self.database)
        self._registry = Registry(self.database, begin)
        self._verifier = Verifier(
            timeout=settings.verify_timeout,
            memory_bytes=settings.verify_memory_bytes,
            scratch=(self._vault.work if self._vault else settings.data) / "cache" / "verify",
        )
        self._deployment = Deployment(
            settings,
            settings.data,
            self.database,
            self._verifier.verify,
            is_taken=lambda name: models.find(name) is not None,
            kept=_keep_reference,
            ready=self._ready,
            damaged=self._damaged,
            admit=self.tenancy.admit_draft,
            expect=self._verifier.expect,
            vault=self._vault,
        )
        self._datasets = Datasets(
            settings, self.database, self._deployment, admit=self.tenancy.admit_files
        )
        self.repository = RegistryRepository(models)
        choices, names = Choices(), TenantNames()
        self.choose, self.aliases = choices.choose, choices.aliased
        self.names = names if settings.tenants else None
        self._reconcile = Reconcile(
            self.database,
            self._feed,
            self._deployment.cache,
            self.repository,
            choices,
            None if settings.tenants else OPERATOR.tenant,
            brought=self._brought,
            names=names,
            is_isolated=partial(_is_isolated, settings.sandbox),
        )
        self._workshop = Workshop(
            settings,
            self.database,
            self._feed,
            self._deployment,
            self._registry,
            self._reconcile,
            keep_dataset=self._datasets.keep,
            is_taken=lambda name: models.find(name) is not None,
            admit_files=self.tenancy.admit_files,
            admit_job=self.tenancy.admit_job,
        )
        self.acts = self.tenancy.audit
        seal = AnswerSeal(self.tenancy.secret.derive("answers"))
        self._manage = Manage(self.database, self.acts, seal)
        self._eraser = TenantEraser(
            self.database,
            self._deployment.artefacts,
            self._deployment.parts,
            self._deployment.remover,
            self._deployment.remote,
            Signer(self.tenancy.secret),
            refresh=self.tenancy.identities.refresh,
            forget=self._deployment.cache.drop_all,
        )
        url = settings.alert_url
        self.alerts = Alerts("" if url is None else url.get_secret_value())
        self.monitor = Monitor(self.database, self.alerts)
        counts = StepCounts()
        node = uuid.uuid4().hex  # of this start, never used again
        self._rollouts = Rollouts(self.database, judge, counts, node=node, told=self._went_on)
        self._shadows = Shadows(self._find, self._loaded, node=node, mirrored=counts.mirrored)
        self.observers: tuple[Observer, ...] = (
            self.monitor.collector,
            counts,
            *self.tenancy.observers,
        )
        self.tenancy.budget.told = self._spent
        self.tenancy.metering.told = self._metered
        self.measures: tuple[Measure, ...] = (partial(families_of, self.monitor, self.alerts),)

    def routes(self, pool: ModelPool, group: ProcessGroup) -> list[BaseRoute]:
        """The management routes, for the server whose models `pool` holds.

        Args:
            group: The other processes of this server.
        """
        self._pool = pool
        manage, registry, reconcile = self._manage, self._registry, self._reconcile

        def here(tenant: str, version: Version) -> Version:
            full, number = full_name(tenant, version.model), version.version
            ours = self.repository.presented(full) is not None
            model = pool.serving.ready.get((full, number)) if ours else None
            kept_out = quarantine_of(model)
            loaded = model is not None and not kept_out
            reason = version.reason or kept_out or reconcile.problem(tenant, version.model, number)
            return version.model_copy(update={"loaded": loaded, "reason": reason})

        async def changed(tenant: str, name: str) -> None:
            """Whoever calls it next finds it as it is now, whichever process answers."""
            full = full_name(tenant, name)
            await reconcile.bring(full)
            await group.follow(full)

        async def committed(tenant: str, name: str, version: int) -> Version:
            await changed(tenant, name)
            return here(tenant, await registry.version(tenant, name, version))

        deployment = self._deployment
        erasing = (deployment.artefacts, deployment.eraser, deployment.remote)
        return [
            *drafts.routes(
                manage, deployment.drafts, deployment.commits, self._settings, committed
            ),
            *files.routes(manage, self.database, *erasing, changed, self._damaged),
            *ModelRoutes(registry, self._settings, here, changed).routes(manage),
            *TrafficRoutes(manage, registry, reconcile, self._settings, changed).routes(),
            *DatasetRoutes(manage, self._datasets, self._settings).routes(),
            *self._workshop.routes(changed, lambda: pool.draining).routes(manage),
            *self._workshop.batches.storage.routes(manage),
            *ChangeRoutes(self._feed, lambda: pool.draining).routes(manage),
            *monitoring_routes(
                manage, self._settings, self.database, self.monitor, self._shadows, self._rollouts
            ),
            *tenancy_routes(manage, self._settings, self.database, self.tenancy, group),
            *ErasureRoutes(self._settings, self._eraser.erase, self._eraser.find).routes(manage),
        ]

    async def reference(self, model: LoadedModel, tenant: str) -> Sequence[Feature] | None:
        """The features of a version's reference profile, for its owner; None where it has none."""
        if tenant != model.owner:
            return None

        def read(connection: Connection) -> Sequence[Feature] | None:
            known = find_model(connection, tenant, model.name)
            found = known and get_profile(connection, known.id, model.version)
            return found.profile.features if found else None

        return await self.database.read(read)

    async def bring(self, name: str) -> None:
        """Do what the registry says of a model now, by the server's own name.

        Another process has changed it.
        """
        await self._reconcile.bring(name)

    def on_serve(self, model: LoadedModel) -> None:
        """A version was opened and is about to serve; in the thread that opened it."""
        self.monitor.attach(model)
        self._loop.call_soon_threadsafe(self._shadows.attach, model)

    async def start(self) -> None:
        """Read what should be, before the pool loads it."""
        self._loop = asyncio.get_running_loop()
        await self.tenancy.start()
        await self._deployment.start()
        await self._datasets.start()
        await self._reconcile.start()

    def follow(self, pool: ModelPool) -> None:
        """Keep the pool as it should be, from now on."""
        self.tenancy.follow()
        self._reconcile.follow(pool)
        self.monitor.start()
        self._shadows.start(self.database)
        self._rollouts.start()
        self._workshop.start()
        self._eraser.start()

    async def close(self) -> None:
        """Write what is left, and let go."""
        await self._eraser.close()
        await self._workshop.close()
        await self._reconcile.close()
        await self._rollouts.close()
        await self._shadows.close(self.database)
        await self.tenancy.close()
        await self._feed.close()
        await self._datasets.close()
        await self._deployment.close()
        await self._verifier.close()
        if self._vault is not None:
            await asyncio.to_thread(self._vault.close)
        for part in (self.monitor, self.alerts, self.database):
            await asyncio.to_thread(part.close)

    async def _ready(self, tenant: str, name: str, version: int) -> None:
        """Have a version loaded that is about to take the place of another."""
        await self._reconcile.ready(tenant, name, version)

    def _find(self, name: str, version: int) -> LoadedModel | None:
        return self._pool.serving.ready.get((name, version))

    def _loaded(self) -> Iterable[LoadedModel]:
        return self._pool.models()

    def _brought(self, name: str, model: ModelRow | None) -> None:
        """What this process knows of a model is up to date."""
        if model is None:
            self._rollouts.gone(name)
            self._shadows.forget(name)
        else:
            self._rollouts.follow(model)
            self._shadows.follow(model.id, name, model.serving)

    def _damaged(self, found: Sequence[Damage]) -> None:
        """Bytes of versions are broken or gone, which nobody knew."""
        for damage in found:
            self.alerts.send(
                Alert("corrupt", damage.model, damage.version, reasons=(damage.reason,))
            )

    def _spent(self, notice: Notice) -> None:
        """A tenant has spent 80 % of what it may, or all of it."""
        text = (
            f"tenant '{notice.tenant}' has spent {notice.spent:f} of {notice.limit:f} "
            f"{notice.currency} in {notice.month}"
        )
        told = {key: str(value) for key, value in notice._asdict().items()}
        details = told | {"percent": notice.percent}
        self.alerts.send(Alert("budget", "", 0, reasons=(text,), details=details))

    def _metered(self, problem: str) -> None:
        """What is used can no longer be written to the disk, or can again."""
        if problem:
            reason = f"what is used cannot be written: {problem}; it waits in memory"
        else:
            reason = "what is used is written again"
        self.alerts.send(Alert("usage", "", 0, "raised" if problem else "cleared", (reason,)))

    async def _went_on(self, transition: Transition) -> None:
        """A rollout went on, ended or went back."""
        name = full_name(transition.model.tenant, transition.model.name)
        await self._reconcile.bring(name)
        if transition.kind == ROLLED_BACK:
            self.alerts.send(Alert("guard", name, transition.version, reasons=(transition.reason,)))


def _keep_reference(connection: Connection, version: VersionRow, found: Verified) -> None:
    """What the golden set made is what traffic is compared with from the first request on."""
    if found.profile is None:
        return
    try:
        profile = trusted_profile(found.profile)
    except ValueError as error:
        _log.warning("version %d: its golden set makes no reference: %s", version.number, error)
        return
    add_profile(connection, version.model_id, version.number, profile)


def _is_isolated(sandbox: str, tenant: str) -> bool:
    """Whether the models of a tenant run in processes of their own, by the setting."""
    return sandbox == "all" or (sandbox == "tenants" and tenant != OPERATOR.tenant)
