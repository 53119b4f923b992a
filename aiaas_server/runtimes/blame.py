"""What a failed run becomes: an error that says whose mistake it was, without paths."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    OutOfMemory,
    ServerError,
)
from aiaas_server.core.session import StopToken
from aiaas_server.core.signature import TensorSpec
from aiaas_server.runtimes.failures import is_room, lost_device, of_device
from aiaas_server.runtimes.options import Arena
from aiaas_server.runtimes.reasons import clean, explain, where

_log = logging.getLogger("aiaas_server")

_CALLERS: Final = ("INVALID_ARGUMENT", "Integer division by zero")  # the caller's mistakes
_MAX_LOGGED: Final = 1024


class Blame:
    """Tells the failures of one session's runs.

    Args:
        tensors: Its inputs, and behind them its outputs.
        inputs: How many of `tensors` are inputs.
        arena: The memory that it keeps between runs.
    """

    def __init__(self, tensors: Sequence[TensorSpec], inputs: int, arena: Arena | None) -> None:
        batch = int(all(spec.shape[:1] == (-1,) for spec in tensors))  # leading axes of the batch
        self._varies = any(-1 in spec.shape[batch:] for spec in tensors[:inputs])
        self._arena = arena
        self._lost = False  # the device, which is told once

    def of(
        self, error: Exception, inputs: Mapping[str, Array] | None, stop: StopToken | None
    ) -> ServerError:
        """The error to be raised in the place of onnxruntime's.

        Args:
            inputs: What a caller gave; None where nobody but the server chose the shapes.
        """
        if stop is not None and stop.stopped:
            return DeadlineExceeded("the run was stopped: nobody waits for its answer")
        text = str(error)
        level = logging.DEBUG if stop is not None and stop.tries else logging.WARNING
        _log.log(level, "a run failed: %s", " ".join(text.split())[:_MAX_LOGGED])
        if device := of_device(text):
            self._device_failed(text)
            kind = OutOfMemory if is_room(device) else InferenceFailed
            return kind(f"inference failed{where(text)}: {device}")
        said = explain(text)
        reason = where(text) + (f": {said}" if said else "")
        if inputs is not None:
            if isinstance(error, ValueError) or any(mark in text for mark in _CALLERS):
                return InvalidInput(f"the model refuses these shapes or values{reason}")
            if self._may_blame(inputs):
                return InvalidInput(f"the model cannot run on these shapes or values{reason}")
        return InferenceFailed(f"inference failed{where(text)}: {said or clean(text)}")

    def _device_failed(self, text: str) -> None:
        if self._arena is not None:
            self._arena.give_back()
        if lost_device(text) and not self._lost:
            self._lost = True
            _log.error("the device is lost to this process: restart the server to use it again")

    def _may_blame(self, inputs: Mapping[str, Array]) -> bool:
        """Whether the caller had the freedom to give shapes that the graph cannot join."""
        return self._varies or any(array.size == 0 for array in inputs.values())
