"""`Tenancy`: what a server with `--data` knows of tenants, put together for one process."""

from __future__ import annotations

from collections.abc import Callable

from aiaas_server.core.events import Entrance, Identity, Observer
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.feed import Feed
from aiaas_server.tenancy.allowance import admit_draft, admit_files, admit_job
from aiaas_server.tenancy.identities import Identities
from aiaas_server.tenancy.leases import Leases
from aiaas_server.tenancy.quota import Quotas
from aiaas_server.tenancy.secrets import ServerSecret


class Tenancy:
    """Keys, limits, usage, prices and the audit of one server.

    Args:
        settings: With `data`.

    Attributes:
        secret: What keys are hashed with, and more.
        identities: Whose keys are.
        find_key: The front door's; None on a server without tenants.
        entrance: Lets requests in by what their tenant may use; None where nothing limits them.
        quotas: The same; `quotas.budget` is asked for what a month may cost.
        observers: Who wants a record of every request.
        admit_draft, admit_files, admit_job: Asked for what is to be kept; None without tenants.
    """

    def __init__(self, settings: Settings, database: Database, feed: Feed) -> None:
        assert settings.data is not None, "there are no tenants without it"
        self.secret = ServerSecret.of(settings.data, settings.secret_file)
        self.identities = Identities(database, feed, self.secret.derive("keys"))
        self.find_key: Callable[[bytes], Identity | None] | None = None
        self.quotas = Quotas()
        self._leases = Leases(database, self.quotas)
        self.entrance: Entrance | None = None
        self.observers: tuple[Observer, ...] = ()
        self._limits = settings.tenants
        self.admit_draft = admit_draft if settings.tenants else None
        self.admit_files = admit_files if settings.tenants else None
        self.admit_job = admit_job if settings.tenants else None
        if settings.tenants:
            self.find_key = self.identities.find
            self.entrance = self.quotas
            self.observers = (self.quotas.charge,)
            self.identities.listen(self.quotas.follow)

    async def start(self) -> None:
        """Read who may ask."""
        if self._limits:
            await self._leases.start()
        await self.identities.start()
        self.quotas.is_settled = True

    def follow(self) -> None:
        """Keep up with changes, from now on."""
        self.identities.follow()

    async def close(self) -> None:
        """Write what is left, and let go."""
        await self.identities.close()
        if self._limits:
            await self._leases.close()
