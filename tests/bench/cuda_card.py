"""The card under measurement: its name, and how much of its memory is taken.

Its number is the driver's, which is CUDA's where CUDA_VISIBLE_DEVICES is not set.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Callable
from typing import Any

import onnxruntime

_QUERY = ("nvidia-smi", "--format=csv,noheader,nounits")


def describe(device: int) -> dict[str, str]:
    """Name, driver and memory of the card.

    Raises:
        RuntimeError: Neither `nvidia-ml-py` nor `nvidia-smi` finds it.
    """
    nvml = _nvml()
    if nvml is None:
        name, driver, total = _smi(device, "name,driver_version,memory.total").split(", ")
        return {"card": name, "driver": driver, "memory": f"{int(total):,} MiB"}
    handle = nvml.nvmlDeviceGetHandleByIndex(device)
    total = nvml.nvmlDeviceGetMemoryInfo(handle).total >> 20
    return {
        "card": _text(nvml.nvmlDeviceGetName(handle)),
        "driver": _text(nvml.nvmlSystemGetDriverVersion()),
        "memory": f"{total:,} MiB",
    }


def used_memory(device: int) -> Callable[[], int]:
    """Reads the bytes of the card that are taken, by whichever process.

    A container seldom sees which process it is: nothing else may run on the card meanwhile.
    """
    nvml = _nvml()
    if nvml is None:
        return lambda: int(_smi(device, "memory.used")) << 20
    handle = nvml.nvmlDeviceGetHandleByIndex(device)
    return lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).used)


def runtime() -> dict[str, str]:
    """The runtime and the libraries of NVIDIA that are installed as packages."""
    found = {"onnxruntime module": onnxruntime.__version__, "built for CUDA": _built_for()}
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"] or ""
        if name.startswith(("nvidia-", "onnxruntime-gpu", "tensorrt")):
            found[name] = package.version
    return found


def _built_for() -> str:
    return str(getattr(onnxruntime, "cuda_version", "") or "none")


def _nvml() -> Any:
    """The library of the driver, None where the package or the driver is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return None
    return pynvml


def _smi(device: int, fields: str) -> str:
    command = [*_QUERY, f"--query-gpu={fields}", f"--id={device}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(f"no card {device} was found: {error}") from error
    return done.stdout.strip().splitlines()[0]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
