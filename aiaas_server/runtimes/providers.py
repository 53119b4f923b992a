"""Execution providers: which there are, and which are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import LoadFailed

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"
PROVIDERS: Final = {
    "cpu": CPU,
    "cuda": CUDA,
    "tensorrt": TENSORRT,
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "rocm": "ROCMExecutionProvider",
}
"""Short names of execution providers; onnxruntime's own spelling is accepted as well."""


def choose_providers(
    asked: Sequence[str], available: Sequence[str], *, because: str = ""
) -> list[str]:
    """onnxruntime's names of the providers to use, in order; the CPU's always last.

    Args:
        asked: `auto` (CUDA if there is one), a short name of `PROVIDERS`, or a full name.
        because: Who asked for them, for the message.
    Raises:
        LoadFailed: One was named and is not available; the message lists what is.
    """
    chosen: list[str] = []
    for name in asked:
        if name == "auto":
            chosen += [CUDA] if CUDA in available else []
            continue
        full = PROVIDERS.get(name.lower(), name)
        if full not in available:
            raise LoadFailed(
                f"{because}execution provider '{name}' is not available; "
                f"there are: {', '.join(available)}"
            )
        chosen.append(full)
        if full == TENSORRT and CUDA in available:
            chosen.append(CUDA)  # what TensorRT has no kernel for is better off there
    return [*dict.fromkeys(name for name in chosen if name != CPU), CPU]


def who_asked(providers: Sequence[str], config: ModelConfig) -> str:
    """The beginning of a refusal of what `wanted` gives: where the configuration is the reason."""
    if wanted(providers, config) == providers:
        return ""
    return "instance_group asks for KIND_GPU (KIND_AUTO takes what there is): "


def wanted(providers: Sequence[str], config: ModelConfig) -> Sequence[str]:
    """What `auto` becomes where the configuration asks for a kind of device."""
    kinds = {group.kind for group in config.instance_group}
    if tuple(providers) == ("auto",) and "KIND_GPU" in kinds:
        return ("cuda",)
    if tuple(providers) == ("auto",) and kinds == {"KIND_CPU"}:
        return ("cpu",)
    return providers


def refuse_fallback(chosen: Sequence[str], got: Sequence[str]) -> None:
    """Raises `LoadFailed` when one that was chosen is not among those that the session got."""
    missing = [name for name in chosen if name not in got]
    if missing:
        raise LoadFailed(
            f"execution provider '{missing[0]}' could not start; there are: {', '.join(got)}"
        )
