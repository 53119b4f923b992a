"""`TenantNames`: whose names are whose, on a server with tenants.

A caller's own models come first. Behind them are the public ones: those of the directory, and the
operator's whose policy says so.
"""

from __future__ import annotations

from aiaas_server.core.events import OPERATOR, Caller


class TenantNames:
    """A `core.names.Names`, kept by `Reconcile`; read from any thread."""

    def __init__(self) -> None:
        self._own: set[str] = set()  # full names of the models of tenants
        self._private: set[str] = set()  # of the operator's models that nobody else may know of

    def put(self, full: str, *, public: bool) -> None:
        """A model is in the registry.

        Args:
            public: Whether all tenants may call it; only the operator's ever are.
        """
        if "/" in full:
            self._own.add(full)
        elif public:
            self._private.discard(full)
        else:
            self._private.add(full)

    def drop(self, full: str) -> None:
        """It is the registry's no more; whatever has its name now is the directory's."""
        self._own.discard(full)
        self._private.discard(full)

    def is_right(self, full: str, *, public: bool) -> bool:
        """Whether this is what was put down of it."""
        return full in self._own if "/" in full else (full in self._private) is not public

    def resolve(self, name: str, caller: Caller) -> str:
        """As `core.names.Names`."""
        tenant = caller.identity.tenant
        if tenant == OPERATOR.tenant:
            return name if "/" not in name else f"/{name}"
        own = f"{tenant}/{name}"
        if own in self._own or "/" in name or name in self._private:
            return own if "/" not in name else f"/{name}"
        return name

    def sees(self, full: str, caller: Caller) -> bool:
        """As `core.names.Names`."""
        tenant = caller.identity.tenant
        owner, slash, _ = full.partition("/")
        if slash:
            return owner == tenant
        if tenant == OPERATOR.tenant:
            return True
        return full not in self._private and f"{tenant}/{full}" not in self._own
