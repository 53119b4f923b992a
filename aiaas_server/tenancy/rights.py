"""What a key may give to keys that it makes: never more than it has itself. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from aiaas_client.protocol.scopes import OPERATOR_SCOPE
from aiaas_client.protocol.tenants import UNLIMITED, Limits
from aiaas_server.core.author import Author
from aiaas_server.core.errors import NotAllowed


class Maker(NamedTuple):
    """Who makes a key, changes it or ends it.

    Attributes:
        scopes: All that its own key may do.
        key_id: Its own key; "" where none is asked for.
        limits: Of its own key; None is none.
        expires: When its own key ends, seconds since 1970; None is never.
    """

    author: Author
    scopes: frozenset[str]
    key_id: str = ""
    limits: Limits | None = None
    expires: float | None = None

    @property
    def tenant(self) -> str:
        """Its own."""
        return self.author.tenant

    @property
    def is_operator(self) -> bool:
        """Whether it sees to all tenants."""
        return OPERATOR_SCOPE in self.scopes

    def sees(self, tenant: str) -> bool:
        """Whether what is of a tenant is there for it."""
        return self.is_operator or tenant == self.tenant


def check_scopes(maker: Maker, scopes: Iterable[str]) -> None:
    """See that `maker` has each of the scopes.

    Raises:
        NotAllowed: It has not.
    """
    for scope in scopes:
        if scope not in maker.scopes:
            raise NotAllowed(
                f"scopes: expected some of those of the key that asks, got '{scope}', "
                f"which it has not"
            )


def limits_inside(own: Limits | None, asked: Limits | None) -> Limits | None:
    """The limits of a key that one with limits of its `own` makes.

    Args:
        asked: Those that are set count; the others are the maker's, or none.
    Raises:
        NotAllowed: One of them is above the maker's.
    """
    if asked is None:
        return own
    base = own or UNLIMITED
    named: dict[str, Any] = {name: getattr(asked, name) for name in asked.model_fields_set}
    if named.get("requests_per_second") is not None and "burst" not in named:
        burst = max(1, math.ceil(2 * named["requests_per_second"]))
        named["burst"] = burst if base.burst is None else min(burst, base.burst)
    made = base.model_copy(update=named)
    check_limits(own, made)
    return None if made == UNLIMITED else made


def check_limits(own: Limits | None, asked: Limits | None) -> None:
    """See that no limit is above the maker's.

    Raises:
        NotAllowed: One is.
    """
    if own is None:
        return
    for name in Limits.model_fields:
        most, wanted = getattr(own, name), getattr(asked or UNLIMITED, name)
        if most is not None and (wanted is None or wanted > most):
            shown = "none" if wanted is None else wanted
            raise NotAllowed(
                f"limits.{name}: expected at most {most}, which is the limit of the key that "
                f"asks, got {shown}"
            )


def check_end(own: float | None, expires: float | None) -> None:
    """See that a key does not outlive its maker.

    Args:
        own: When the maker's ends, seconds since 1970; None is never.
    Raises:
        NotAllowed: It does.
    """
    if own is not None and (expires is None or expires > own):
        raise NotAllowed(
            f"expires: expected at most {own:.0f}, when the key that asks ends, got "
            f"{'never' if expires is None else f'{expires:.0f}'}"
        )
