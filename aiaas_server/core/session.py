"""The seam to a runtime: what the core asks of one loaded model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.signature import TensorSpec

if TYPE_CHECKING:
    from aiaas_server.core.describe.config import ModelConfig


class StopToken:
    """Asks a running `Session.run` to end early; usable from any thread, any number of times.

    Attributes:
        tries: The run finds out what the model takes: that it fails is no news.
    """

    __slots__ = ("_callback", "stopped", "tries")

    def __init__(self, *, tries: bool = False) -> None:
        self.stopped = False
        self.tries = tries
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


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What was found in a model's graph before it was opened.

    Attributes:
        shared_cache: Keys and values of earlier tokens are a buffer, extended in place.
        cost_in_values: How long a run takes lies in the values of its input, not only in their
            size, as where a graph repeats, or makes a tensor of a size that a request carries.
        changes: What was done to the graph in memory, a sentence each.
        words: Texts that the model knows: categories, keys, a vocabulary; the first few.
    """

    cost_in_values: bool = False
    shared_cache: bool = False
    changes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


ISOLATION: Final = "isolation"
"""The key of a model's metadata that tells how it is kept apart, where it is."""


@dataclass(slots=True)
class Isolation:
    """What is known of the process that a model runs in, where it has one of its own.

    Attributes:
        confined: The system has taken calls away from it; else there are limits only.
        deaths: How often it ended without being asked to.
        restarts: How often another one took its place then.
        recycled: How often one did because it had grown.
        quarantined: Why there will be no further one; "" while there is.
        memory_bytes: What it took when it had opened the model.
    """

    confined: bool
    deaths: int = 0
    restarts: int = 0
    recycled: int = 0
    quarantined: str = ""
    memory_bytes: int = 0


class Described(Protocol):
    """What is known of a model file that was opened.

    Attributes:
        inputs: In the model's order; full shapes as the graph tells them, -1 where variable.
        outputs: The same for the outputs.
        providers: Execution providers in use, in order of preference.
        graph: What was found in its graph.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def providers(self) -> tuple[str, ...]: ...
    @property
    def graph(self) -> GraphFacts: ...


class Session(Described, Protocol):
    """One loaded model. `run` may be called from several threads at once.

    Attributes:
        metadata: What the model file says about itself.
    """

    @property
    def metadata(self) -> Mapping[str, str]: ...

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


def isolation_of(session: Session) -> Isolation | None:
    """What is known of the process that a session runs in; None where that is this one."""
    found: Isolation | None = getattr(session, "isolation", None)
    return found


class KeptRuns(Protocol):
    """Runs over arrays that stay where they are: each of them is an input and an output."""

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        stop: StopToken | None = None,
        into: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        """Run once, as `Session.run`; the kept arrays are read, and extended in place.

        Args:
            into: Contiguous memory for further outputs, of just their shape and type.
        Raises:
            DeadlineExceeded: `stop` ended the run.
            InferenceFailed: Anything else that goes wrong.
        """
        ...


class KeepsArrays(Protocol):
    """A session that can run over memory of the caller's, without copying it in and out."""

    def keep(self, arrays: Mapping[tuple[str, str], Array]) -> KeptRuns:
        """Bind arrays, each under the name of an input and of an output.

        They are contiguous, belong to the caller, and may be written between two runs.

        Raises:
            NotSupported: The device is another one than the arrays are on.
        """
        ...


class OpenSession(Protocol):
    """Opens a model file; blocking, called off the event loop, one call at a time."""

    def __call__(self, model: Path | bytes, config: ModelConfig) -> Session:
        """Raises `LoadFailed` with a one-line reason free of paths."""
        ...
