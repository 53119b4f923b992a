"""The device of a session: which one, with what options of CUDA, and the libraries it needs."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from typing import Any, Final

import onnxruntime as ort

from aiaas_server.core.describe.config import ModelConfig, StringParameter
from aiaas_server.core.errors import LoadFailed
from aiaas_server.runtimes.providers import CUDA, TENSORRT

_log = logging.getLogger("aiaas_server")

_FLAG: Final = {"0": "0", "1": "1", "false": "0", "true": "1"}
_CHOICES: Final[Mapping[str, Mapping[str, str]]] = {
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "cudnn_conv_use_max_workspace": _FLAG,
    "tunable_op_enable": _FLAG,
    "tunable_op_tuning_enable": _FLAG,
    "use_tf32": _FLAG,
}
"""Parameters of a configuration that are options of CUDA, by the numbers that Triton takes too."""
_LIMIT: Final = "gpu_mem_limit"
_DEFAULTS: Final = {
    # An arena that doubles takes up to twice what its model needs, from all the others.
    "arena_extend_strategy": "kSameAsRequested",
    # The exhaustive search costs hundreds of milliseconds for every new input shape.
    "cudnn_conv_algo_search": "HEURISTIC",
}


def uses_gpu(chosen: Sequence[str]) -> bool:
    """Whether a session of these providers runs on an NVIDIA GPU."""
    return CUDA in chosen or TENSORRT in chosen


def device_id(config: ModelConfig) -> int:
    """The number of the GPU that the instance groups name first; 0 where they name none."""
    gpus = [gpu for group in config.instance_group for gpu in group.gpus]
    return gpus[0] if gpus else 0


def with_device(name: str, config: ModelConfig) -> str | tuple[str, dict[str, Any]]:
    """A provider as the runtime takes it: CUDA and TensorRT with the device to use.

    Raises:
        LoadFailed: A parameter of the configuration is not one of CUDA's values.
    """
    if name not in (CUDA, TENSORRT):
        return name
    options: dict[str, Any] = {"device_id": device_id(config)}
    if name == CUDA:
        options |= cuda_options(config)
    if wants_graphs(config):
        options["enable_cuda_graph" if name == CUDA else "trt_cuda_graph_enable"] = "1"
    return name, options


def cuda_options(config: ModelConfig) -> dict[str, str]:
    """Options of the CUDA provider: the defaults, and above them the configuration's parameters.

    Raises:
        LoadFailed: A parameter has a value that its option does not take.
    """
    options = dict(_DEFAULTS)
    for name, known in _CHOICES.items():
        text = _parameter(config, name)
        if text:
            options[name] = _chosen(name, text, known)
    limit = _parameter(config, _LIMIT)
    if limit:
        if not limit.isdecimal() or int(limit) < 1:
            raise _refused(_LIMIT, "a number of bytes above 0", limit)
        options[_LIMIT] = limit
    return options


def wants_graphs(config: ModelConfig) -> bool:
    """Whether the configuration's parameter `cuda_graphs` asks to record and replay runs."""
    return _parameter(config, "cuda_graphs").lower() in ("1", "true", "on")


def wants_binding(config: ModelConfig) -> bool | None:
    """What the configuration's parameter `io_binding` says; None where it does not.

    Raises:
        LoadFailed: It is neither 0 nor 1.
    """
    text = _parameter(config, "io_binding")
    if not text:
        return None
    flag = _FLAG.get(text.lower())
    if flag is None:
        raise _refused("io_binding", "0 or 1", text)
    return flag == "1"


@cache
def load_libraries() -> None:
    """Load the CUDA libraries of NVIDIA's Python packages, which no search path names.

    Where there are none, the provider finds those of the system by itself.
    """
    said = io.StringIO()
    with redirect_stdout(said):
        ort.preload_dlls()
    if text := " ".join(said.getvalue().split()):
        _log.debug("CUDA libraries: %s", text[:1024])


def _chosen(name: str, text: str, known: Mapping[str, str]) -> str:
    """A value by its number or by its own name."""
    for number, value in known.items():
        if text.lower() in (number, value.lower()):
            return value
    names = [value for value in known.values() if value not in known]
    raise _refused(name, ", ".join([*known, *names]), text)


def _parameter(config: ModelConfig, name: str) -> str:
    return config.parameters.get(name, StringParameter()).string_value.strip()


def _refused(name: str, expected: str, text: str) -> LoadFailed:
    return LoadFailed(f"configuration: parameter '{name}': expected {expected}, got {text[:64]!r}")
