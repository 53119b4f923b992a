"""`X-Cost`: what one answer costs, among its other header lines; and a door that does no more.

An answer's line is added while its record is made, which is before it leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from aiaas_server.core.events import COST_LINE, Identity, Visit
from aiaas_server.tenancy.money import added, told_cost


def with_cost(headers: bytes, cost: Decimal, currency: str) -> bytes:
    """Header lines with the cost of an answer in them, added to what they tell of it so far.

    An answer has several costs where a model runs others, or a call brings several payloads.
    """
    before, found, rest = headers.partition(COST_LINE)
    if found:
        told, _, rest = rest.partition(b"\r\n")
        cost = added(cost, Decimal(told.partition(b" ")[0].decode("ascii")))
    text = f"{told_cost(cost)} {currency}"
    return b"%b%b%b\r\n%b" % (before, COST_LINE, text.encode("ascii"), rest)


class CostVisit:
    """A request on a server where nothing but its cost is kept of it."""

    __slots__ = ("headers",)

    def __init__(self, headers: bytes) -> None:
        self.headers = headers

    def leave(self) -> None:
        """Nothing is let go of."""


class CostEntrance:
    """Lets everyone in who has not spent too much: where there are no other limits.

    Args:
        budget: As `Budget` is called.
    """

    def __init__(self, budget: Callable[[Identity, str], bytes]) -> None:
        self._budget = budget

    def enter(self, identity: Identity, path: str) -> Visit:
        """Let one in.

        Raises:
            BudgetExceeded: Its tenant has spent what it may.
        """
        return CostVisit(self._budget(identity, path))
