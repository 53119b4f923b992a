"""The seam between a served model and its task: payloads in, predictions out.

A `Task` is two pure functions around one run of the model. A `LoopingTask` runs it, or others of
the same server, as often as it needs. Both are made once for each loaded version, off the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeGuard, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict

from aiaas_client.protocol.predictions import Prediction
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card
from aiaas_server.core.generation import Answering, Ask, Generator
from aiaas_server.core.signature import Signature

# What a payload is when it reaches the task: `text` str; `image`, `audio` and `bytes` the bytes
# of the file; `features` a record (dict) or a list of values; `any` the JSON value as it came.
PayloadKind = Literal["text", "image", "audio", "features", "bytes", "any"]

T = TypeVar("T")


class Params(BaseModel):
    """What a caller may set with one prediction; a task derives its own from this."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


@dataclass(frozen=True, slots=True)
class Prepared:
    """One payload as tensors.

    Attributes:
        tensors: By input name, rows first where the model batches.
        rows: Rows that belong to this payload (windows, tiles); they stay together.
        context: For `postprocess`: whatever it needs to know of the payload.
        outputs: The outputs `postprocess` reads; empty is all.
    """

    tensors: Mapping[str, Array]
    rows: int = 1
    context: Any = None
    outputs: tuple[str, ...] = ()


@runtime_checkable
class Task(Protocol):
    """One run a payload.

    Attributes:
        input: Kind of its payload.
        predictions: The type of its answer; several when it depends on the payload.
        params: What a caller may set; `preprocess` and `postprocess` get a validated one.
        costs: Preprocessing takes longer than a hop to a thread (about 50 µs).
    """

    input: PayloadKind
    predictions: tuple[type[Prediction], ...]
    params: type[Params]
    costs: bool

    def preprocess(self, payload: Any, params: Any) -> Prepared:
        """Pure. Raises InvalidInput: what was wrong with the payload and what is accepted."""
        ...

    def postprocess(
        self, tensors: Mapping[str, Array], prepared: Prepared, params: Any
    ) -> Prediction:
        """Pure. `tensors` holds the rows of this payload only."""
        ...


class Run(Protocol):
    """What a looping task may do while it answers: all of it through the models' own queues."""

    async def __call__(
        self, tensors: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> Mapping[str, Array]:
        """Run the model; more rows than its `max_batch_size` are run in several batches."""
        ...

    def model(self, name: str, version: int = 0) -> Run:
        """The same for another model of the server; version 0 is the latest.

        It is looked for, and with a memory budget loaded, when it runs: that raises
        ModelNotFound, VersionNotFound or ModelUnavailable.
        """
        ...

    async def predict(self, payload: Any, params: Mapping[str, Any] | None = None) -> Prediction:
        """The prediction of this run's model's own task: `await run.model("x").predict(text)`."""
        ...

    async def generator(self) -> Generator:
        """What writes with this run's model, which stays in use until the call ends.

        Raises:
            InvalidInput: The model does not generate text.
        """
        ...

    async def generate(self, ask: Ask) -> Answering:
        """Begin an answer of that generator, within the call's deadline."""
        ...

    async def thread(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function that takes longer than a hop, away from the event loop."""
        ...


@runtime_checkable
class ColumnTask(Protocol):
    """What a task of columns tells besides: how to mix rows, and to read answers, as whole tensors.

    Attributes:
        cells: By column the input that it feeds, and which of its values.
        answers: Names of what `numbers` gives, in order: labels, or values.
        outputs: That `numbers` reads.
    """

    cells: Mapping[str, tuple[str, slice]]
    answers: tuple[str, ...]
    outputs: tuple[str, ...]

    def numbers(self, tensors: Mapping[str, Array]) -> Array:
        """`(rows, answers)` of the outputs of any number of rows."""
        ...


@runtime_checkable
class LoopingTask(Protocol):
    """Several runs a payload: speech, recognition, cascades, pipelines. Attributes as `Task`."""

    input: PayloadKind
    predictions: tuple[type[Prediction], ...]
    params: type[Params]

    async def predict(self, payload: Any, params: Any, run: Run) -> Prediction:
        """Raises InvalidInput: what was wrong with the payload and what is accepted."""
        ...


AnyTask = Task | LoopingTask


def is_looping(task: AnyTask) -> TypeGuard[LoopingTask]:
    """Which of the two it is; `isinstance` on protocols costs a tenth of a small prediction."""
    return hasattr(task, "predict")


class OpenTask(Protocol):
    """What a task's module offers as `open_task`."""

    def __call__(
        self,
        card: Card,
        assets: Assets,
        signature: Signature,
        metadata: Mapping[str, str],
    ) -> AnyTask:
        """Make the task of one version; everything heavy is imported and opened here.

        Args:
            card: Of the version.
            assets: The files beside the model.
            signature: Of the model, batch dimension included.
            metadata: What the model file says about itself.
        Raises:
            LoadFailed: "labels: the card names 3, output 'probabilities' has 2".
        """
        ...
