"""The tenants, plans and keys of a fake server, in memory.

It keeps them and answers as a server does, but asks for no key itself: `FakeServer(api_key=…)`
does. Whoever calls is the operator.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from typing import TypeVar

from aiaas_client.protocol.scopes import OPERATOR_SCOPE, SCOPES
from aiaas_client.protocol.tenants import (
    BASIC,
    BASIC_PLAN,
    OPERATOR_TENANT,
    UNLIMITED,
    UNLIMITED_PLAN,
    Key,
    KeyRequest,
    MadeKey,
    Plan,
    PlanPatch,
    PlanRequest,
    RotateRequest,
    Tenant,
    TenantPatch,
    TenantRequest,
    Whoami,
)
from aiaas_client.testing.answers import asked, page, told, wrong_method
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.rows import BY
from aiaas_client.testing.state import Answer, RecordedRequest

Edited = TypeVar("Edited", Tenant, Plan)


class FakeTenants:
    """Who shares a fake server; `server.tenants`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._edits = 0
        basic = Plan(name=BASIC_PLAN, limits=BASIC, built_in=True)
        unlimited = Plan(name=UNLIMITED_PLAN, limits=UNLIMITED, built_in=True)
        self._plans = {BASIC_PLAN: self._tagged(basic), UNLIMITED_PLAN: self._tagged(unlimited)}
        operator = Tenant(name=OPERATOR_TENANT, plan=UNLIMITED_PLAN, description="the operator")
        self._tenants = {OPERATOR_TENANT: self._tagged(operator)}
        self._keys: dict[str, Key] = {}

    # For tests

    def get(self, name: str) -> Tenant:
        """One tenant."""
        return _found(self._tenants, name, "tenant")

    def key(self, key: str) -> Key:
        """One key, by its id."""
        return self._ended(_found(self._keys, key, "key"))

    # Routes

    def answer(self, request: RecordedRequest, rest: Sequence[str]) -> Answer:
        """Answer one request; `rest` is its path behind `/api/v1`."""
        with self._lock:
            match rest:
                case ["me"] if request.method == "GET":
                    return told(self._whoami())
                case ["tenants", *more]:
                    return self._tenant(request, more)
                case ["plans", *more]:
                    return self._plan(request, more)
                case ["keys", *more]:
                    return self._key(request, more)
        raise wrong_method()

    def _whoami(self) -> Whoami:
        scopes = tuple(sorted((*SCOPES, OPERATOR_SCOPE)))
        return Whoami(tenant=OPERATOR_TENANT, scopes=scopes, plan=UNLIMITED_PLAN, limits=UNLIMITED)

    def _tenant(self, request: RecordedRequest, rest: Sequence[str]) -> Answer:
        match request.method, rest:
            case "GET", []:
                every = [self._tenants[name] for name in sorted(self._tenants)]
                return page(request, every, "name")
            case "POST", []:
                return self._create_tenant(asked(request, TenantRequest))
            case "GET", [name]:
                return _tagged_answer(self.get(name))
            case "PATCH", [name]:
                found = self._changeable(name)
                _check_etag(request, found)
                patch = asked(request, TenantPatch).model_dump(exclude_none=True)
                if "plan" in patch:
                    self._check_plan(patch["plan"])
                return self._keep_tenant(found.model_copy(update=patch))
            case "POST", [name, "suspend" | "resume" as act]:
                state = "suspended" if act == "suspend" else "active"
                found = self._changeable(name)
                return self._keep_tenant(found.model_copy(update={"state": state}))
        raise wrong_method()

    def _create_tenant(self, request: TenantRequest) -> Answer:
        if request.name in self._tenants:
            text = f"tenant '{request.name}' exists already; a name is never used twice"
            raise FakeError(409, text, code="conflict")
        self._check_plan(request.plan)
        made = Tenant(**request.model_dump(), created=time.time(), created_by=BY)
        return self._keep_tenant(made, 201)

    def _keep_tenant(self, tenant: Tenant, status: int = 200) -> Answer:
        self._tenants[tenant.name] = found = self._tagged(tenant)
        return _tagged_answer(found, status)

    def _changeable(self, name: str) -> Tenant:
        found = self.get(name)
        if name == OPERATOR_TENANT:
            text = f"tenant '{name}' is the operator's, and stays as it is"
            raise FakeError(409, text, code="conflict")
        return found

    def _check_plan(self, name: str) -> None:
        if name not in self._plans:
            raise FakeError(400, f"plan: there is no plan {name!r}; `aiaas plans list` lists them")

    def _plan(self, request: RecordedRequest, rest: Sequence[str]) -> Answer:
        match request.method, rest:
            case "GET", []:
                every = [self._plans[name] for name in sorted(self._plans)]
                return page(request, every, "name")
            case "POST", []:
                wanted = asked(request, PlanRequest)
                if wanted.name in self._plans:
                    raise FakeError(409, f"plan '{wanted.name}' exists already", code="conflict")
                return self._keep_plan(Plan(**wanted.model_dump()), 201)
            case "GET", [name]:
                return _tagged_answer(_found(self._plans, name, "plan"))
            case "PATCH", [name]:
                found = _found(self._plans, name, "plan")
                _check_etag(request, found)
                return self._keep_plan(_patched(found, asked(request, PlanPatch)))
            case "DELETE", [name]:
                if _found(self._plans, name, "plan").built_in:
                    raise FakeError(409, f"plan '{name}' is built in", code="conflict")
                if users := [one.name for one in self._tenants.values() if one.plan == name]:
                    text = f"plan '{name}' is in use by {', '.join(users)}"
                    raise FakeError(409, text, code="conflict")
                del self._plans[name]
                return Answer(204, b"")
        raise wrong_method()

    def _keep_plan(self, plan: Plan, status: int = 200) -> Answer:
        self._plans[plan.name] = found = self._tagged(plan)
        return _tagged_answer(found, status)

    def _key(self, request: RecordedRequest, rest: Sequence[str]) -> Answer:
        match request.method, rest:
            case "GET", []:
                tenant = request.query.get("tenant") or OPERATOR_TENANT
                own = [one for one in self._keys.values() if one.tenant == tenant]
                return page(request, [self._ended(one) for one in own[::-1]], "id")
            case "POST", []:
                return self._create_key(asked(request, KeyRequest))
            case "GET", [key]:
                return told(self.key(key))
            case "POST", [key, "rotate"]:
                return self._rotate(self.key(key), asked(request, RotateRequest))
            case "DELETE", [key]:
                self._keys[key] = self.key(key).model_copy(update={"state": "revoked"})
                return told(self._keys[key])
        raise wrong_method()

    def _create_key(self, request: KeyRequest) -> Answer:
        tenant = request.tenant or OPERATOR_TENANT
        if tenant not in self._tenants:
            raise FakeError(400, f"tenant: there is no tenant '{tenant}'")
        scopes = tuple(sorted(set(request.scopes)))
        made = _drawn().model_copy(
            update={
                "tenant": tenant,
                "name": request.name,
                "scopes": scopes,
                "limits": request.limits,
                "expires": _end(request, None),
            }
        )
        return self._keep_key(made)

    def _rotate(self, old: Key, request: RotateRequest) -> Answer:
        if old.state != "active" or old.replaced_by:
            text = f"key '{old.id}' has ended or was rotated before"
            raise FakeError(409, text, code="conflict")
        same = {name: getattr(old, name) for name in ("tenant", "name", "scopes", "limits")}
        made = _drawn().model_copy(update={**same, "expires": _end(request, old.expires)})
        ends = time.time() + request.grace
        ends = ends if old.expires is None else min(ends, old.expires)
        ended = {"replaced_by": made.id, "expires": ends}
        self._keys[old.id] = old.model_copy(update=ended)
        return self._keep_key(made)

    def _keep_key(self, made: MadeKey) -> Answer:
        self._keys[made.id] = Key(**made.model_dump())
        return told(made, 201)

    def _ended(self, key: Key) -> Key:
        over = key.state == "active" and key.expires is not None and key.expires <= time.time()
        return key.model_copy(update={"state": "expired"}) if over else key

    def _tagged(self, document: Edited) -> Edited:
        self._edits += 1
        return document.model_copy(update={"etag": str(self._edits)})


Kept = TypeVar("Kept", Tenant, Plan, Key)


def _found(every: dict[str, Kept], name: str, what: str) -> Kept:
    if name not in every:
        raise FakeError(404, f"there is no {what} '{name[:64]}'")
    return every[name]


def _patched(plan: Plan, patch: PlanPatch) -> Plan:
    limits, description = plan.limits, plan.description
    if patch.limits is not None:
        named = patch.limits.model_fields_set
        limits = limits.model_copy(update={one: getattr(patch.limits, one) for one in named})
    if patch.description is not None:
        description = patch.description
    return plan.model_copy(update={"limits": limits, "description": description})


def _check_etag(request: RecordedRequest, document: Tenant | Plan) -> None:
    expected = request.headers.get("if-match", "*").strip('"')
    if expected not in ("*", document.etag):
        raise FakeError(412, "it was changed since it was read", code="precondition_failed")


def _tagged_answer(document: Tenant | Plan, status: int = 200) -> Answer:
    return told(document, status, etag=document.etag)


def _end(request: KeyRequest | RotateRequest, default: float | None) -> float | None:
    if request.expires_in is not None:
        return time.time() + request.expires_in
    return default if request.expires is None else request.expires


def _drawn() -> MadeKey:
    name = secrets.token_hex(6)
    secret = f"aias_{name}_{secrets.token_urlsafe(32)}AAAAAA"
    return MadeKey(id=name, tenant="", created=time.time(), created_by=BY, secret=secret)
