"""What a client has of tenants: who they are, their keys, usage, prices and the audit.

A class for each of them is in a file of its own beside this, imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:  # all of them named in the base classes below
    from aiaas_client._resources.keys import AsyncKeys, Keys  # noqa: F401
    from aiaas_client._resources.tenants import (  # noqa: F401
        AsyncPlans,
        AsyncTenants,
        Plans,
        Tenants,
    )
    from aiaas_client.protocol.tenants import Whoami

AnyTenants = TypeVar("AnyTenants")
AnyPlans = TypeVar("AnyPlans")
AnyKeys = TypeVar("AnyKeys")
AnyWhoami = TypeVar("AnyWhoami")


class IdentityCalls(Generic[AnyTenants, AnyPlans, AnyKeys, AnyWhoami]):
    """Who shares a server, and with which keys."""

    _sender: Any
    _is_async: bool

    @property
    def tenants(self) -> AnyTenants:
        """The server's tenants, for its operator: create, list, change, suspend."""
        from aiaas_client._resources import tenants as home

        kind: Any = home.AsyncTenants if self._is_async else home.Tenants
        found: AnyTenants = kind(self._sender)
        return found

    @property
    def plans(self) -> AnyPlans:
        """What tenants may use, for the operator: create, list, change, delete."""
        from aiaas_client._resources import tenants as home

        kind: Any = home.AsyncPlans if self._is_async else home.Plans
        found: AnyPlans = kind(self._sender)
        return found

    @property
    def keys(self) -> AnyKeys:
        """The keys of one's tenant: create, list, rotate, revoke."""
        from aiaas_client._resources import keys as home

        kind: Any = home.AsyncKeys if self._is_async else home.Keys
        found: AnyKeys = kind(self._sender)
        return found

    def whoami(self) -> AnyWhoami:
        """Tell whose the key of this client is: its tenant, scopes, limits and end.

        Raises:
            AuthenticationError: it is not good.
            NotSupportedError: this server has no registry.
        """
        from aiaas_client._api.tenants import whoami

        found: AnyWhoami = self._sender.send(whoami())
        return found


class ThreadAccount(IdentityCalls["Tenants", "Plans", "Keys", "Whoami"]):
    """Tenants and keys, from threads."""

    _is_async = False


class AsyncAccount(
    IdentityCalls["AsyncTenants", "AsyncPlans", "AsyncKeys", Coroutine[Any, Any, "Whoami"]]
):
    """Tenants and keys, from an event loop."""

    _is_async = True
