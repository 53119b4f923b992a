"""Runs over arrays of the caller's, which the graph reads and extends where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.session import StopToken
from aiaas_server.runtimes.blame import Blame
from aiaas_server.runtimes.options import stoppable


class KeptArrays:
    """Arrays bound once for many runs, one at a time; see `core.session.KeptRuns`.

    A binding of sixty tensors costs as much as a small run, and the memory of an output that is
    taken anew is cleared page by page: so both are kept, the one here, the other by `into`.

    Args:
        arrays: Contiguous, in this process' memory; by the names of an input and of an output.
        blame: Tells what went wrong with a run.
    """

    def __init__(self, session: Any, arrays: Mapping[tuple[str, str], Array], blame: Blame) -> None:
        self._session = session
        self._blame = blame
        self._binding: Any = session.io_binding()
        self._places: dict[str, int] = {}  # of outputs among all that are bound
        for (given, got), array in arrays.items():
            value = _shared(array)
            self._binding.bind_ortvalue_input(given, value)
            self._bind_output(got, value)

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        stop: StopToken | None = None,
        into: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        """Run once; see `core.session.KeptRuns`."""
        for name, array in inputs.items():
            self._binding.bind_cpu_input(name, np.asarray(array, order="C"))
        for name in outputs:
            self._bind_output(name, None)
        for name, array in (into or {}).items():
            self._bind_output(name, _shared(array))
        options = None if stop is None else stoppable(stop)
        try:
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:  # onnxruntime's errors share no base class below Exception
            raise self._blame.of(error, None, stop) from error
        if not outputs:
            return []
        values = self._binding.get_outputs()
        return [values[self._places[name]].numpy() for name in outputs]

    def _bind_output(self, name: str, value: ort.OrtValue | None) -> None:
        """Bind an output to memory, or have the runtime take some; it keeps its first place."""
        self._places.setdefault(name, len(self._places))
        if value is None:
            self._binding.bind_output(name)
        else:
            self._binding.bind_ortvalue_output(name, value)


def _shared(array: Array) -> Any:
    if not array.flags.c_contiguous:
        raise ValueError(f"a kept array: expected contiguous memory, got strides {array.strides}")
    return ort.OrtValue.ortvalue_from_numpy(array)
