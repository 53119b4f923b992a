"""What a client has of tenants: who they are, their keys, usage, prices and the audit.

A class for each of them is in a file of its own beside this, imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:  # all of them named in the base classes below
    from aiaas_client._resources.usage import AsyncUsageAccount, UsageAccount  # noqa: F401

AnyUsage = TypeVar("AnyUsage")


class AccountCalls(Generic[AnyUsage]):
    """Who may ask, what they used, and what it costs."""

    _sender: Any
    _is_async: bool

    @property
    def usage(self) -> AnyUsage:
        """What was used, by key, model, version and time."""
        from aiaas_client._resources import usage as home

        kind: Any = home.AsyncUsageAccount if self._is_async else home.UsageAccount
        found: AnyUsage = kind(self._sender)
        return found


class ThreadAccount(AccountCalls["UsageAccount"]):
    """An account, from threads."""

    _is_async = False


class AsyncAccount(AccountCalls["AsyncUsageAccount"]):
    """An account, from an event loop."""

    _is_async = True
