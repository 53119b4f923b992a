"""The machine's gauges: read from the system, and from a GPU library where there is one."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiaas_server.observe.machine import ProcessorTime, gauges, gpu_gauges


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("cpu 10 0 10 70 10 0 0 0 0 0", "cpu 20 0 20 80 20 0 0 0 0 0", 0.5),
        ("cpu 10 0 10 70 10 0 0 0 0 0", "cpu 10 0 10 170 10 0 0 0 0 0", 0.0),
        ("cpu 10 0 10 70 10 0 0 0 0 0", "cpu 10 0 10 70 10 0 0 0 0 0", 0.0),
        ("cpu 9 9", "something else", 0.0),
    ],
    ids=["half", "idle", "asked twice at once", "not told"],
)
def test_utilization_is_the_share_of_busy_ticks(
    tmp_path: Path, before: str, after: str, expected: float
) -> None:
    source = tmp_path / "stat"
    source.write_text(before + "\ncpu0 1 1 1 1\n")
    processors = ProcessorTime(source)
    source.write_text(after + "\n")
    assert processors.utilization() == expected


def test_the_machine_has_memory_and_a_share_of_busy_time() -> None:
    told = {gauge.name: gauge.samples[0][1] for gauge in gauges()}
    assert 0 < told["nv_cpu_memory_used_bytes"] < told["nv_cpu_memory_total_bytes"]
    assert 0 <= told["nv_cpu_utilization"] <= 1


class NVMLError(Exception):
    """Of the double below."""


def _unsupported(gpu: int) -> Any:
    raise NVMLError


def library() -> Any:
    """What `pynvml` offers, on a machine of two GPUs of which one does not count its energy."""
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda gpu: f"GPU-{gpu}",
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=25),
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(total=150 * 10**9, used=8589934592),
        nvmlDeviceGetPowerUsage=lambda gpu: 76_543,
        nvmlDeviceGetEnforcedPowerLimit=lambda gpu: 700_000,
        nvmlDeviceGetTotalEnergyConsumption=lambda gpu: 9000 if gpu else _unsupported(gpu),
    )


def test_gpu_gauges_are_in_the_references_units_and_miss_what_a_gpu_does_not_tell() -> None:
    told = {gauge.name: dict(gauge.samples) for gauge in gpu_gauges(library())}
    assert told["nv_gpu_utilization"] == {"GPU-0": 0.25, "GPU-1": 0.25}
    assert told["nv_gpu_memory_used_bytes"]["GPU-0"] == 8589934592
    assert told["nv_gpu_power_usage"]["GPU-0"] == 76.543
    assert told["nv_energy_consumption"] == {"GPU-1": 9.0}


def test_gpu_lines_are_as_perf_analyzer_reads_them() -> None:
    from aiaas_server.observe.metrics import machine_families

    page = "\n".join(machine_families(gpu_gauges(library())))
    for name in ("utilization", "memory_used_bytes", "memory_total_bytes", "power_usage"):
        assert re.search(rf'\nnv_gpu_{name}{{gpu_uuid="GPU-1"}} \d+(\.\d+)?(\n|$)', page)
