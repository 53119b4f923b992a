"""`client.audit`: what was done to a server, by whom, and whether the record of it is whole."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import audit as calls
from aiaas_client._resources.registry import pages
from aiaas_client._resources.resource import Viewed
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import AsyncWhole, Whole, WithRawResponse
from aiaas_client._send.work import acarry_out, carry_out

if TYPE_CHECKING:
    from aiaas_client._api.audit import When
    from aiaas_client.protocol.audit import AuditEntry, AuditReport, Verification

# What a call gives, or an awaitable of it.
Entries = TypeVar("Entries")
Checked = TypeVar("Checked")
Report = TypeVar("Report")


class AuditCalls(Generic[Entries, Checked, Report]):
    """What can be asked of the audit. A tenant is told of its own acts, the operator of all."""

    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def list(
        self,
        *,
        since: When | None = None,
        until: When | None = None,
        actor: str = "",
        act: str = "",
        object: str = "",  # as the entry calls it
        result: str = "",
        tenant: str = "",
        limit: int | None = None,
    ) -> Entries:
        """Give the entries, the newest first; at most `limit`.

        Args:
            since, until: Seconds since 1970, a date or datetime (UTC where it tells no zone), such
                a one as text, or how long ago: "24h", "7d".
            actor: The id of a key, "operator" or "server".
            act: An operation such as "models.deploy"; "keys.*" is all that begin so.
            object: What it was done to: "m/3", a key's id.
            result: "begun", "done", "failed", "abandoned" or "refused".
            tenant: Of one tenant; only the operator sees others than its own.
            limit: At most so many; all by default.
        Raises:
            InputError: a time is none.
            PermissionDeniedError: the key has no scope `audit:read`.
        """
        asked = calls.wanted(
            since=since,
            until=until,
            actor=actor,
            act=act,
            object=object,
            result=result,
            tenant=tenant,
        )
        found: Entries = self._carry_out(pages(asked, limit), self._sender)
        return found

    def verify(self) -> Checked:
        """Check the whole chain, and tell which entry was edited, removed, moved or added.

        Returns:
            A `Verification`; `intact` where nothing was.
        Raises:
            PermissionDeniedError: only the operator may.
        """
        found: Checked = self._sender.send(calls.verify())
        return found

    def report(self, month: str, *, tenant: str = "") -> Report:
        """Count a month: who did what, who was refused, which keys and scopes nobody uses.

        Args:
            month: "2026-11", in UTC.
            tenant: Of one tenant; by default of all that the key may see.
        Raises:
            InputError: it is no month.
        """
        found: Report = self._sender.send(calls.report(month, tenant))
        return found


@with_own_names
class Audit(Viewed["RawAudit"], AuditCalls["list[AuditEntry]", "Verification", "AuditReport"]):
    """The audit of a server, for threads."""

    _carry_out = staticmethod(carry_out)


class RawAudit(WithRawResponse, of=Audit):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    list = Whole(Audit.list)
    verify = Whole(Audit.verify)
    report = Whole(Audit.report)


@with_own_names
class AsyncAudit(
    Viewed["RawAsyncAudit"],
    AuditCalls[
        Coroutine[Any, Any, "list[AuditEntry]"],
        Coroutine[Any, Any, "Verification"],
        Coroutine[Any, Any, "AuditReport"],
    ],
):
    """The audit of a server, on an event loop."""

    _carry_out = staticmethod(acarry_out)


class RawAsyncAudit(WithRawResponse, of=AsyncAudit):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    list = AsyncWhole(AsyncAudit.list)
    verify = AsyncWhole(AsyncAudit.verify)
    report = AsyncWhole(AsyncAudit.report)
