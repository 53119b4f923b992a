"""One model loaded in onnxruntime, behind `core.session.Session`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import onnxruntime as ort

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import LoadFailed, ModelUnavailable, NotSupported
from aiaas_server.core.session import GraphFacts, StopToken
from aiaas_server.runtimes.blame import Blame
from aiaas_server.runtimes.bound import BoundRuns
from aiaas_server.runtimes.kept import KeptArrays
from aiaas_server.runtimes.options import Arena, stoppable
from aiaas_server.runtimes.providers import CPU
from aiaas_server.runtimes.recorded import RecordedRuns
from aiaas_server.runtimes.specs import metadata_of, servable, spec_of
from aiaas_server.runtimes.texts import as_bytes, as_text, refuse_empty

_NOTHING_FOUND: Final = GraphFacts()


class OnnxSession:
    """One `InferenceSession`, shared by threads; see `core.session.Session`."""

    def __init__(
        self,
        session: ort.InferenceSession,
        *,
        bound: BoundRuns | None = None,
        recorded: RecordedRuns | None = None,
        arena: Arena | None = None,
        facts: GraphFacts = _NOTHING_FOUND,
        refuses_empty: bool = False,
    ) -> None:
        """Take over a session of the runtime.

        Args:
            bound: Runs it with inputs and outputs bound to the device.
            recorded: Runs it by recorded graphs.
            arena: The memory that it keeps between runs.
            facts: What was found in its graph.
            refuses_empty: An input without elements would end the process.
        Raises:
            LoadFailed: An input, or every output, is no tensor that can be served.
        """
        self.inputs = tuple(spec_of(arg, "input") for arg in session.get_inputs())
        self.outputs, left_out = servable(session.get_outputs())
        self.graph = replace(facts, changes=(*facts.changes, *left_out))
        self._refuses_empty = refuses_empty
        self.providers = tuple(session.get_providers())
        self.metadata = metadata_of(session.get_modelmeta())
        self._session: ort.InferenceSession | None = session
        self._text_inputs = frozenset(s.name for s in self.inputs if s.datatype == "BYTES")
        self._text_outputs = frozenset(s.name for s in self.outputs if s.datatype == "BYTES")
        # Text cannot be bound: such a model takes the plain way on every device.
        has_text = bool(self._text_inputs or self._text_outputs)
        self._bound = None if has_text else bound
        if recorded is not None and has_text:
            raise LoadFailed("cuda_graphs: a model with text cannot be recorded")
        self._recorded = recorded
        self._arena = arena
        self._blame = Blame((*self.inputs, *self.outputs), len(self.inputs), arena)

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], stop: StopToken | None = None
    ) -> list[Array]:
        """Run once; arrays in the order of `outputs`; see `core.session.Session`."""
        session: Any = self._session  # its own annotations name types that never occur here
        if session is None:
            raise ModelUnavailable("the model was unloaded", retry_after=1.0)
        if self._text_inputs:
            inputs = {
                name: as_text(name, array) if name in self._text_inputs else array
                for name, array in inputs.items()
            }
        if self._refuses_empty:
            refuse_empty(inputs)
        options = None if stop is None else stoppable(stop)
        if self._arena is not None:
            options = self._arena.options(inputs, options)
        try:
            arrays: list[Array] | None = None
            if self._recorded is not None:
                arrays = self._recorded.run(inputs, outputs, options)
            elif self._bound is not None:
                arrays = self._bound.run(inputs, outputs, options)
            if arrays is None:
                arrays = session.run(outputs, inputs, options)
        except Exception as error:  # onnxruntime's errors share no base class below Exception
            raise self._blame.of(error, inputs, stop) from error
        assert arrays is not None, "the plain run gives a list"
        if self._text_outputs:
            return [
                as_bytes(array) if name in self._text_outputs else array
                for name, array in zip(outputs, arrays, strict=True)
            ]
        return arrays

    def keep(self, arrays: Mapping[tuple[str, str], Array]) -> KeptArrays:
        """Bind memory of the caller's; see `core.session.KeepsArrays`."""
        if self._session is None:
            raise ModelUnavailable("the model was unloaded", retry_after=1.0)
        if self.providers != (CPU,):
            raise NotSupported(f"kept arrays: expected the CPU alone, got {self.providers[0]}")
        return KeptArrays(self._session, arrays, self._blame)

    def close(self) -> None:
        """Let go of the session; its memory is free when the last run has ended."""
        self._session = self._recorded = self._bound = None
