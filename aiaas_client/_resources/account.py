"""What a client has of tenants: who they are, their keys, usage, prices and the audit.

A class for each of them is in a file of its own beside this, imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:  # named in the base classes below
    from aiaas_client._resources.audit import AsyncAudit, Audit  # noqa: F401

AnyAudit = TypeVar("AnyAudit")


class AuditOf(Generic[AnyAudit]):
    """What was done to a server."""

    _sender: Any
    _is_async: bool

    @property
    def audit(self) -> AnyAudit:
        """The server's record of acts: list it, check it, report a month."""
        from aiaas_client._resources import audit as home

        kind: Any = home.AsyncAudit if self._is_async else home.Audit
        found: AnyAudit = kind(self._sender)
        return found


class ThreadAccount(AuditOf["Audit"]):
    """Tenants, from threads."""


class AsyncAccount(AuditOf["AsyncAudit"]):
    """Tenants, from an event loop."""
