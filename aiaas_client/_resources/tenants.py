"""`client.tenants` and `client.plans`, for the operator, of either client."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import tenants as calls
from aiaas_client._resources.erasure import AsyncErasure, ThreadErasure
from aiaas_client._resources.registry import pages
from aiaas_client._resources.resource import Resource, Viewed
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import AsyncWhole, Whole, WithRawResponse
from aiaas_client._send.work import acarry_out, carry_out

if TYPE_CHECKING:
    from aiaas_client.protocol.tenants import Limits, Plan, Tenant

# What a call gives, or an awaitable of it.
OneTenant = TypeVar("OneTenant")
ManyTenants = TypeVar("ManyTenants")
OnePlan = TypeVar("OnePlan")
ManyPlans = TypeVar("ManyPlans")
NoPlan = TypeVar("NoPlan")


class TenantCalls(Resource, Generic[OneTenant, ManyTenants]):
    """Who shares a server."""

    def create(
        self, name: str, *, plan: str | None = None, description: str | None = None
    ) -> OneTenant:
        """Make a tenant.

        Args:
            name: Of lower-case letters, digits and "-", at most 63; never used a second time.
            plan: The name of a plan, which says what it may use; "basic" by default.
            description: One line or more for whoever looks at it later.
        Raises:
            ConflictError: there is, or was, one of that name.
            BadRequestError: there is no such plan.
            PermissionDeniedError: this key is not the operator's.
        """
        call = calls.create_tenant(name=name, plan=plan, description=description)
        found: OneTenant = self._sender.send(call)
        return found

    def list(self, *, limit: int | None = None) -> ManyTenants:
        """Give all tenants by name, erased ones too; at most `limit`.

        Raises:
            PermissionDeniedError: this key is not the operator's.
        """
        found: ManyTenants = self._carry_out(pages(calls.tenants, limit), self._sender)
        return found

    def get(self, name: str) -> OneTenant:
        """Give one tenant.

        Raises:
            NotFoundError: there is none of that name.
        """
        found: OneTenant = self._sender.send(calls.tenant(name))
        return found

    def update(
        self, name: str, *, plan: str | None = None, description: str | None = None, etag: str = ""
    ) -> OneTenant:
        """Give a tenant another plan or description.

        Args:
            name: The tenant.
            plan: In place of the former one; it holds from the next request on.
            description: In place of the former one.
            etag: Of the tenant as it was read: it is not changed if somebody else was faster.
        Raises:
            NotFoundError: there is none of that name.
            ConflictError: it is the operator's, or erased.
            PreconditionFailedError: it is no longer as `etag` says.
        """
        call = calls.update_tenant(name, etag, plan=plan, description=description)
        found: OneTenant = self._sender.send(call)
        return found

    def suspend(self, name: str) -> OneTenant:
        """Have all keys of a tenant refused, within 5 s on every server, until `resume`.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: it is the operator's, or erased.
        """
        found: OneTenant = self._sender.send(calls.turn_tenant(name, "suspend"))
        return found

    def resume(self, name: str) -> OneTenant:
        """Let the keys of a tenant in again.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: it is the operator's, or erased.
        """
        found: OneTenant = self._sender.send(calls.turn_tenant(name, "resume"))
        return found


class PlanCalls(Resource, Generic[OnePlan, ManyPlans, NoPlan]):
    """What tenants may use, under names."""

    def create(
        self,
        name: str,
        *,
        limits: Limits | Mapping[str, Any] | None = None,
        description: str | None = None,
    ) -> OnePlan:
        """Make a plan.

        Args:
            name: Of lower-case letters, digits and "-", at most 63.
            limits: By name, as `{"requests_per_second": 200, "in_flight": 64}`; None is no limit.
                Those that are left out are those of the plan "basic".
            description: One line or more for whoever looks at it later.
        Raises:
            ConflictError: there is one of that name.
            PermissionDeniedError: this key is not the operator's.
        """
        call = calls.create_plan(name=name, limits=limits, description=description)
        found: OnePlan = self._sender.send(call)
        return found

    def list(self, *, limit: int | None = None) -> ManyPlans:
        """Give all plans by name, those that are built in too; at most `limit`."""
        found: ManyPlans = self._carry_out(pages(calls.plans, limit), self._sender)
        return found

    def get(self, name: str) -> OnePlan:
        """Give one plan.

        Raises:
            NotFoundError: there is none of that name.
        """
        found: OnePlan = self._sender.send(calls.plan(name))
        return found

    def update(
        self,
        name: str,
        *,
        limits: Limits | Mapping[str, Any] | None = None,
        description: str | None = None,
        etag: str = "",
    ) -> OnePlan:
        """Change a plan, for all tenants that have it.

        Args:
            name: The plan.
            limits: Those that are named change; the others stay.
            description: In place of the former one.
            etag: Of the plan as it was read: it is not changed if somebody else was faster.
        Raises:
            NotFoundError: there is none of that name.
            ConflictError: it is "unlimited", which is the operator's.
            PreconditionFailedError: it is no longer as `etag` says.
        """
        call = calls.update_plan(name, etag, limits=limits, description=description)
        found: OnePlan = self._sender.send(call)
        return found

    def delete(self, name: str) -> NoPlan:
        """Remove a plan; of "basic" the changes, so that it is as it was built in.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: tenants have it, or it is built in.
        """
        found: NoPlan = self._sender.send(calls.delete_plan(name))
        return found


@with_own_names
class Tenants(Viewed["RawTenants"], TenantCalls["Tenant", "list[Tenant]"], ThreadErasure):
    """The tenants of a server, for threads."""

    _carry_out = staticmethod(carry_out)


class RawTenants(WithRawResponse, of=Tenants):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    create = Whole(Tenants.create)
    list = Whole(Tenants.list)
    get = Whole(Tenants.get)
    update = Whole(Tenants.update)
    suspend = Whole(Tenants.suspend)
    resume = Whole(Tenants.resume)
    erase = Whole(Tenants.erase)
    erasure = Whole(Tenants.erasure)


@with_own_names
class Plans(Viewed["RawPlans"], PlanCalls["Plan", "list[Plan]", None]):
    """The plans of a server, for threads."""

    _carry_out = staticmethod(carry_out)


class RawPlans(WithRawResponse, of=Plans):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    create = Whole(Plans.create)
    list = Whole(Plans.list)
    get = Whole(Plans.get)
    update = Whole(Plans.update)
    delete = Whole(Plans.delete)


@with_own_names
class AsyncTenants(
    Viewed["RawAsyncTenants"],
    TenantCalls[Coroutine[Any, Any, "Tenant"], Coroutine[Any, Any, "list[Tenant]"]],
    AsyncErasure,
):
    """The tenants of a server, on an event loop."""

    _carry_out = staticmethod(acarry_out)


class RawAsyncTenants(WithRawResponse, of=AsyncTenants):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    create = AsyncWhole(AsyncTenants.create)
    list = AsyncWhole(AsyncTenants.list)
    get = AsyncWhole(AsyncTenants.get)
    update = AsyncWhole(AsyncTenants.update)
    suspend = AsyncWhole(AsyncTenants.suspend)
    resume = AsyncWhole(AsyncTenants.resume)
    erase = AsyncWhole(AsyncTenants.erase)
    erasure = AsyncWhole(AsyncTenants.erasure)


@with_own_names
class AsyncPlans(
    Viewed["RawAsyncPlans"],
    PlanCalls[
        Coroutine[Any, Any, "Plan"],
        Coroutine[Any, Any, "list[Plan]"],
        Coroutine[Any, Any, None],
    ],
):
    """The plans of a server, on an event loop."""

    _carry_out = staticmethod(acarry_out)


class RawAsyncPlans(WithRawResponse, of=AsyncPlans):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    create = AsyncWhole(AsyncPlans.create)
    list = AsyncWhole(AsyncPlans.list)
    get = AsyncWhole(AsyncPlans.get)
    update = AsyncWhole(AsyncPlans.update)
    delete = AsyncWhole(AsyncPlans.delete)
