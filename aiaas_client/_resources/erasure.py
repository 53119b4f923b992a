"""Erasing tenants, for threads and tasks: a part of `client.tenants`."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import erasure as calls

if TYPE_CHECKING:
    from aiaas_client.protocol.erasure import TenantErasure  # named in the base classes below

AnyErasure = TypeVar("AnyErasure")


class ErasureCalls(Generic[AnyErasure]):
    """What ends a tenant."""

    _sender: Any

    def erase(self, tenant: str, *, backups: Sequence[str] = ()) -> AnyErasure:
        """Erase a tenant with all that it has; there is no way back, and the name is used up.

        Its keys are refused when this returns, on every process within five seconds. The rest goes
        on by itself: the keys of its artefacts first, then their bytes, and all rows but usage
        totals, statements and the audit. Asked again, this tells how far it is.

        Args:
            tenant: Its name.
            backups: Lines for the certificate: where backups lie, and when these are gone.
        Returns:
            A `TenantErasure`; `erasure` has its certificate once it is done.
        Raises:
            NotFoundError: there is no such tenant.
            PermissionDeniedError: this key is not the operator's.
        """
        found: AnyErasure = self._sender.send(calls.erase(tenant, backups))
        return found

    def erasure(self, tenant: str) -> AnyErasure:
        """Tell how far the erasure of a tenant is, with the signed certificate of what went.

        Raises:
            NotFoundError: nobody has asked for it.
        """
        found: AnyErasure = self._sender.send(calls.erasure(tenant))
        return found


class ThreadErasure(ErasureCalls["TenantErasure"]):
    """What ends a tenant, from threads."""


class AsyncErasure(ErasureCalls[Coroutine[Any, Any, "TenantErasure"]]):
    """What ends a tenant, from an event loop."""
