"""Names of models where several tenants have some of the same name.

The server's own name of a tenant's model is `TENANT/NAME`. Those of the operator's tenant, and of
the directory, have their plain name. A name in a URL has no `/`, and one that came another way is
never found with one, so that nobody asks for another tenant's model by its full name.
"""

from __future__ import annotations

from typing import Protocol

from aiaas_server.core.events import OPERATOR, Caller


def full_name(tenant: str, name: str) -> str:
    """The server's own name of a tenant's model."""
    return name if tenant == OPERATOR.tenant else f"{tenant}/{name}"


def parted(full: str) -> tuple[str, str]:
    """Whose model it is, and how its owner calls it."""
    tenant, slash, name = full.partition("/")
    return (tenant, name) if slash else (OPERATOR.tenant, full)


def plain(full: str) -> str:
    """A model as callers are told of it."""
    return full.rpartition("/")[2]


class Names(Protocol):
    """Says which models callers mean by their names, and of which they may know."""

    def resolve(self, name: str, caller: Caller) -> str:
        """The server's own name of what a caller means by `name`: its own model, or a public one.

        Where it has none of that name, some name under which there is nothing. Must be quick.
        """
        ...

    def sees(self, full: str, caller: Caller) -> bool:
        """Whether a model is what the caller gets by its plain name."""
        ...
