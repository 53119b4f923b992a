"""What a client has of tenants: who they are, their keys, usage, prices and the audit.

A class for each of them is in a file of its own beside this, imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Coroutine
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:  # all of them named in the base classes below
    from aiaas_client._resources.audit import (  # noqa: F401
        AsyncAudit,
        Audit,
        RawAsyncAudit,
        RawAudit,
    )
    from aiaas_client._resources.keys import (  # noqa: F401
        AsyncKeys,
        Keys,
        RawAsyncKeys,
        RawKeys,
    )
    from aiaas_client._resources.prices import (  # noqa: F401
        AsyncPrices,
        Prices,
        RawAsyncPrices,
        RawPrices,
    )
    from aiaas_client._resources.statements import (  # noqa: F401
        AsyncStatements,
        RawAsyncStatements,
        RawStatements,
        Statements,
    )
    from aiaas_client._resources.tenants import (  # noqa: F401
        AsyncPlans,
        AsyncTenants,
        Plans,
        RawAsyncPlans,
        RawAsyncTenants,
        RawPlans,
        RawTenants,
        Tenants,
    )
    from aiaas_client._resources.usage import (  # noqa: F401
        AsyncUsageAccount,
        RawAsyncUsageAccount,
        RawUsageAccount,
        UsageAccount,
    )
    from aiaas_client.protocol.tenants import Whoami

AnyTenants = TypeVar("AnyTenants")
AnyPlans = TypeVar("AnyPlans")
AnyKeys = TypeVar("AnyKeys")
AnyUsage = TypeVar("AnyUsage")
AnyAudit = TypeVar("AnyAudit")
AnyPrices = TypeVar("AnyPrices")
AnyStatements = TypeVar("AnyStatements")
AnyWhoami = TypeVar("AnyWhoami")


class AccountCalls(Generic[AnyTenants, AnyPlans, AnyKeys, AnyUsage, AnyAudit]):
    """Who shares a server, with which keys, and what was done there."""

    _sender: Any
    _is_async: bool

    @property
    def tenants(self) -> AnyTenants:
        """The server's tenants, for its operator: create, list, change, suspend."""
        from aiaas_client._resources import tenants as home

        found: AnyTenants = self._part(home, "Tenants")
        return found

    @property
    def plans(self) -> AnyPlans:
        """What tenants may use, for the operator: create, list, change, delete."""
        from aiaas_client._resources import tenants as home

        found: AnyPlans = self._part(home, "Plans")
        return found

    @property
    def keys(self) -> AnyKeys:
        """The keys of one's tenant: create, list, rotate, revoke."""
        from aiaas_client._resources import keys as home

        found: AnyKeys = self._part(home, "Keys")
        return found

    @property
    def usage(self) -> AnyUsage:
        """What was used, by key, model, version and time."""
        from aiaas_client._resources import usage as home

        found: AnyUsage = self._part(home, "UsageAccount")
        return found

    @property
    def audit(self) -> AnyAudit:
        """The server's record of acts: list it, check it, report a month."""
        from aiaas_client._resources import audit as home

        found: AnyAudit = self._part(home, "Audit")
        return found

    def _part(self, home: ModuleType, name: str) -> Any:
        return getattr(home, f"Async{name}" if self._is_async else name)(self._sender)


class WhoamiCall(Generic[AnyWhoami]):
    """Whose a key is."""

    _sender: Any

    def whoami(self) -> AnyWhoami:
        """Tell whose the key of this client is: its tenant, scopes, limits and end.

        Raises:
            AuthenticationError: it is not good.
            NotSupportedError: this server has no registry.
        """
        from aiaas_client._api.tenants import whoami

        found: AnyWhoami = self._sender.send(whoami())
        return found


class BillingCalls(Generic[AnyPrices, AnyStatements]):
    """What use costs."""

    _part: Any

    @property
    def prices(self) -> AnyPrices:
        """The server's price book: list; add and end, for its operator."""
        from aiaas_client._resources import prices as home

        found: AnyPrices = self._part(home, "Prices")
        return found

    @property
    def statements(self) -> AnyStatements:
        """What months cost: get; close and correct, for the operator."""
        from aiaas_client._resources import statements as home

        found: AnyStatements = self._part(home, "Statements")
        return found


class ThreadAccount(
    AccountCalls["Tenants", "Plans", "Keys", "UsageAccount", "Audit"],
    BillingCalls["Prices", "Statements"],
    WhoamiCall["Whoami"],
):
    """Tenants and what they use, from threads."""

    _is_async = False


class AsyncAccount(
    AccountCalls[
        "AsyncTenants",
        "AsyncPlans",
        "AsyncKeys",
        "AsyncUsageAccount",
        "AsyncAudit",
    ],
    BillingCalls["AsyncPrices", "AsyncStatements"],
    WhoamiCall[Coroutine[Any, Any, "Whoami"]],
):
    """Tenants and what they use, from an event loop."""

    _is_async = True


class WholeAnswers:
    """The same of `client.with_raw_response`."""

    _member: Any

    def _part(self, home: ModuleType, name: str) -> Any:
        return self._member("usage" if name == "UsageAccount" else name.lower())


class RawThreadAccount(
    WholeAnswers,
    AccountCalls[
        "RawTenants",
        "RawPlans",
        "RawKeys",
        "RawUsageAccount",
        "RawAudit",
    ],
    BillingCalls["RawPrices", "RawStatements"],
):
    """Whole answers of what a client has of tenants, from threads."""


class RawAsyncAccount(
    WholeAnswers,
    AccountCalls[
        "RawAsyncTenants",
        "RawAsyncPlans",
        "RawAsyncKeys",
        "RawAsyncUsageAccount",
        "RawAsyncAudit",
    ],
    BillingCalls["RawAsyncPrices", "RawAsyncStatements"],
):
    """Whole answers of what a client has of tenants, from an event loop."""
