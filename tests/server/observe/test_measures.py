"""Families of further parts: merged over processes, and never falling when one ends."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from aiaas_server.core.measures import Family, family_of, merged
from aiaas_server.core.statistics import Statistics
from aiaas_server.observe.metrics import RequestMetrics, render
from aiaas_server.observe.totals import ProcessFacts, Totals
from aiaas_server.workers.ledger import Ledger


def families(count: float, level: float) -> list[Family]:
    return [
        Family("a_total", "counter", "Things", [("", {"model": "m"}, count)]),
        Family("b_level", "gauge", "How high", [("", {}, level)]),
    ]


def test_counters_add_up_and_the_greatest_gauge_stands() -> None:
    found = merged([*families(2, 1), *families(3, 5)])
    assert [one.samples for one in found] == [[("", {"model": "m"}, 5)], [("", {}, 5)]]
    assert [family_of(one.plain()) for one in found] == found


def snapshot(worker: int, count: float, level: float) -> dict[str, Any]:
    facts = (ProcessFacts.now(str(worker)),)
    statistics = {("m", 1): Statistics()}
    return Totals(statistics, {}, facts, families(count, level)).as_json()


def test_a_worker_that_ends_leaves_its_counters_and_takes_its_gauges() -> None:
    ledger = Ledger()
    ledger.note(1, snapshot(1, 2, 9))
    ledger.note(2, snapshot(2, 3, 4))
    ledger.note(2, snapshot(2, 4, 4))
    assert [one.samples for one in Totals.from_json(ledger.totals()).families] == [
        [("", {"model": "m"}, 6)],
        [("", {}, 9)],
    ]
    ledger.bury(1)
    assert [one.samples for one in Totals.from_json(ledger.totals()).families] == [
        [("", {"model": "m"}, 6)],
        [("", {}, 4)],
    ]


def test_the_page_shows_what_further_parts_tell() -> None:
    metrics = RequestMetrics([lambda: families(2, 1)])
    page = render([], {}, families=metrics.families()).decode()
    found = {family.name: family for family in text_string_to_metric_families(page)}
    assert found["a"].samples[0].value == 2
    assert found["b_level"].samples[0].value == 1
