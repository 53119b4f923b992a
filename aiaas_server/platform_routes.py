"""Management routes by topic, of a server with `--data`; `platform.py` puts them together."""

from __future__ import annotations

from functools import partial

from starlette.routing import BaseRoute

from aiaas_server.http.manage.audit import AuditRoutes
from aiaas_server.http.manage.keys import KeyRoutes
from aiaas_server.http.manage.monitoring import MonitoringRoutes, Trials
from aiaas_server.http.manage.prices import PriceRoutes
from aiaas_server.http.manage.requests import Manage
from aiaas_server.http.manage.tenants import PlanRoutes, TenantRoutes
from aiaas_server.http.manage.usage import UsageRoutes
from aiaas_server.http.process_group import ProcessGroup
from aiaas_server.monitor.monitor import FLUSH_SECONDS, Monitor
from aiaas_server.monitor.shadow import Shadows
from aiaas_server.registry.rollouts import Rollouts
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.tenancy.tenancy import Tenancy


def tenancy_routes(
    manage: Manage, settings: Settings, database: Database, tenancy: Tenancy, group: ProcessGroup
) -> list[BaseRoute]:
    """Who may ask, what was used, what it costs, what was done.

    Args:
        group: The other processes of this server.
    """

    async def changed() -> None:
        """Who is let in by this server is so at once, whichever of its processes is asked."""
        await tenancy.identities.look()
        await group.follow_keys()

    return [
        *KeyRoutes(tenancy.keys, settings, changed).routes(manage),
        *TenantRoutes(tenancy.tenants, settings, changed).routes(manage),
        *PlanRoutes(tenancy.plans, settings, changed).routes(manage),
        *UsageRoutes(database).routes(manage),
        *PriceRoutes(database, settings).routes(manage),
        *AuditRoutes(tenancy.audit).routes(manage),
    ]


def monitoring_routes(
    manage: Manage,
    settings: Settings,
    database: Database,
    monitor: Monitor,
    shadows: Shadows,
    rollouts: Rollouts,
) -> list[BaseRoute]:
    """How versions do, and those that are on trial."""
    # What other processes of this server have counted is there after their next write.
    alone = settings.workers == 1 and settings.database_url is None
    patience = 0.0 if alone else FLUSH_SECONDS * 1.5
    trials = Trials(partial(shadows.flush, database), rollouts.waiting)
    return MonitoringRoutes(database, settings, monitor, patience, trials).routes(manage)
