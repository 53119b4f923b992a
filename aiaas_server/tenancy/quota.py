"""`Quotas`: lets requests in by what their tenant and their key may use of this server.

Everything is in memory: a request costs a look at two buckets. Where several processes serve, each
has a share of every limit, see `leases`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from sys import maxsize
from time import monotonic_ns
from typing import Final

from aiaas_client.protocol.tenants import Limits
from aiaas_server.core.events import Identity, InferenceRecord
from aiaas_server.tenancy.gcra import SECOND
from aiaas_server.tenancy.identities import Directory
from aiaas_server.tenancy.limited import Limited, Rates

Door = tuple[Limited, ...]
"""What a key runs into: the limits of its tenant and its own, those that there are."""
NOTHING: Final = 1e-6
"""The part of a limit of a process to which the others have left none yet."""


class Stay:
    """One request while it is here: a `Visit`.

    Attributes:
        headers: Lines that its answer carries besides, each with its end.
    """

    __slots__ = ("_door", "headers")

    def __init__(self, headers: bytes, door: Door) -> None:
        self.headers = headers
        self._door = door

    def leave(self) -> None:
        """Free its place; does nothing the second time."""
        door, self._door = self._door, ()
        for one in door:
            one.in_flight -= 1


class Quotas:
    """An `Entrance`, and an observer that charges rows.

    Args:
        clock: Nanoseconds that never go back.

    Attributes:
        budget: Asked for each request; gives header lines for its answer, and raises
            `BudgetExceeded` where its tenant has spent what it may. None is no such limit.
        limited: Everyone who has a limit, by name.
        is_settled: Whoever is new from now on has used nothing yet. Before, another process may
            have given what there was: then it comes with time.
    """

    def __init__(self, clock: Callable[[], int] = monotonic_ns) -> None:
        self._clock = clock
        self._doors: dict[str, Door] = {}
        self._share_of: Callable[[str], float] | None = None
        self._charged = False
        self.budget: Callable[[Identity, str], bytes] | None = None
        self.limited: dict[str, Limited] = {}
        self.is_settled = False

    def enter(self, identity: Identity, path: str) -> Stay:
        """Let a request in, and count it.

        Raises:
            LimitReached: Its tenant or key has asked for too much of late.
            BudgetExceeded: Its tenant has spent what it may.
        """
        door = self._doors.get(identity.key_id, ())
        now = self._clock()
        for one in door:
            one.asked += 1
            requests = one.requests
            if (
                (requests is not None and requests.full_at - requests.slack > now)
                or one.in_flight >= one.most
                or one.rows is not None
            ) and (error := one.refuse(now)):
                raise error
        headers = b"" if self.budget is None else self.budget(identity, path)
        least: Limited | None = None  # whose limit is nearest
        fewest = maxsize
        for one in door:
            one.in_flight += 1
            if one.requests is not None and (left := one.requests.take(now)) < fewest:
                least, fewest = one, left
        if least is not None and (requests := least.requests) is not None:
            seconds = (requests.full_at - now) // SECOND + 1
            headers += least.text % (fewest, seconds)
        return Stay(headers, door)

    def charge(self, record: InferenceRecord) -> None:
        """An observer: rows that were run, or answered from the cache, are used up."""
        if not self._charged or record.caller.shadow:
            return
        if record.failure is None or record.batch_rows:
            now, rows = self._clock(), record.units.rows
            for one in self._doors.get(record.caller.identity.key_id, ()):
                if one.rows is not None:
                    one.rows.owe(rows, now)

    def follow(self, directory: Directory) -> None:
        """Take over the limits of all tenants and keys; of those that stay nothing is forgotten."""
        found: dict[str, Limited] = {}
        doors: dict[str, Door] = {}
        for key, known in directory.keys.items():
            tenant = known.identity.tenant
            first = (*known.replaces, key)[0]  # all that came of one share its limits
            both = (
                self._one(found, tenant, f"tenant '{tenant}'", directory.limits.get(tenant)),
                self._one(found, f"key/{first}", f"key '{key}'", known.limits),
            )
            if door := tuple(one for one in both if one is not None):
                doors[key] = door
        self.limited, self._doors = found, doors
        self._charged = any(one.rows is not None for one in found.values())

    def _one(
        self, found: dict[str, Limited], name: str, whose: str, limits: Limits | None
    ) -> Limited | None:
        """Whoever a name is, if it has limits: as it was, with the limits that it has now."""
        if name in found:
            return found[name]
        if limits is None or not (rates := Rates.of(limits)).limits_anything:
            return None
        share, now = self._share(name), self._clock()
        one = self.limited.get(name)
        if one is None:
            one = Limited(name, whose, rates, share, now, full=self.is_settled or share == 1.0)
        else:
            one.change(rates, share, now)
        found[name] = one
        return one

    def _share(self, name: str) -> float:
        return 1.0 if self._share_of is None else max(NOTHING, self._share_of(name))

    # Of several processes

    def share(self, share_of: Callable[[str], float]) -> None:
        """Have a part of each limit from now on, by name; called again where parts have changed."""
        self._share_of = share_of
        now = self._clock()
        for name, one in self.limited.items():
            one.change(one.rates, self._share(name), now)

    def take_demand(self) -> Mapping[str, int]:
        """How many requests came since the last call, by name; of those to whom any came."""
        found = {}
        for name, one in self.limited.items():
            if one.asked:
                found[name], one.asked = one.asked, 0
        return found
