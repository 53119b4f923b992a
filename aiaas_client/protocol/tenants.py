"""Tenants, plans and keys, as the management routes tell of them.

Source: `docs/tenants.md`. A limit that is null is none.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from aiaas_client.protocol.documents import Asked, Told
from aiaas_client.protocol.scopes import Scope

TENANT_NAME: Final = r"[a-z0-9][a-z0-9-]{0,62}"
"""A tenant's name."""
OPERATOR_TENANT: Final = "default"
"""The tenant whose `admin` keys are the operator's: they see to all tenants."""
BASIC_PLAN: Final = "basic"
UNLIMITED_PLAN: Final = "unlimited"

PLAN_NAME: Final = TENANT_NAME
"""A plan's name."""
GRACE_SECONDS: Final = 24 * 3600.0
"""For which a key that was rotated is still good, by default."""

Name = Annotated[str, Field(pattern=f"^{TENANT_NAME}$")]
Line = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Text = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]
Seconds = Annotated[float, Field(gt=0, le=1e10, allow_inf_nan=False)]
Moment = Annotated[float, Field(gt=0, le=1e11, allow_inf_nan=False)]
# All numbers have two ends: what is reckoned from them has to be one, too.
Amount = Annotated[int, Field(ge=0, le=2**62)]
Count = Annotated[int, Field(gt=0, le=10**9)]
Rate = Annotated[float, Field(ge=1e-6, le=1e9, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=1e-3, le=1000, allow_inf_nan=False)]
Money = Annotated[Decimal, Field(ge=0, le=10**15, max_digits=40, allow_inf_nan=False)]


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
    burst: Count | None = 100
    rows_per_second: Rate | None = None
    in_flight: Count | None = 32
    stored_bytes: Amount | None = 20 << 30
    models: Amount | None = 100
    jobs: Amount | None = 4
    monthly_spend: Money | None = None
    weight: Weight = 1.0


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
        etag: For `If-Match`.
    """

    name: str
    limits: Limits
    description: str = ""
    built_in: bool = False
    etag: str = ""


class Tenant(Told):
    """One tenant.

    Attributes:
        state: The keys of a suspended one are refused; an erased one leaves its name.
        plan: The name of its plan.
        created: Seconds since 1970, UTC.
        etag: For `If-Match`.
    """

    name: str
    state: Literal["active", "suspended", "erased"] = "active"
    plan: str = BASIC_PLAN
    description: str = ""
    created: float = 0.0
    created_by: str = ""
    etag: str = ""


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


class Whoami(Told):
    """Whose a request is.

    Attributes:
        key_id: The key that it came with; "" where none is asked for.
        scopes: What it may do, all that `admin` stands for among them.
        plan: The name of the tenant's plan.
        limits: Those of the tenant.
        key_limits: Those of the key; null is none of its own.
        expires: When the key ends, seconds since 1970; null is never.
    """

    tenant: str
    key_id: str = ""
    scopes: tuple[str, ...] = ()
    plan: str = ""
    limits: Limits | None = None
    key_limits: Limits | None = None
    expires: float | None = None


class TenantRequest(Asked):
    """A tenant that is to be made.

    Attributes:
        name: Of lower-case letters, digits and "-", at most 63; never used a second time.
        plan: The name of a plan that there is.
    """

    name: Name
    plan: Name = BASIC_PLAN
    description: Text = ""


class TenantPatch(Asked):
    """What is to change of a tenant; members that are left out stay."""

    plan: Name | None = None
    description: Text | None = None


class PlanRequest(Asked):
    """A plan that is to be made; limits that are left out are those of `basic`."""

    name: Name
    limits: Limits = BASIC
    description: Text = ""


class PlanPatch(Asked):
    """What is to change of a plan; members, and limits, that are left out stay."""

    limits: Limits | None = None
    description: Text | None = None


class _WithEnd(Asked):
    expires: Moment | None = None
    expires_in: Seconds | None = None

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.expires is not None and self.expires_in is not None:
            raise ValueError("expires and expires_in exclude each other")
        return self


class KeyRequest(_WithEnd):
    """A key that is to be made.

    Attributes:
        scopes: What it may do; at least one, none that its maker has not.
        expires: When it ends, seconds since 1970; or
        expires_in: so many seconds from now. With neither it ends with its maker, or never.
        limits: Its own. Those that are left out are its maker's, or none.
        tenant: Whose it is; by default its maker's tenant. Another one is for the operator.
    """

    name: Line = ""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=16)]
    limits: Limits | None = None
    tenant: Name | None = None


class RotateRequest(_WithEnd):
    """A key that is to be replaced by another of the same scopes and limits.

    Attributes:
        grace: Seconds for which the old one is good; 0 ends it at once.
        expires, expires_in: Of the new one, as of a `KeyRequest`; by default as of the old one.
    """

    grace: Annotated[float, Field(ge=0, le=90 * 24 * 3600.0, allow_inf_nan=False)] = GRACE_SECONDS
