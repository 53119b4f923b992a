"""Counts of several workers: added up, and never less than before."""

from __future__ import annotations

import json
from typing import Any

from aiaas_server.core.statistics import Statistics
from aiaas_server.http.oip.statistics import model_stats
from aiaas_server.observe.totals import ProcessFacts, Totals, added, restored, taken
from aiaas_server.workers.ledger import Ledger

M = ("m", 1)


def counted(requests: int, rows: int = 1) -> Statistics:
    """Statistics after some requests, one waiting, one failed."""
    statistics = Statistics()
    for _ in range(requests):
        statistics.executed(rows, 1, 2, 3)
        statistics.succeeded(rows, 1000, 10, 1, 2, 3)
    statistics.failed("REJECTED", 5)
    statistics.pending = 1
    statistics.memory_bytes = 100
    return statistics


def snapshot(worker: int, models: dict[tuple[str, int], Statistics], **refusals: int) -> Any:
    """What a worker tells, as it comes over the wire."""
    facts = ProcessFacts(str(worker), 1.0, 2.0, 3, 4)
    return json.loads(json.dumps(Totals(models, refusals, (facts,)).as_json()))


def totals(ledger: Ledger) -> Totals:
    return Totals.from_json(json.loads(json.dumps(ledger.totals())))


def test_all_counters_of_statistics_survive_the_wire() -> None:
    before = counted(3, rows=4)
    after = restored(json.loads(json.dumps(taken(before))))
    assert taken(after) == taken(before)
    assert model_stats("m", 1, after) == model_stats("m", 1, before)


def test_curves_of_processes_need_not_be_alike() -> None:
    left, right = taken(Statistics()), taken(Statistics())
    left["batch_curve"] = {"unit": "rows", "points": [1]}
    right["batch_curve"] = {"unit": "rows", "points": [1, 2], "more": None}
    assert added(left, right)["batch_curve"] == left["batch_curve"]
    assert added(added(left | {"batch_curve": {}}, right), left)["batch_curve"]["points"] == [1, 2]


def test_every_counter_is_added() -> None:
    left, right = taken(counted(3, rows=4)), taken(counted(2, rows=1))
    left["last_inference_ms"], right["last_inference_ms"] = 7, 5
    both = added(json.loads(json.dumps(left)), json.loads(json.dumps(right)))
    entry = model_stats("m", 1, restored(both))
    assert entry["last_inference"] == 7
    assert entry["inference_count"] == 3 * 4 + 2
    assert entry["execution_count"] == 5
    assert entry["inference_stats"]["fail"] == {"count": 2, "ns": 10}
    assert {count["count"] for name, count in entry["inference_stats"].items()
            if name in ("success", "queue", "compute_input", "compute_infer", "compute_output")
            } == {5}  # fmt: skip
    sizes = [(size["batch_size"], size["compute_infer"]) for size in entry["batch_stats"]]
    assert sizes == [(1, {"count": 2, "ns": 4}), (4, {"count": 3, "ns": 6})]
    assert both["failures"]["REJECTED"] == 2
    assert sum(both["latency_counts"]) == 5
    for name in Statistics.__slots__:  # nothing that is ever added to them is forgotten
        assert name in both


def test_the_curve_of_one_worker_stands_for_all_and_ends_with_it() -> None:
    curve = {"unit": "rows", "cap": 2, "points": [{"size": 1, "ns": 5}, {"size": 2, "ns": 6}]}
    ledger = Ledger()
    for worker in (0, 1):
        counts = counted(1)
        counts.batch_curve = curve if worker else {}
        ledger.note(worker, snapshot(worker + 1, {M: counts}))
    assert model_stats("m", 1, totals(ledger).statistics[M])["batch_curve"] == curve
    ledger.bury(1)
    assert "batch_curve" not in model_stats("m", 1, totals(ledger).statistics[M])


def test_workers_are_added_and_what_an_ended_one_counted_stays() -> None:
    ledger = Ledger()
    ledger.note(0, snapshot(1, {M: counted(2)}, not_found=1))
    ledger.note(1, snapshot(2, {M: counted(3), ("n", 2): counted(1)}, not_found=2, internal=1))
    before = totals(ledger)
    assert before.statistics[M].success_count == 5
    assert before.statistics[M].pending == 2
    assert before.refusals == {"not_found": 3, "internal": 1}
    assert [process.worker for process in before.processes] == ["1", "2"]
    ledger.bury(1)
    after = totals(ledger)
    assert after.statistics[M].success_count == 5
    assert after.statistics["n", 2].success_count == 1
    assert (after.statistics[M].pending, after.statistics[M].memory_bytes) == (1, 100)
    assert after.refusals == before.refusals
    assert [process.worker for process in after.processes] == ["1"]
    ledger.note(1, snapshot(2, {M: counted(1)}, not_found=1))
    assert totals(ledger).statistics[M].success_count == 6
    assert totals(ledger).refusals["not_found"] == 4


def test_a_model_that_is_not_told_again_has_not_changed() -> None:
    ledger = Ledger()
    ledger.note(0, snapshot(1, {M: counted(2)}))
    ledger.note(0, snapshot(1, {}))
    assert totals(ledger).statistics[M].success_count == 2
    ledger.bury(0)
    ledger.bury(0)
    assert totals(ledger).statistics[M].success_count == 2
