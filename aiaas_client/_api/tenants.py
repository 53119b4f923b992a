"""What to send to `/api/v1/tenants`, `/plans`, `/keys` and `/me`, and how to read the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiaas_client import _errors as errors
from aiaas_client._api.call import Call
from aiaas_client._api.documents import document_call, made, page_call, with_query
from aiaas_client._api.management import (
    NO_CONTENT,
    PAGE_ITEMS,
    ROOT,
    Part,
    nothing,
    registry_call,
)

if TYPE_CHECKING:
    from aiaas_client.protocol.tenants import Key, MadeKey, Plan, Tenant, Whoami

End = datetime | timedelta | float
"""When a key ends: a time with its zone, or how long from now, as a `timedelta` or seconds."""


def whoami() -> Call[Whoami]:
    """`GET /api/v1/me`."""
    return document_call("GET", "tenants.Whoami", f"{ROOT}/me")


# Tenants


def tenants(after: str | None = None, limit: int = PAGE_ITEMS) -> Call[Part]:
    """`GET /api/v1/tenants`: by name."""
    return page_call("tenants.Tenant", f"{ROOT}/tenants", after, limit)


def tenant(name: str) -> Call[Tenant]:
    """`GET /api/v1/tenants/{t}`."""
    return document_call("GET", "tenants.Tenant", _path("tenants", name))


def create_tenant(**members: Any) -> Call[Tenant]:
    """`POST /api/v1/tenants`; members that are None are left out.

    Raises:
        InputError: one that it cannot have.
    """
    body = made("tenants.TenantRequest", _given(members))
    return document_call("POST", "tenants.Tenant", f"{ROOT}/tenants", body=body)


def update_tenant(name: str, etag: str, **members: Any) -> Call[Tenant]:
    """`PATCH /api/v1/tenants/{t}`; members that are None stay as they are.

    Raises:
        InputError: none, or one that it cannot have.
    """
    body = made("tenants.TenantPatch", _some(members))
    call = document_call("PATCH", "tenants.Tenant", _path("tenants", name), body=body)
    return _if_match(call, etag)


def turn_tenant(name: str, act: str) -> Call[Tenant]:
    """`POST /api/v1/tenants/{t}/suspend`, or `/resume`."""
    return document_call("POST", "tenants.Tenant", _path("tenants", name, f"/{act}"))


# Plans


def plans(after: str | None = None, limit: int = PAGE_ITEMS) -> Call[Part]:
    """`GET /api/v1/plans`: by name."""
    return page_call("tenants.Plan", f"{ROOT}/plans", after, limit)


def plan(name: str) -> Call[Plan]:
    """`GET /api/v1/plans/{p}`."""
    return document_call("GET", "tenants.Plan", _path("plans", name))


def create_plan(**members: Any) -> Call[Plan]:
    """`POST /api/v1/plans`; members that are None are left out.

    Raises:
        InputError: one that it cannot have.
    """
    body = made("tenants.PlanRequest", _given(members))
    return document_call("POST", "tenants.Plan", f"{ROOT}/plans", body=body)


def update_plan(name: str, etag: str, **members: Any) -> Call[Plan]:
    """`PATCH /api/v1/plans/{p}`; members that are None, and limits not named, stay as they are.

    Raises:
        InputError: none, or one that it cannot have.
    """
    body = made("tenants.PlanPatch", _some(members))
    return _if_match(document_call("PATCH", "tenants.Plan", _path("plans", name), body=body), etag)


def delete_plan(name: str) -> Call[None]:
    """`DELETE /api/v1/plans/{p}`."""
    return registry_call(
        "DELETE", _path("plans", name), nothing, accept=NO_CONTENT, retryable=False
    )


# Keys


def keys(tenant: str | None, after: str | None = None, limit: int = PAGE_ITEMS) -> Call[Part]:
    """`GET /api/v1/keys`: the newest first."""
    return page_call("tenants.Key", f"{ROOT}/keys", after, limit, {"tenant": tenant})


def key(key: Any) -> Call[Key]:
    """`GET /api/v1/keys/{k}`."""
    return document_call("GET", "tenants.Key", _path("keys", _id(key)))


def create_key(
    name: str,
    scopes: Iterable[str],
    expires: End | None,
    limits: Any,
    tenant: str | None,
) -> Call[MadeKey]:
    """`POST /api/v1/keys`.

    Raises:
        InputError: an argument that no key can have.
    """
    if isinstance(scopes, str):
        raise errors.InputError(f"scopes: expected a list of scopes, got the text {scopes[:64]!r}")
    members = {"scopes": tuple(scopes), "limits": limits, "tenant": tenant, **end_of(expires)}
    body = made("tenants.KeyRequest", {"name": name, **_given(members)})
    return document_call("POST", "tenants.MadeKey", f"{ROOT}/keys", body=body)


def rotate_key(key: Any, grace: timedelta | float | None, expires: End | None) -> Call[MadeKey]:
    """`POST /api/v1/keys/{k}/rotate`.

    Raises:
        InputError: an argument that it cannot have.
    """
    seconds = grace.total_seconds() if isinstance(grace, timedelta) else grace
    body = made("tenants.RotateRequest", _given({"grace": seconds, **end_of(expires)}))
    return document_call("POST", "tenants.MadeKey", _path("keys", _id(key), "/rotate"), body=body)


def revoke_key(key: Any) -> Call[Key]:
    """`DELETE /api/v1/keys/{k}`; a second time it changes nothing."""
    return document_call("DELETE", "tenants.Key", _path("keys", _id(key)), retryable=True)


def end_of(expires: End | None) -> dict[str, float]:
    """When a key ends, as it is sent.

    Raises:
        InputError: it is no time to come.
    """
    if expires is None:
        return {}
    if isinstance(expires, datetime):
        if expires.tzinfo is None:
            raise errors.InputError(
                "expires: expected a time with its zone, as datetime(…, tzinfo=UTC), got one "
                "without"
            )
        return {"expires": expires.timestamp()}
    if isinstance(expires, timedelta):
        return {"expires_in": expires.total_seconds()}
    if type(expires) in (int, float):
        return {"expires_in": float(expires)}
    raise errors.InputError(
        f"expires: expected a datetime, a timedelta or seconds, got {type(expires).__name__}"
    )


def _path(kind: str, name: object, suffix: str = "") -> str:
    if not isinstance(name, str) or name in ("", ".", ".."):
        raise errors.InputError(f"{kind}: expected the name of one, got {str(name)[:64]!r}")
    return with_query(f"{ROOT}/{kind}/{quote(name, safe='')}{suffix}", {})


def _id(key: Any) -> str:
    """The id of a key, of a document too; a whole key is not sent in a path.

    Raises:
        InputError: it is none.
    """
    found = key if isinstance(key, str) else getattr(key, "id", None)
    if not isinstance(found, str) or found.lower().startswith("aias_"):
        got = "a whole key" if isinstance(found, str) else type(key).__name__
        raise errors.InputError(f"key: expected its id, twelve characters, got {got}")
    return found


def _given(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _some(members: Mapping[str, Any]) -> dict[str, Any]:
    found = _given(members)
    if not found:
        raise errors.InputError(f"update: expected one of {', '.join(members)}")
    return found


def _if_match(call: Call[Any], etag: str) -> Call[Any]:
    if not etag:
        return call
    return replace(call, headers=(*call.headers, (b"If-Match", f'"{etag}"'.encode("latin-1"))))
