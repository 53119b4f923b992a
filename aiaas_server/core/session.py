"""The seam to a runtime: what the core asks of one loaded model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aiaas_client.protocol.tensors import Array

from .signature import TensorSpec

if TYPE_CHECKING:
    from .config import ModelConfig


class StopToken:
    """Asks a running `Session.run` to end early; usable from any thread, any number of times."""

    __slots__ = ("_callback", "stopped")

    def __init__(self) -> None:
        self.stopped = False
        self._callback: Callable[[], object] | None = None

    def stop(self) -> None:
        """Ask the run to end; at once if it has not begun."""
        self.stopped = True
        if self._callback is not None:
            self._callback()

    def on_stop(self, callback: Callable[[], object]) -> None:
        """Have `callback` called at the stop, or now if it has happened; it may be called twice."""
        self._callback = callback
        if self.stopped:
            callback()


class Session(Protocol):
    """One loaded model. `run` may be called from several threads at once.

    Attributes:
        inputs: In the model's order; full shapes as the graph tells them, -1 where variable.
        outputs: The same for the outputs.
        providers: Execution providers in use, in order of preference.
        metadata: What the model file says about itself.
        has_loops: The graph branches or repeats, so that a run's time lies in its input's values.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def providers(self) -> tuple[str, ...]: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def has_loops(self) -> bool: ...

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], stop: StopToken | None = None
    ) -> list[Array]:
        """Run once; arrays in the order of `outputs`.

        Raises:
            InvalidInput: The runtime refuses the input.
            DeadlineExceeded: `stop` ended the run.
            InferenceFailed: Anything else that goes wrong.
        """
        ...

    def close(self) -> None:
        """Release the model's memory; a run in progress ends first."""
        ...


class OpenSession(Protocol):
    """Opens a model file; blocking, called off the event loop, one call at a time."""

    def __call__(self, model: Path | bytes, config: ModelConfig) -> Session:
        """Raises `LoadFailed` with a one-line reason free of paths."""
        ...
