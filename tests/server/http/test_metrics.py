"""The metrics page is readable by strict and by sloppy readers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.statistics import Statistics
from aiaas_server.observe.metrics import RequestMetrics, render


@dataclass
class Version:
    name: str = "m"
    version: int = 1
    statistics: Statistics = field(default_factory=Statistics)


def page() -> str:
    version = Version(name='quo"te\\')
    version.statistics.executed(8, 1000, 2000, 3000)
    version.statistics.succeeded(8, 10**15, 10**6, 1000, 2_000_000, 3000)
    version.statistics.failed("BACKEND", 5)
    version.statistics.batch_curve = {"unit": "rows", "cap": 4, "points": []}
    requests = RequestMetrics()
    requests.refused(ErrorCode.INVALID_JSON)
    refusals = {code.value: count for code, count in requests.refusals.items()}
    return render([version], refusals).decode()


def samples() -> dict[str, float]:
    # The parser adds `_total` to every counter; whether the page has it is tested below.
    return {
        sample.name.removesuffix("_total") + repr(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page())
        for sample in family.samples
    }


def test_the_page_parses_and_holds_the_statistics() -> None:
    labels = repr([("model", 'quo"te\\'), ("version", "1")])
    found = samples()
    assert found["nv_inference_count" + labels] == 8
    assert found["nv_inference_exec_count" + labels] == 1
    assert found["aiaas_batch_cap" + labels] == 4
    assert found["nv_inference_request_success" + labels] == 1
    assert found["nv_inference_request_duration_us" + labels] == 10**12
    failure = repr([("model", 'quo"te\\'), ("reason", "BACKEND"), ("version", "1")])
    assert found["nv_inference_request_failure" + failure] == 1
    assert found["aiaas_errors" + repr([("code", "invalid_json")])] == 1
    assert found["aiaas_request_duration_seconds_count" + labels] == 1
    assert found["aiaas_request_duration_seconds_sum" + labels] == 10**6
    below = repr([("le", "8"), ("model", 'quo"te\\'), ("version", "1")])
    assert found["aiaas_batch_size_bucket" + below] == 1


def test_the_reference_counters_have_no_total_suffix() -> None:
    assert "nv_inference_count{" in page()
    assert not re.search(r"^nv_\w+_total\b", page(), re.MULTILINE)


def test_no_number_has_an_exponent_and_no_sample_stands_on_the_first_line() -> None:
    lines = page().splitlines()
    assert lines[0].startswith("#")
    values = [line.rpartition(" ")[2] for line in lines if not line.startswith("#")]
    assert values
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", value) for value in values)


def test_histogram_buckets_never_decrease() -> None:
    counts = [value for key, value in samples().items() if "duration_seconds_bucket" in key]
    assert counts == sorted(counts)
