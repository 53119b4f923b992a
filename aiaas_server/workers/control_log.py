"""What a worker that starts later must be told: the orders so far, each superseded one left out."""

from __future__ import annotations

from dataclasses import replace

from aiaas_server.http.orders import SETTINGS, Order

Key = tuple[str, str]


class ControlLog:
    """The orders that all workers have carried out."""

    def __init__(self) -> None:
        self._orders: dict[Key, Order] = {}

    def orders(self) -> list[Order]:
        """In the order in which they are to be replayed."""
        return list(self._orders.values())

    def last(self, order: Order) -> Order | None:
        """The order that `order` supersedes."""
        return self._orders.get(_key(order))

    def remember(self, order: Order) -> Order | None:
        """Add an order; gives the one it replaces altogether, whose files nobody needs any more.

        Changes of settings are merged, so that the log stays as short as there are settings,
        models and regions.
        """
        if order.kind == "unregister":
            self._forget_regions(order.name)
            return None
        key = _key(order)
        old = self._orders.pop(key, None)
        if old is not None and order.kind in SETTINGS:
            order = replace(order, body={**old.body, **order.body})
        self._orders[key] = order
        return old

    def _forget_regions(self, name: str) -> None:
        for key in list(self._orders):
            if key[0] == "region" and name in ("", key[1]):
                del self._orders[key]


def _key(order: Order) -> Key:
    if order.kind in SETTINGS:
        return order.kind, order.name
    about = "model" if order.kind in ("load", "unload") else "region"
    return about, order.name
