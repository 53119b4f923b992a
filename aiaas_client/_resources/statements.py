"""`client.statements`, of either client: what months cost; and `client.usage.statement`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import prices as calls
from aiaas_client._resources.resource import Resource, Viewed
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import AsyncWhole, Whole, WithRawResponse
from aiaas_client._send.work import acarry_out, carry_out

if TYPE_CHECKING:
    from datetime import date

    from aiaas_client._api.prices import Amount
    from aiaas_client.protocol.prices import Statement

AnyStatement = TypeVar("AnyStatement")  # a `Statement`, or an awaitable of it


class UsageStatement(Generic[AnyStatement]):
    """What `client.usage` has of statements."""

    _sender: Any

    def statement(
        self, month: str | date | None = None, *, tenant: str | None = None
    ) -> AnyStatement:
        """Tell what a month costs: lines and their total, exact.

        Args:
            month: Such as "2026-11", or a day of it; by default the one that it is now in UTC.
            tenant: Another tenant than one's own, for the operator.
        Returns:
            A `Statement`: printed it is a table, `to_frame()` gives its lines. A closed one never
            changes; an open one is how the month stands now.
        Raises:
            BadRequestError: the month has not begun.
            NotFoundError: there is no such tenant.
            PermissionDeniedError: this key may not see it.
            InputError: it is no month.
        """
        found: AnyStatement = self._sender.send(calls.statement(month, tenant))
        return found


class StatementCalls(Resource, Generic[AnyStatement]):
    """What months cost. Tenants read their own; the operator closes and corrects."""

    def get(self, month: str | date | None = None, *, tenant: str | None = None) -> AnyStatement:
        """Give a month's statement, closed or as it stands now, as `client.usage.statement` does.

        Args:
            month: Such as "2026-11", or a day of it; by default the one that it is now in UTC.
            tenant: Another tenant than one's own, for the operator.
        Raises:
            BadRequestError: the month has not begun.
            NotFoundError: there is no such tenant.
            PermissionDeniedError: this key may not see it.
            InputError: it is no month.
        """
        found: AnyStatement = self._sender.send(calls.statement(month, tenant))
        return found

    def close(self, month: str | date, *, tenant: str | None = None) -> AnyStatement:
        """Close a month that is over, before the server does so an hour after its end.

        Earlier months that are open are closed with it. A closed one is given as it is.

        Args:
            month: Such as "2026-11", or a day of it.
            tenant: Whose; by default that of the key.
        Raises:
            ConflictError: the month is not over.
            NotFoundError: there is no such tenant.
            PermissionDeniedError: this is no operator's key.
        """
        found: AnyStatement = self._sender.send(calls.close_statement(month, tenant))
        return found

    def correct(
        self, month: str | date, amount: Amount, *, reason: str, tenant: str
    ) -> AnyStatement:
        """Credit or charge a tenant by hand, for a month that is closed or is not.

        Args:
            month: Which was wrong.
            amount: A `Decimal`, its text, or a whole number; less than zero is a credit.
            reason: Told on the statement.
            tenant: Whose.
        Returns:
            The statement on which it is a line of its own: the first that is open.
        Raises:
            BadRequestError: the currency has no such coins, or the month has not begun.
            NotFoundError: there is no such tenant.
            PermissionDeniedError: this is no operator's key.
        """
        call = calls.correct_statement(month, amount, reason, tenant)
        found: AnyStatement = self._sender.send(call)
        return found


@with_own_names
class Statements(Viewed["RawStatements"], StatementCalls["Statement"]):
    """Statements, for threads."""

    _carry_out = staticmethod(carry_out)


class RawStatements(WithRawResponse, of=Statements):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    get = Whole(Statements.get)
    close = Whole(Statements.close)
    correct = Whole(Statements.correct)


@with_own_names
class AsyncStatements(
    Viewed["RawAsyncStatements"], StatementCalls[Coroutine[Any, Any, "Statement"]]
):
    """Statements, on an event loop."""

    _carry_out = staticmethod(acarry_out)


class RawAsyncStatements(WithRawResponse, of=AsyncStatements):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    get = AsyncWhole(AsyncStatements.get)
    close = AsyncWhole(AsyncStatements.close)
    correct = AsyncWhole(AsyncStatements.correct)
