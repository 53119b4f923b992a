"""What an execution provider that onnxruntime offers can do here: start, and give memory back.

The package of a GPU's provider may be installed where there is no GPU, no driver or no library of
the right version. That shows only when a session asks for the provider.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from aiaas_server.core.errors import LoadFailed
from aiaas_server.runtimes.devices import load_libraries, uses_gpu
from aiaas_server.runtimes.options import SHRINK
from aiaas_server.runtimes.providers import CPU, CUDA, choose_providers, refuse_fallback
from aiaas_server.runtimes.reasons import clean

_log = logging.getLogger("aiaas_server")
_trying = threading.Lock()  # models load on several threads, and each try takes a while

# The smallest model: y = x, one float.
_SMALLEST: Final = bytes.fromhex(
    "080712003a370a100a017812017922084964656e74697479120167"
    "5a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a020801"
    "42040a00100d"
)


def startable(asked: Sequence[str]) -> list[str]:
    """The providers of this onnxruntime; without CUDA where `auto` would take it in vain."""
    available: list[str] = ort.get_available_providers()
    if "auto" in asked and CUDA in available and not _for_auto():
        available.remove(CUDA)
    return available


def check_providers(asked: Sequence[str]) -> None:
    """Refuse providers that were named and cannot be used, before any model asks for them.

    Raises:
        LoadFailed: As `choose_providers`, or one cannot start; the message says why.
    """
    named = [name for name in asked if name != "auto"]
    for name in choose_providers(named, ort.get_available_providers()):
        if name != CPU and (reason := why_not(name)):
            raise LoadFailed(reason)


def why_not(name: str) -> str:
    """Why a session cannot have this provider; empty if it can. Tried once a process."""
    with _trying:
        return _tried(name)


@cache
def _tried(name: str) -> str:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        if uses_gpu([name]):
            load_libraries()
        session = ort.InferenceSession(_SMALLEST, options, providers=[name], enable_fallback=0)
        refuse_fallback([name], session.get_providers())
    except LoadFailed as error:
        return error.message
    except Exception as error:  # onnxruntime's errors share no base class below Exception
        return f"execution provider '{name}' could not start: {clean(str(error))}"
    return ""


def gives_back(name: str, device: str) -> bool:
    """Whether a session of this provider gives its arena on a device, as `gpu:0`, back on demand.

    A run that asks in vain would fail, and it is one of many that asks. Tried once a process.
    """
    with _trying:
        return _gives_back(name, device)


@cache
def _gives_back(name: str, device: str) -> bool:
    kind, _, number = device.partition(":")
    provider: Any = name if kind == "cpu" else (name, {"device_id": number})
    options, run_options = ort.SessionOptions(), ort.RunOptions()
    options.log_severity_level = run_options.log_severity_level = 4
    run_options.add_run_config_entry(SHRINK, device)
    try:
        session = ort.InferenceSession(_SMALLEST, options, providers=[provider], enable_fallback=0)
        session.run(None, {"x": np.zeros(1, np.float32)}, run_options)
    except Exception as error:  # as above
        _log.info("memory of %s stays with the model that took it: %s", device, clean(str(error)))
        return False
    return True


def _for_auto() -> bool:
    """Whether CUDA can start; told once if it cannot."""
    with _trying:
        reason = _tried(CUDA)
        if reason:
            _tell(reason)
    return not reason


@cache
def _tell(reason: str) -> None:
    _log.warning("%s; models run on the CPU", reason)
