"""The machine under the server, read when the metrics page is asked for: processors, memory, GPUs.

Names are the reference server's. GPUs are told where the package `nvidia-ml-py` is installed and
its library finds a driver.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Gauge(NamedTuple):
    """One family of the page: samples by the `gpu_uuid` they are of, "" for the machine's."""

    name: str
    kind: str
    text: str
    samples: list[tuple[str, float]]


class ProcessorTime:
    """How busy the processors were since it was last asked: 0.0 to 1.0."""

    def __init__(self, source: Path = Path("/proc/stat")) -> None:
        self._source = source
        self._busy, self._total = self._read()

    def utilization(self) -> float:
        """The share of time not idle; 0.0 where the system does not tell."""
        before = self._busy, self._total
        self._busy, self._total = self._read()
        elapsed = self._total - before[1]
        return min(max((self._busy - before[0]) / elapsed, 0.0), 1.0) if elapsed > 0 else 0.0

    def _read(self) -> tuple[int, int]:
        try:
            line = self._source.read_text("ascii").partition("\n")[0]
            ticks = [int(field) for field in line.split()[1:9]]
        except (OSError, ValueError):
            return 0, 0
        idle = sum(ticks[3:5])  # idle, and waiting for input or output
        return sum(ticks) - idle, sum(ticks)


_processors = ProcessorTime()


def gauges() -> Iterator[Gauge]:
    """All families that tell of the machine."""
    total = os.sysconf("SC_PHYS_PAGES") * _PAGE
    used = total - os.sysconf("SC_AVPHYS_PAGES") * _PAGE
    busy = _processors.utilization()
    yield Gauge("nv_cpu_utilization", "gauge", "Processors busy, 0 to 1", [("", busy)])
    yield Gauge("nv_cpu_memory_total_bytes", "gauge", "Memory of the machine", [("", total)])
    yield Gauge("nv_cpu_memory_used_bytes", "gauge", "Memory of the machine in use", [("", used)])
    nvml = _nvml()
    if nvml is not None:
        yield from gpu_gauges(nvml)


@lru_cache(maxsize=1)
def _nvml() -> Any:
    """The library of the NVIDIA driver, None without it."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, no permission: then there is nothing to tell
        return None
    return pynvml


def gpu_gauges(nvml: Any) -> Iterator[Gauge]:
    """The families of the GPUs; a number that a GPU does not give is left out.

    Args:
        nvml: The module `pynvml`, initialised.
    """
    gpus = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    readings: tuple[tuple[str, str, str, Callable[[Any], float]], ...] = (
        (
            "nv_gpu_utilization", "gauge", "GPU busy, 0 to 1",
            lambda gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
        ),
        (
            "nv_gpu_memory_total_bytes", "gauge", "Memory of the GPU",
            lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
        ),
        (
            "nv_gpu_memory_used_bytes", "gauge", "Memory of the GPU in use",
            lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
        ),
        (
            "nv_gpu_power_usage", "gauge", "Power the GPU takes, watts",
            lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        ),
        (
            "nv_gpu_power_limit", "gauge", "Power the GPU may take, watts",
            lambda gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
        ),
        (
            "nv_energy_consumption", "counter", "Energy the GPU took, joules",
            lambda gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000,
        ),
    )  # fmt: skip
    for name, kind, text, read in readings:
        samples = []
        for gpu in gpus:
            try:
                samples.append((str(nvml.nvmlDeviceGetUUID(gpu)), float(read(gpu))))
            except nvml.NVMLError:
                continue
        if samples:
            yield Gauge(name, kind, text, samples)
