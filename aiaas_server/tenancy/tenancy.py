"""`Tenancy`: what a server with `--data` knows of tenants, put together for one process."""

from __future__ import annotations

from collections.abc import Callable

from aiaas_server.core.events import Entrance, Identity, Observer
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.feed import Feed
from aiaas_server.tenancy.budget import Budget
from aiaas_server.tenancy.closing import Closing
from aiaas_server.tenancy.costs import CostEntrance
from aiaas_server.tenancy.identities import Identities
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
        budget: What tenants spend, and may spend.
        observers: Who wants a record of every request.
    """

    def __init__(self, settings: Settings, database: Database, feed: Feed) -> None:
        assert settings.data is not None, "there are no tenants without it"
        self.secret = ServerSecret.of(settings.data, settings.secret_file)
        self.identities = Identities(database, feed, self.secret.derive("keys"))
        self.find_key: Callable[[bytes], Identity | None] | None = None
        if settings.tenants:
            self.find_key = self.identities.find
        self.entrance: Entrance | None = None
        self.observers: tuple[Observer, ...] = ()
        self.budget = Budget(database, cost_header=settings.cost_header)
        self._spends = settings.tenants or settings.cost_header
        if self._spends:
            self.identities.listen(self.budget.follow_directory)
            self.entrance = CostEntrance(self.budget)
            self.observers = (self.budget.observe,)
        self._closing = Closing(database)

    async def start(self) -> None:
        """Read who may ask."""
        await self.identities.start()
        if self._spends:
            await self.budget.start()

    def follow(self) -> None:
        """Keep up with changes, from now on."""
        self.identities.follow()
        self._closing.follow()
        if self._spends:
            self.budget.follow()

    async def close(self) -> None:
        """Write what is left, and let go."""
        await self.budget.close()
        await self._closing.close()
        await self.identities.close()
