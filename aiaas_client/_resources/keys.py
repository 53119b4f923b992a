"""`client.keys`, of either client: make, list, rotate, revoke."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import tenants as calls
from aiaas_client._resources.registry import pages
from aiaas_client._resources.resource import Resource, Viewed
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import AsyncWhole, Whole, WithRawResponse
from aiaas_client._send.work import acarry_out, carry_out

if TYPE_CHECKING:
    from aiaas_client._api.tenants import End
    from aiaas_client.protocol.tenants import Key, Limits, MadeKey

# What a call gives, or an awaitable of it.
OneKey = TypeVar("OneKey")
ManyKeys = TypeVar("ManyKeys")
NewKey = TypeVar("NewKey")


class KeyCalls(Resource, Generic[OneKey, ManyKeys, NewKey]):
    """The keys of a tenant; of any, for the operator."""

    def create(
        self,
        name: str = "",
        *,
        scopes: Iterable[str],
        expires: End | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        tenant: str | None = None,
    ) -> NewKey:
        """Make a key, which may do nothing that the key of this client may not.

        Args:
            name: For whoever looks at it later.
            scopes: What it may do: "infer", "models:read", "models:write", "keys:admin",
                "usage:read", "audit:read", or "admin", which is all of them.
            expires: When it ends: a `datetime` with its zone, a `timedelta`, or seconds from now.
                By default when the key of this client does, or never.
            limits: Its own, inside those of its tenant, as `{"requests_per_second": 5}`.
            tenant: Whose it is; another tenant than one's own is for the operator.
        Returns:
            The key, whose `secret` is what is sent. It is told this once; keep it.
        Raises:
            PermissionDeniedError: it could do more than the key of this client.
            BadRequestError: there is no such tenant, or its end is over.
            ConflictError: this server asks for no keys.
            InputError: an argument that no key can have.
        """
        found: NewKey = self._sender.send(calls.create_key(name, scopes, expires, limits, tenant))
        return found

    def list(self, *, tenant: str | None = None, limit: int | None = None) -> ManyKeys:
        """Give the keys of a tenant, the newest first, revoked ones too; at most `limit`.

        Args:
            tenant: Another tenant than one's own, for the operator.
            limit: The most; all by default.
        Raises:
            PermissionDeniedError: this key may not see to keys, or not to those.
        """
        found: ManyKeys = self._carry_out(pages(partial(calls.keys, tenant), limit), self._sender)
        return found

    def get(self, key: str | Key) -> OneKey:
        """Give one key by its id, without its secret: its scopes, its end, when it was last used.

        Raises:
            NotFoundError: there is none, or it is another tenant's.
        """
        found: OneKey = self._sender.send(calls.key(key))
        return found

    def rotate(
        self,
        key: str | Key,
        *,
        grace: timedelta | float | None = None,
        expires: End | None = None,
    ) -> NewKey:
        """Make a key of the same scopes and limits in place of one, which goes on for a while.

        Args:
            key: The id of the old one.
            grace: A `timedelta` or seconds for which the old one is good; a day by default, 0 ends
                it at once.
            expires: When the new one ends; by default when the old one would have.
        Returns:
            The new key with its `secret`, told this once.
        Raises:
            NotFoundError: there is none, or it is another tenant's.
            PermissionDeniedError: it may do more than the key of this client.
            ConflictError: it has ended or was rotated before.
        """
        found: NewKey = self._sender.send(calls.rotate_key(key, grace, expires))
        return found

    def revoke(self, key: str | Key) -> OneKey:
        """End a key for good: it is refused within 5 s on every server. Twice is as once.

        Raises:
            NotFoundError: there is none, or it is another tenant's.
            PermissionDeniedError: it may do more than the key of this client.
            ConflictError: it is the last admin key of its tenant.
        """
        found: OneKey = self._sender.send(calls.revoke_key(key))
        return found


@with_own_names
class Keys(Viewed["RawKeys"], KeyCalls["Key", "list[Key]", "MadeKey"]):
    """The keys of a server, for threads."""

    _carry_out = staticmethod(carry_out)


class RawKeys(WithRawResponse, of=Keys):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    create = Whole(Keys.create)
    list = Whole(Keys.list)
    get = Whole(Keys.get)
    rotate = Whole(Keys.rotate)
    revoke = Whole(Keys.revoke)


@with_own_names
class AsyncKeys(
    Viewed["RawAsyncKeys"],
    KeyCalls[
        Coroutine[Any, Any, "Key"],
        Coroutine[Any, Any, "list[Key]"],
        Coroutine[Any, Any, "MadeKey"],
    ],
):
    """The keys of a server, on an event loop."""

    _carry_out = staticmethod(acarry_out)


class RawAsyncKeys(WithRawResponse, of=AsyncKeys):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    create = AsyncWhole(AsyncKeys.create)
    list = AsyncWhole(AsyncKeys.list)
    get = AsyncWhole(AsyncKeys.get)
    rotate = AsyncWhole(AsyncKeys.rotate)
    revoke = AsyncWhole(AsyncKeys.revoke)
