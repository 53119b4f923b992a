"""`Tenancy`: what a server with `--data` knows of tenants, put together for one process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sqlalchemy import Connection

from aiaas_server.core.author import Author
from aiaas_server.core.events import Entrance, Identity, Observer
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.feed import Feed
from aiaas_server.tenancy.allowance import admit_draft, admit_files, admit_job
from aiaas_server.tenancy.audit import Audit
from aiaas_server.tenancy.audit_head_file import HEAD_FILE
from aiaas_server.tenancy.budget import Budget
from aiaas_server.tenancy.clock import SteadyClock
from aiaas_server.tenancy.closing import Closing
from aiaas_server.tenancy.costs import CostEntrance
from aiaas_server.tenancy.identities import Identities
from aiaas_server.tenancy.keys import Keys
from aiaas_server.tenancy.last_used import LastUsed
from aiaas_server.tenancy.leases import Leases
from aiaas_server.tenancy.meter import Meter
from aiaas_server.tenancy.metering import Metering
from aiaas_server.tenancy.plans import Plans
from aiaas_server.tenancy.quota import Quotas
from aiaas_server.tenancy.same_secret import check_same
from aiaas_server.tenancy.secrets import ServerSecret
from aiaas_server.tenancy.tenants import Tenants

_log = logging.getLogger("aiaas_server")


class Tenancy:
    """Keys, limits, usage, prices and the audit of one server.

    Args:
        settings: With `data`.
        local: Whether whoever calls runs this server, and needs no key.
    Raises:
        SecretRefused: The secret cannot be read, or is not that of the database.

    Attributes:
        secret: What keys are hashed with, and more.
        identities: Whose keys are.
        keys, tenants, plans: What the management routes see to.
        find_key: The front door's; None on a server without tenants.
        entrance: Lets requests in by what their tenant may use; None where nothing limits them.
        audit: Keeps a record of what is done.
        quotas: What rates, places and sums each tenant has.
        admit_draft, admit_files, admit_job: Asked for what is to be kept; None without tenants.
        budget: What tenants spend, and may spend.
        metering: Writes what was used.
        observers: Who wants a record of every request.
    """

    def __init__(
        self, settings: Settings, database: Database, feed: Feed, *, local: bool = False
    ) -> None:
        assert settings.data is not None, "there are no tenants without it"
        self.secret = ServerSecret.of(settings.data, settings.secret_file)
        check_same(database, self.secret)
        pepper, clock = self.secret.derive("keys"), SteadyClock()
        self._settings = settings
        self.identities = Identities(database, feed, pepper, clock=clock)
        self.tenants = Tenants(database)
        self.plans = Plans(database)
        makes = settings.tenants or local
        self.keys = Keys(database, self.identities, pepper, clock, makes=makes)
        self._last_used = LastUsed(database, self.identities)
        self.find_key: Callable[[bytes], Identity | None] | None = None
        if settings.tenants and not local:
            self.find_key = self.identities.find
        self.quotas = Quotas()
        self._leases = Leases(database, self.quotas)
        self.entrance: Entrance | None = None
        meter = Meter()
        self.metering = Metering(database, settings.data / "usage", meter)
        self.observers: tuple[Observer, ...] = (meter,)
        self._limits = settings.tenants
        self.admit_draft = admit_draft if settings.tenants else None
        self.admit_files = admit_files if settings.tenants else None
        self.admit_job = self._admit_job if settings.tenants else None
        if settings.tenants:
            self.entrance = self.quotas
            self.observers = (meter, self.quotas.charge)
            self.identities.listen(self.quotas.follow)
        self.budget = Budget(database, clock=clock.now, cost_header=settings.cost_header)
        self._spends = settings.tenants or settings.cost_header
        if self._spends:
            self.identities.listen(self.budget.follow_directory)
            self.observers = (*self.observers, self.budget.observe)
        if settings.tenants:
            self.quotas.budget = self.budget
        elif settings.cost_header:
            self.entrance = CostEntrance(self.budget)
        self._closing = Closing(database, clock=clock.now)
        head_file = settings.data / HEAD_FILE
        self.audit = Audit(database, self.secret.derive("audit"), head_file)

    def _admit_job(self, connection: Connection, author: Author) -> None:
        """Ask whether a job may be queued: by its tenant's quota, and by what is spent.

        Raises:
            QuotaExceeded, BudgetExceeded: It may not.
        """
        self.budget(Identity(author.tenant, author.by), None)
        admit_job(connection, author.tenant)

    async def start(self) -> None:
        """Read who may ask."""
        if self._limits:
            await self._leases.start()
        await self.identities.start()
        if self._spends:
            await self.budget.start()
        self.quotas.is_settled = True
        await self.audit.start()
        if self.find_key is not None and not self.identities.directory.keys:
            _log.warning(
                "there is no key yet, so that nothing is answered; run: aiaas keys init --data %s",
                self._settings.data,
            )

    def follow(self) -> None:
        """Keep up with changes, from now on."""
        self.identities.follow()
        self.metering.start()
        self.audit.follow()
        self._last_used.start()
        self._closing.follow()
        if self._spends:
            self.budget.follow()

    async def close(self) -> None:
        """Write what is left, and let go."""
        await self.budget.close()
        await self._closing.close()
        await self.identities.close()
        await asyncio.to_thread(self.metering.close)
        await self.audit.close()
        await self._last_used.close()
        if self._limits:
            await self._leases.close()
