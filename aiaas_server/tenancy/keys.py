"""Keys: made, listed, rotated, revoked. A key makes no key that may do more than it may itself."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from aiaas_client.protocol.tenants import (
    Key,
    KeyRequest,
    Limits,
    MadeKey,
    RotateRequest,
    Whoami,
)
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict, InvalidInput, NotAllowed
from aiaas_server.core.events import Identity
from aiaas_server.state.database import Database
from aiaas_server.tenancy.clock import SteadyClock
from aiaas_server.tenancy.identities import Identities
from aiaas_server.tenancy.key_rows import (
    check_admin_stays,
    check_maker,
    check_room,
    end_key,
    find_key,
    page_of_keys,
)
from aiaas_server.tenancy.rights import (
    Maker,
    check_end,
    check_limits,
    check_scopes,
    limits_inside,
)
from aiaas_server.tenancy.rows import add_key, find_tenant, key_of
from aiaas_server.tenancy.secrets import NewKey, hashed, new_key

NO_TENANTS: Final = "this server asks for no keys: start it with --tenants to have some"


class Keys:
    """The keys of all tenants.

    Args:
        pepper: What keys are hashed with.
        makes: Whether keys are of any use on this server.
    """

    def __init__(
        self,
        database: Database,
        identities: Identities,
        pepper: bytes,
        clock: SteadyClock,
        *,
        makes: bool,
    ) -> None:
        self._database = database
        self._identities = identities
        self._pepper = pepper
        self._clock = clock
        self._makes = makes

    def maker(self, author: Author, identity: Identity) -> Maker:
        """Who asks, with what its own key may use.

        Raises:
            NotAllowed: Its key has ended meanwhile.
        """
        if not identity.key_id:
            return Maker(author, identity.scopes)
        known = self._identities.directory.keys.get(identity.key_id)
        if known is None:  # it was good when the request came in
            raise NotAllowed("the key that asks has ended")
        return Maker(author, identity.scopes, identity.key_id, known.limits, known.expires)

    async def create(self, maker: Maker, asked: KeyRequest) -> MadeKey:
        """Make one.

        Raises:
            NotAllowed: It could do more than its maker, or would be another tenant's.
            InvalidInput: It would have ended already, or there is no such tenant.
            Conflict: This server asks for no keys.
            QuotaExceeded: The tenant has as many as it may.
        """
        self._check_makes()
        tenant = maker.tenant if asked.tenant is None else asked.tenant
        if not maker.sees(tenant):
            raise NotAllowed("tenant: expected none, or that of the key that asks")
        check_scopes(maker, asked.scopes)
        limits = limits_inside(maker.limits, asked.limits)
        expires = self._end(asked, maker.expires)
        check_end(maker.expires, expires)
        made = new_key()

        def add(connection: Connection) -> Key:
            check_maker(connection, maker, self._clock.now())
            if find_tenant(connection, tenant) is None:  # only the operator comes here with one
                raise InvalidInput(f"tenant: there is no tenant '{tenant}'")
            return self._add(
                connection, maker, made, tenant, asked.name, asked.scopes, limits, expires
            )

        return _told(await self._database.write(add), made)

    async def page(self, maker: Maker, tenant: str, after: str, limit: int) -> list[Key]:
        """Some keys of a tenant, the newest first; of the maker's where `tenant` is "".

        Raises:
            NotAllowed: Another tenant's, which is for the operator.
            InvalidInput: `after` is no key of the tenant.
        """
        if tenant and not maker.sees(tenant):
            raise NotAllowed("tenant: expected none, or that of the key that asks")
        whose, now = tenant or maker.tenant, self._clock.now()
        rows = await self._database.read(lambda c: page_of_keys(c, whose, after, limit))
        return [key_of(row, now) for row in rows]

    async def get(self, maker: Maker, key: str) -> Key:
        """One of them.

        Raises:
            NotFound: There is none, or it is another tenant's.
        """
        row = await self._database.read(lambda c: find_key(c, maker, key))
        return key_of(row, self._clock.now())

    async def rotate(self, maker: Maker, key: str, asked: RotateRequest) -> MadeKey:
        """Make a key of the same scopes and limits; the old one goes on for a grace time.

        Raises:
            NotFound: There is none, or it is another tenant's.
            NotAllowed: It may do more than its maker, or would outlive it.
            Conflict: It has ended or was rotated before; or the tenant would be left without an
                admin key; or this server asks for no keys.
        """
        self._check_makes()
        made = new_key()
        return _told(
            await self._database.write(lambda c: self._rotate(c, maker, key, asked, made)), made
        )

    async def revoke(self, maker: Maker, key: str) -> Key:
        """End one; one that was revoked before stays as it is.

        Raises:
            NotFound: There is none, or it is another tenant's.
            NotAllowed: It may do more than the key that asks.
            Conflict: It is the last admin key of its tenant.
        """
        return await self._database.write(lambda c: self._revoke(c, maker, key), spares_room=True)

    def whoami(self, identity: Identity) -> Whoami:
        """Whose a request is, from memory."""
        directory = self._identities.directory
        known = directory.keys.get(identity.key_id)
        return Whoami(
            tenant=identity.tenant,
            key_id=identity.key_id,
            scopes=tuple(sorted(identity.scopes - {"*"})),
            plan=identity.plan,
            limits=directory.limits.get(identity.tenant),
            key_limits=None if known is None else known.limits,
            expires=None if known is None else known.expires,
        )

    def _check_makes(self) -> None:
        if not self._makes:
            raise Conflict(NO_TENANTS)

    def _end(self, asked: KeyRequest | RotateRequest, default: float | None) -> float | None:
        now = self._clock.now()
        if asked.expires_in is not None:
            return now + asked.expires_in
        if asked.expires is None:
            return default
        if asked.expires <= now:
            raise InvalidInput(
                f"expires: expected a time to come, in seconds since 1970, got {asked.expires:.0f}"
            )
        return asked.expires

    def _rotate(
        self, connection: Connection, maker: Maker, key: str, asked: RotateRequest, made: NewKey
    ) -> Key:
        now = self._clock.now()
        check_maker(connection, maker, now)
        row = find_key(connection, maker, key)
        state = key_of(row, now).state
        if state != "active":
            raise Conflict(f"key '{row.id}' is {state}: it cannot be rotated")
        if row.replaced_by:
            raise Conflict(f"key '{row.id}' was rotated before, to '{row.replaced_by}'")
        check_scopes(maker, row.scopes)
        limits = None if row.limits is None else Limits(**row.limits)
        check_limits(maker.limits, limits)
        expires = self._end(asked, row.expires)
        check_end(maker.expires, expires)
        told = self._add(connection, maker, made, row.tenant, row.name, row.scopes, limits, expires)
        check_admin_stays(connection, maker, row, now)
        ends = now + asked.grace
        ends = ends if row.expires is None else min(ends, row.expires)
        ended = {"expires": ends} if asked.grace else {"revoked": now}
        end_key(connection, row, replaced_by=made.id, **ended)
        return told

    def _revoke(self, connection: Connection, maker: Maker, key: str) -> Key:
        now = self._clock.now()
        check_maker(connection, maker, now)
        row = find_key(connection, maker, key)
        if row.revoked is None:
            check_scopes(maker, row.scopes)
            if key_of(row, now).state == "active":
                check_admin_stays(connection, maker, row, now)
            end_key(connection, row, revoked=now)
        return key_of(find_key(connection, maker, key), now)

    def _add(
        self,
        connection: Connection,
        maker: Maker,
        made: NewKey,
        tenant: str,
        name: str,
        scopes: tuple[str, ...] | list[str],
        limits: Limits | None,
        expires: float | None,
    ) -> Key:
        check_room(connection, tenant, self._clock.now())
        return add_key(
            connection,
            maker.author,
            key=made.id,
            tenant=tenant,
            digest=hashed(self._pepper, made.text.encode()),
            name=name,
            scopes=sorted(set(scopes)),
            limits=limits,
            expires=expires,
        )


def _told(key: Key, made: NewKey) -> MadeKey:
    return MadeKey(**key.model_dump(), secret=made.text)
