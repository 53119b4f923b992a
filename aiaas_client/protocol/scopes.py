"""What a key may be allowed to do."""

from __future__ import annotations

from typing import Final, Literal

Scope = Literal[
    "infer", "models:read", "models:write", "keys:admin", "usage:read", "audit:read", "admin"
]
SCOPES: Final[tuple[Scope, ...]] = (
    *("infer", "models:read", "models:write"),
    *("keys:admin", "usage:read", "audit:read", "admin"),
)
"""All scopes of a tenant's keys; `admin` is everything inside its tenant."""
OPERATOR_SCOPE: Final = "operator"
"""What only `admin` keys of the operator's tenant may: tenants, plans, prices, everyone's usage."""
EVERY_SCOPE: Final = frozenset({*SCOPES, OPERATOR_SCOPE, "*"})
"""The operator's."""
