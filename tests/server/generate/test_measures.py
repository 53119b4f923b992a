"""What models that write add to the metrics page, and that others add nothing."""

from __future__ import annotations

from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families

from aiaas_server.core.measures import family_of, merged
from aiaas_server.generate.accounts import DURATIONS, PER_TOKEN, Counts
from aiaas_server.generate.measures import families_of
from aiaas_server.observe.metrics import render
from aiaas_server.workers.ledger import Ledger


def writer(counts: Counts) -> SimpleNamespace:
    return SimpleNamespace(full="m", version=2, generator=SimpleNamespace(counts=counts))


def test_models_that_do_not_write_add_nothing() -> None:
    assert families_of([SimpleNamespace(full="m", version=1, generator=None)]) == []


def test_the_page_tells_counts_and_times() -> None:
    counts = Counts(slots=8, tokens_in=12, tokens_out=34, preemptions=1, running=3)
    counts.network = {"kv_bytes": 4096.0, "prefix_hit_tokens": 64}
    counts.first_token.add(0.015)
    counts.first_token.add(1000.0)
    counts.each_token.add(0.03)
    page = render([], {}, families=families_of([writer(counts)])).decode()
    found = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels.get("model") == "m"
    }
    assert found["aiaas_generation_slots", None] == 8
    assert found["aiaas_generation_running", None] == 3
    assert found["aiaas_generation_prompt_tokens_total", None] == 12
    assert found["aiaas_generation_output_tokens_total", None] == 34
    assert found["aiaas_generation_preemptions_total", None] == 1
    assert found["aiaas_generation_kv_bytes", None] == 4096
    assert found["aiaas_generation_prefix_hit_tokens_total", None] == 64
    first = "gen_ai_server_time_to_first_token_seconds"
    assert found[f"{first}_bucket", "0.01"] == 0
    assert found[f"{first}_bucket", "0.02"] == 1
    assert found[f"{first}_bucket", "81.92"] == 1
    assert found[f"{first}_bucket", "+Inf"] == found[f"{first}_count", None] == 2
    assert found[f"{first}_sum", None] == 1000.015
    assert found["gen_ai_server_time_per_output_token_seconds_bucket", "0.05"] == 1


def test_those_of_several_processes_add_up() -> None:
    one = Counts(tokens_in=5, slots=8, running=2, network={"kv_bytes": 100})
    other = Counts(tokens_in=7, slots=8, running=1, network={"kv_bytes": 50})
    families = [*families_of([writer(one)]), *families_of([writer(other)])]
    together = merged([family_of(family.plain()) for family in families])
    found = {family.name: [sample[2] for sample in family.samples] for family in together}
    assert found["aiaas_generation_prompt_tokens_total"] == [12]
    assert found["aiaas_generation_slots"] == [16]
    assert found["aiaas_generation_running"] == [3]
    assert found["aiaas_generation_kv_bytes"] == [150]


def test_a_process_that_ended_holds_nothing_any_more() -> None:
    ledger = Ledger()
    counts = Counts(tokens_in=5, slots=8, network={"kv_bytes": 100})
    told = [family.plain() for family in families_of([writer(counts)])]
    for worker in (0, 1):
        ledger.note(worker, {"models": [], "refusals": {}, "processes": [{}], "families": told})
    ledger.bury(0)
    totals = ledger.totals()["families"]
    left = {name: [sample[2] for sample in samples] for name, _, _, samples in totals}
    assert left["aiaas_generation_prompt_tokens_total"] == [10]
    assert left["aiaas_generation_slots"] == [8]
    assert left["aiaas_generation_kv_bytes"] == [100]


def test_what_each_process_has_is_a_gauge_on_the_page() -> None:
    page = render([], {}, families=families_of([writer(Counts(slots=8))])).decode()
    assert "# TYPE aiaas_generation_slots gauge\n" in page


def test_bounds_are_those_of_the_convention() -> None:
    assert [round(bound, 2) for bound in DURATIONS] == [
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    ]  # fmt: skip
    assert PER_TOKEN[0] == 0.01
    assert PER_TOKEN[-1] == 2.5
