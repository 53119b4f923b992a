"""Tenants, plans and keys, as the management routes tell of them.

Source: `docs/tenants.md`. A limit that is null is none.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import Field

from aiaas_client.protocol.documents import Asked, Told

TENANT_NAME: Final = r"[a-z0-9][a-z0-9-]{0,62}"
"""A tenant's name."""
OPERATOR_TENANT: Final = "default"
"""The tenant whose `admin` keys are the operator's: they see to all tenants."""
BASIC_PLAN: Final = "basic"
UNLIMITED_PLAN: Final = "unlimited"

Amount = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Money = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class Limits(Asked):
    """What a tenant, or one of its keys, may use.

    Attributes:
        requests_per_second: Over time; `burst` may come at once.
        rows_per_second: Items of requests, over time.
        in_flight: Requests at one time.
        stored_bytes: Of versions, data sets and files together.
        models: Names in the registry.
        jobs: Queued or running at one time.
        monthly_spend: In the currency of the price book, for a calendar month of UTC.
        weight: Its part of a busy machine, beside those of the others.
    """

    requests_per_second: Rate | None = 50.0
    burst: Annotated[int, Field(gt=0)] | None = 100
    rows_per_second: Rate | None = None
    in_flight: Annotated[int, Field(gt=0)] | None = 32
    stored_bytes: Amount | None = 20 << 30
    models: Amount | None = 100
    jobs: Amount | None = 4
    monthly_spend: Money | None = None
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0


BASIC: Final = Limits()
"""Of the plan `basic`, where the operator has not made it anew."""
UNLIMITED: Final = Limits(
    requests_per_second=None,
    burst=None,
    in_flight=None,
    stored_bytes=None,
    models=None,
    jobs=None,
)
"""Of the plan `unlimited`, which is the operator's."""


class Plan(Told):
    """Limits under a name.

    Attributes:
        built_in: It is there without anybody having made it.
    """

    name: str
    limits: Limits
    description: str = ""
    built_in: bool = False


class Tenant(Told):
    """One tenant.

    Attributes:
        state: The keys of a suspended one are refused; an erased one leaves its name.
        plan: The name of its plan.
        created: Seconds since 1970, UTC.
    """

    name: str
    state: Literal["active", "suspended", "erased"] = "active"
    plan: str = BASIC_PLAN
    description: str = ""
    created: float = 0.0
    created_by: str = ""


class Key(Told):
    """One key, without its secret.

    Attributes:
        scopes: What it may do.
        limits: Its own, inside those of its tenant; null is none of its own.
        expires: When it ends; a key that was rotated ends when its grace time does.
        last_used: To the minute; null if never.
        replaced_by: The id of the key that it was rotated to.
        state: `revoked` and `expired` ones are refused.
    """

    id: str
    tenant: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    limits: Limits | None = None
    state: Literal["active", "revoked", "expired"] = "active"
    created: float = 0.0
    created_by: str = ""
    expires: float | None = None
    last_used: float | None = None
    replaced_by: str = ""


class MadeKey(Key):
    """A key that was just made.

    Attributes:
        secret: The whole key, as it is sent. Shown this once; the server keeps a hash of it.
    """

    secret: str

    def __repr_args__(self):  # type: ignore[no-untyped-def]  # as pydantic's
        """All but the secret."""
        return [(name, value) for name, value in super().__repr_args__() if name != "secret"]
