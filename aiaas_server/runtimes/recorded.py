"""Runs over buffers that stay on the device, recorded as CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from aiaas_client.protocol.tensors import Array
from aiaas_server.runtimes.failures import of_device

_GRAPH: Final = "gpu_graph_id"
_Key = tuple[tuple[tuple[str, tuple[int, ...]], ...], tuple[str, ...]]  # shapes, outputs


class RecordedRuns:
    """Runs over buffers that stay where they are, as CUDA graphs need them: one set a shape.

    A graph is recorded when a shape is first run and replayed afterwards; shapes beyond the first
    few, and those that cannot be recorded, are run without. One run at a time, of whatever kind:
    a graph is replayed over memory that the arena takes to be free.

    Args:
        device: `cuda` or `cpu`.
        number: Which of these devices.
    """

    MOST = 24  # the trial at load takes a few

    def __init__(self, session: ort.InferenceSession, device: str, number: int = 0) -> None:
        self._session: Any = session
        self._device = device
        self._number = number
        self._lock = threading.Lock()
        self._known: dict[_Key, _Recorded | None] = {}

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        options: ort.RunOptions | None,
    ) -> list[Array]:
        """Run once; arrays in the order of `outputs`, copied out of their buffers."""
        shapes = [(name, array.shape) for name, array in sorted(inputs.items())]
        key = (tuple(shapes), tuple(outputs))
        with self._lock:
            stopped = options is not None and options.terminate
            if not stopped and self._may_record(key, inputs):
                try:
                    return self._replayed(key, inputs, outputs)
                except RuntimeError as error:
                    if of_device(str(error)):
                        raise
                    # Else the plain run tells why, or gives outputs of other shapes than before.
                    if key in self._known:
                        self._known[key] = None
            arrays: list[Array] = self._session.run(outputs, inputs, _unrecorded(options))
            return arrays

    def _may_record(self, key: _Key, inputs: Mapping[str, Array]) -> bool:
        if key in self._known:
            return self._known[key] is not None
        return len(self._known) < self.MOST and all(array.size for array in inputs.values())

    def _replayed(
        self, key: _Key, inputs: Mapping[str, Array], outputs: Sequence[str]
    ) -> list[Array]:
        recorded = self._known.get(key)
        if recorded is None:
            recorded = self._record(inputs, outputs, len(self._known))
            self._known[key] = recorded
        return recorded.run(self._session, inputs)

    def _record(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], number: int
    ) -> _Recorded:
        binding = self._session.io_binding()
        held = {}
        for name, array in inputs.items():
            held[name] = ort.OrtValue.ortvalue_from_numpy(
                np.array(array, order="C"), self._device, self._number
            )
            binding.bind_ortvalue_input(name, held[name])
        # A plain run tells the shapes, which the buffers then have for good.
        for name in outputs:
            binding.bind_output(name, self._device, self._number)
        self._session.run_with_iobinding(binding, _unrecorded(None))
        results = binding.get_outputs()
        for name, result in zip(outputs, results, strict=True):
            binding.bind_ortvalue_output(name, result)
        return _Recorded(binding, held, results, _numbered(number + 1), self._device == "cpu")


@dataclass(frozen=True, slots=True)
class _Recorded:
    binding: Any
    inputs: Mapping[str, Any]
    outputs: Sequence[Any]
    options: ort.RunOptions
    shares: bool  # an output as an array is the buffer itself, not a copy of it

    def run(self, session: Any, inputs: Mapping[str, Array]) -> list[Array]:
        for name, array in inputs.items():
            self.inputs[name].update_inplace(np.asarray(array, order="C"))
        session.run_with_iobinding(self.binding, self.options)
        arrays = [value.numpy() for value in self.outputs]
        return [array.copy() for array in arrays] if self.shares else arrays


def _numbered(number: int) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry(_GRAPH, str(number))
    return options


def _unrecorded(options: ort.RunOptions | None) -> ort.RunOptions:
    """Without this a plain run is recorded too, and replayed over arrays that are long gone."""
    options = options or ort.RunOptions()
    options.add_run_config_entry(_GRAPH, "-1")
    return options
