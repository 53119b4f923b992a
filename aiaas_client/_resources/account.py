"""What a client has of tenants: who they are, their keys, usage, prices and the audit.

A class for each of them is in a file of its own beside this, imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:  # all of them named in the base classes below
    from aiaas_client._resources.prices import AsyncPrices, Prices  # noqa: F401
    from aiaas_client._resources.statements import AsyncStatements, Statements  # noqa: F401

AnyPrices = TypeVar("AnyPrices")
AnyStatements = TypeVar("AnyStatements")


class BillingCalls(Generic[AnyPrices, AnyStatements]):
    """What use costs."""

    _sender: Any
    _is_async: bool

    @property
    def prices(self) -> AnyPrices:
        """The server's price book: list; add and end, for its operator."""
        from aiaas_client._resources import prices as home

        kind: Any = home.AsyncPrices if self._is_async else home.Prices
        found: AnyPrices = kind(self._sender)
        return found

    @property
    def statements(self) -> AnyStatements:
        """What months cost: get; close and correct, for the operator."""
        from aiaas_client._resources import statements as home

        kind: Any = home.AsyncStatements if self._is_async else home.Statements
        found: AnyStatements = kind(self._sender)
        return found


class ThreadAccount(BillingCalls["Prices", "Statements"]):
    """Prices and statements, from threads."""

    _is_async = False


class AsyncAccount(BillingCalls["AsyncPrices", "AsyncStatements"]):
    """Prices and statements, from an event loop."""

    _is_async = True
