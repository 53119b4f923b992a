"""`Meter`: adds up what each request has used, in memory; told of every one, from any thread."""

from __future__ import annotations

import threading
from collections import Counter, deque
from time import time as now
from typing import Final, NamedTuple

from aiaas_client.protocol.usage import Unit
from aiaas_server.core.events import Identity, InferenceRecord

HOUR: Final = 3600
MOST_REMEMBERED: Final = 65_536
"""Ids of requests that were answered lately; older ones are forgotten."""
REMEMBERED_SECONDS: Final = 60.0
MOST_WAITING: Final = 8192
"""Records that wait to be added up."""
MOST_ATTEMPTS: Final = 4
"""Of one request that its caller left, which are paid with the one that was answered."""
MOST_LEFT: Final = 10_000
"""Attempts whose callers left, of half a second; more than that are counted as they are."""
_MOST_RESTS: Final = 10_000
_UNITS: Final[tuple[Unit, ...]] = (
    "requests",
    "rows",
    "compute_us",
    "bytes_in",
    "bytes_out",
    "tokens_in",
    "tokens_out",
    "cache_hits",
)
_COMPUTE: Final = 2

_NEVER: Final = (0.0, Identity(""))

_Key = tuple[Identity, str, int]  # who, with which model of the pool, in which version
_Asked = tuple[str, str]  # the id of a key, and that of a request, which callers choose


class Used(NamedTuple):
    """What an amount is of, as a row of the table `usage` has it."""

    tenant: str
    hour: int
    key_id: str
    model: str
    version: int
    unit: str


class Left(NamedTuple):
    """An attempt that was running when its caller left: paid for, unless another was answered.

    Attributes:
        began, at: When it was accepted, and when it was left; seconds since 1970.
        amounts: By unit.
    """

    tenant: str
    key_id: str
    request_id: str
    began: float
    at: float
    model: str
    version: int
    amounts: dict[str, int]


class Taken(NamedTuple):
    """What was added up since it was taken the last time."""

    amounts: dict[Used, int]
    left: list[Left]

    def __bool__(self) -> bool:
        return bool(self.amounts or self.left)


class Meter:
    """Counts requests; an `Observer`.

    Whoever answers only hands over the record: they are added up many at a time, by whoever takes
    the amounts, or once so many wait that they would take memory.

    An hour's amounts are those that were taken within it: a request at its very end may be told
    in the next one.
    """

    def __init__(self) -> None:
        self._records: deque[tuple[InferenceRecord, float]] = deque()
        self._lock = threading.Lock()  # of all that follows
        self._counting: dict[_Key, list[int]] = {}
        self._answered: dict[_Asked, tuple[float, Identity]] = {}
        self._earlier: deque[tuple[float, dict[_Asked, tuple[float, Identity]]]] = deque()
        self._absorbed: Counter[tuple[str, str, str]] = Counter()
        self._left: list[Left] = []
        self._rests: dict[tuple[str, str, str, int], int] = {}

    def __call__(self, record: InferenceRecord) -> None:
        """Count one request."""
        self._records.append((record, now()))
        if len(self._records) >= MOST_WAITING:
            with self._lock:
                self._add_up()

    def _add_up(self) -> None:
        records, counting, answered = self._records, self._counting, self._answered
        for _ in range(len(records)):
            record, at = records.popleft()
            model, version, units, _, _, _, _, failure, caller, ending, own_ns, _ = record
            if failure is not None or caller.shadow or ending != "answered":
                self._special(record, at)
                continue
            identity = caller.identity
            key = (identity, model, version)
            counts = counting.get(key)
            if counts is None:
                counts = counting[key] = [0] * len(_UNITS)
            rows, tokens_in, tokens_out, bytes_in, bytes_out = units
            counts[0] += 1
            counts[1] += rows
            counts[2] += own_ns
            counts[3] += bytes_in
            counts[4] += bytes_out
            counts[5] += tokens_in
            counts[6] += tokens_out
            if caller.request_id:
                answered[identity[1], caller.request_id] = (at, identity)

    def _special(self, record: InferenceRecord, at: float) -> None:
        """Count what is no request that was run and answered."""
        units, caller = record.units, record.caller
        if caller.shadow:
            if caller.errand and record.own_ns:
                self._add(record, (0, 0, record.own_ns))
        elif record.ending == "cached":
            self._add(record, (0, 0, 0, units.bytes_in, units.bytes_out, 0, 0, 1))
        elif record.ending == "abandoned":
            self._leave(record, at)

    def _leave(self, record: InferenceRecord, at: float) -> None:
        """Keep an attempt apart that may have been one of several."""
        units, caller = record.units, record.caller
        used = (
            1,
            units.rows,
            record.own_ns,
            units.bytes_in,
            units.bytes_out,
            units.tokens_in,
            units.tokens_out,
        )
        if not caller.request_id or len(self._left) >= MOST_LEFT:
            self._add(record, used)
            return
        amounts = dict(zip(_UNITS, used, strict=False))
        amounts["compute_us"] //= 1000
        identity = caller.identity
        left = Left(
            identity.tenant,
            identity.key_id,
            caller.request_id,
            at - record.total_seconds,
            at,
            plain_name(record.model),
            record.version,
            {unit: amount for unit, amount in amounts.items() if amount},
        )
        self._left.append(left)

    def _add(self, record: InferenceRecord, amounts: tuple[int, ...]) -> None:
        key = (record.caller.identity, record.model, record.version)
        counts = self._counting.setdefault(key, [0] * len(_UNITS))
        for index, amount in enumerate(amounts):
            counts[index] += amount

    def absorbs(self, left: Left, tolerance: float = 0.0) -> bool:
        """Whether an attempt is paid with another of the same request, which was answered here.

        That is one that was answered after this one began: who repeats an id that was answered
        asks anew. Each answer pays for a few attempts, as a client makes them, and no more.

        Args:
            tolerance: Seconds that the clocks of two nodes may differ.
        """
        whose = left[:3]
        with self._lock:
            for ids in (self._answered, *(ids for _, ids in self._earlier)):
                at, identity = ids.get((left.key_id, left.request_id), _NEVER)
                if (identity.tenant, identity.key_id) == left[:2]:
                    if at + tolerance < left.began or self._absorbed[whose] >= MOST_ATTEMPTS:
                        return False
                    self._absorbed[whose] += 1
                    return True
        return False

    def take(self) -> Taken:
        """Give what was added up, and begin anew."""
        at = now()
        hour = int(at) // HOUR * HOUR
        with self._lock:
            self._add_up()
            counting, self._counting = self._counting, {}
            left, self._left = self._left, []
            if self._answered:
                self._earlier.appendleft((at, self._answered))
                self._answered = {}
            self._forget(at)
        amounts: dict[Used, int] = {}
        for (identity, model, version), counts in counting.items():
            key = (identity.tenant, identity.key_id, plain_name(model), version)
            counts[_COMPUTE] = self._microseconds(key, counts[_COMPUTE])
            for unit, amount in zip(_UNITS, counts, strict=True):
                if amount:
                    used = Used(key[0], hour, key[1], key[2], version, unit)
                    amounts[used] = amounts.get(used, 0) + amount
        return Taken(amounts, left)

    def _forget(self, until: float) -> None:
        kept = 0
        if len(self._absorbed) > MOST_REMEMBERED:
            self._absorbed.clear()
        for index, (at, ids) in enumerate(self._earlier):
            kept += len(ids)
            if index and (kept > MOST_REMEMBERED or at < until - REMEMBERED_SECONDS):
                while len(self._earlier) > index:
                    self._earlier.pop()
                return

    def _microseconds(self, key: tuple[str, str, str, int], ns: int) -> int:
        """Whole microseconds; the rest is counted with the next ones."""
        if len(self._rests) > _MOST_RESTS:
            self._rests.clear()
        whole, self._rests[key] = divmod(ns + self._rests.get(key, 0), 1000)
        return whole


def plain_name(model: str) -> str:
    """A model of the pool as its owner calls it; the pool puts a tenant and `/` before."""
    return model.rpartition("/")[2][:255]
