"""`client.prices`, of either client: the price book."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import prices as calls
from aiaas_client._resources.registry import pages
from aiaas_client._resources.resource import Resource, Viewed
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import AsyncWhole, Whole, WithRawResponse
from aiaas_client._send.work import acarry_out, carry_out

if TYPE_CHECKING:
    from datetime import datetime

    from aiaas_client._api.prices import Amount
    from aiaas_client.protocol.prices import Price

# What a call gives, or an awaitable of it.
OnePrice = TypeVar("OnePrice")
ManyPrices = TypeVar("ManyPrices")


class PriceCalls(Resource, Generic[OnePrice, ManyPrices]):
    """What use costs. Tenants read the prices that may count for them; the operator writes."""

    def list(
        self, *, tenant: str | None = None, ended: bool = False, limit: int | None = None
    ) -> ManyPrices:
        """Give the prices that count now or later, by their numbers; at most `limit`.

        Args:
            tenant: Only those that may count for it; another than one's own is for the operator.
            ended: Those too that count no more.
            limit: The most; all by default.
        Raises:
            PermissionDeniedError: this key may not see them.
        """
        ask = partial(calls.prices, tenant, ended)
        found: ManyPrices = self._carry_out(pages(ask, limit), self._sender)
        return found

    def add(
        self,
        unit: str,
        amount: Amount,
        *,
        currency: str,
        per: int | None = None,
        model: str | None = None,
        tenant: str | None = None,
        free: int | None = None,
        valid_from: datetime | float | None = None,
    ) -> OnePrice:
        """Add a price to the book. None is ever edited: a later one takes its place.

        Of several that fit, the tenant's own counts before that of all, the nearer pattern before
        the wider, and the later before the earlier.

        Args:
            unit: What it is for: "requests", "cache_hits", "rows", "compute_seconds", "gib_in",
                "gib_out", "tokens_in", "tokens_out", "gib_months" (730 hours of a GiB),
                "job_hours", or "month", the base fee of a whole calendar month.
            amount: A `Decimal`, its text, or a whole number, for `per` units; never a float.
            currency: Three capitals, such as "EUR"; one for the whole book.
            per: 1 by default.
            model: A name, or a pattern in which `*` is any text; all by default.
            tenant: For this one only; all by default.
            free: Units that cost nothing, each month and tenant, in the order of time.
            valid_from: A time with its zone, or seconds since 1970; rounded up to the full hour.
                By default the next one. The current month can be charged anew from its beginning,
                earlier ones cannot.
        Raises:
            BadRequestError: it cannot count for anything.
            ConflictError: the book has another currency, or such a price from the same hour on.
            PermissionDeniedError: this is no operator's key.
            InputError: an argument that no price can have.
        """
        call = calls.add_price(
            unit,
            amount,
            valid_from,
            currency=currency,
            per=per,
            model=model,
            tenant=tenant,
            free=free,
        )
        found: OnePrice = self._sender.send(call)
        return found

    def end(self, price: int | Price) -> OnePrice:
        """Have a price count no more from the next full hour on; what was used stays priced.

        Args:
            price: Its number, or itself.
        Raises:
            NotFoundError: there is none.
            ConflictError: it was ended before.
            PermissionDeniedError: this is no operator's key.
        """
        found: OnePrice = self._sender.send(calls.end_price(price))
        return found


@with_own_names
class Prices(Viewed["RawPrices"], PriceCalls["Price", "list[Price]"]):
    """The price book of a server, for threads."""

    _carry_out = staticmethod(carry_out)


class RawPrices(WithRawResponse, of=Prices):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    list = Whole(Prices.list)
    add = Whole(Prices.add)
    end = Whole(Prices.end)


@with_own_names
class AsyncPrices(
    Viewed["RawAsyncPrices"],
    PriceCalls[Coroutine[Any, Any, "Price"], Coroutine[Any, Any, "list[Price]"]],
):
    """The price book of a server, on an event loop."""

    _carry_out = staticmethod(acarry_out)


class RawAsyncPrices(WithRawResponse, of=AsyncPrices):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    list = AsyncWhole(AsyncPrices.list)
    add = AsyncWhole(AsyncPrices.add)
    end = AsyncWhole(AsyncPrices.end)
