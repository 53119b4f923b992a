"""Runs whose inputs and outputs are bound to the device: each crosses to it, or back, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from aiaas_client.protocol.tensors import Array
from aiaas_server.runtimes.failures import of_device

# Binding copies an input to the device at once and holds the interpreter meanwhile, a plain run
# copies while others go on. So what takes longer to copy than a plain run costs more is left to it.
_SMALL: Final = 256 * 1024


class BoundRuns:
    """Runs of one session over a binding of their own each; used by several threads at once.

    What a run takes on the device comes out of the session's own arena, so that it goes with the
    session; buffers kept between runs would come out of one that the process never gives back.

    Args:
        always: Bind inputs of any size; else those of runs that are quickly copied.
    """

    def __init__(self, session: ort.InferenceSession, *, always: bool) -> None:
        self._session: Any = session
        self._always = always

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        options: ort.RunOptions | None,
    ) -> list[Array] | None:
        """Run once; arrays in the order of `outputs`, in memory that the runtime filled.

        None where a plain run is to do it: the inputs are large, or this run failed, whose error
        does not tell its kind, as a plain run's does.

        Raises:
            RuntimeError: The device failed, or `options` ended the run: a second one is in vain.
        """
        if not self._always and sum([array.nbytes for array in inputs.values()]) > _SMALL:
            return None
        binding = self._session.io_binding()
        try:
            for name, array in inputs.items():
                binding.bind_cpu_input(name, np.asarray(array, order="C"))
            for name in outputs:
                binding.bind_output(name)  # copied back inside the run, while others go on
            self._session.run_with_iobinding(binding, options)
        except RuntimeError as error:
            if (options is not None and options.terminate) or of_device(str(error)):
                raise
            return None
        return [value.numpy() for value in binding.get_outputs()]
