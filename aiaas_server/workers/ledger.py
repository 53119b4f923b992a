"""The counts of all workers, those that have ended included."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiaas_server.core.measures import Family, family_of, merged
from aiaas_server.observe.totals import Key, Plain, added, outlived

Snapshot = dict[str, Any]


class Ledger:
    """Keeps the last counts of each worker and adds them up.

    What a worker had counted when it was last heard of is kept when it ends: sums never fall.
    """

    def __init__(self) -> None:
        self._counts: dict[int, dict[Key, Plain]] = {}
        self._refusals: dict[int, Counter[str]] = {}
        self._processes: dict[int, Plain] = {}
        self._past: dict[Key, Plain] = {}
        self._past_refusals: Counter[str] = Counter()
        self._families: dict[int, list[Family]] = {}
        self._past_families: list[Family] = []

    def note(self, worker: int, snapshot: Snapshot) -> None:
        """Take a worker's counts; models that are not in the snapshot have not changed."""
        counts = self._counts.setdefault(worker, {})
        counts.update({(name, version): plain for name, version, plain in snapshot["models"]})
        self._refusals[worker] = Counter(snapshot["refusals"])
        (self._processes[worker],) = snapshot["processes"]
        self._families[worker] = [family_of(plain) for plain in snapshot.get("families", ())]

    def bury(self, worker: int) -> None:
        """A worker has ended; its counters stay in the sums."""
        for key, plain in self._counts.pop(worker, {}).items():
            _add(self._past, key, outlived(plain))
        self._past_refusals += self._refusals.pop(worker, Counter())
        self._processes.pop(worker, None)
        families = self._families.pop(worker, ())
        ended = [one for one in families if one.kind not in ("gauge", "amount")]
        self._past_families = merged([*self._past_families, *ended])

    def totals(self) -> Snapshot:
        """The sums, as `Totals.from_json` reads them."""
        models = dict(self._past)
        for counts in self._counts.values():
            for key, plain in counts.items():
                _add(models, key, plain)
        now = [family for families in self._families.values() for family in families]
        refusals = sum(self._refusals.values(), self._past_refusals.copy())
        return {
            "models": [[*key, plain] for key, plain in models.items()],
            "refusals": dict(refusals),
            "processes": [self._processes[worker] for worker in sorted(self._processes)],
            "families": [family.plain() for family in merged([*self._past_families, *now])],
        }


def _add(total: dict[Key, Plain], key: Key, plain: Plain) -> None:
    known = total.get(key)
    total[key] = plain if known is None else added(known, plain)
