"""The documents of the Open Inference Protocol besides tensors, as the SDK reads them.

They are read tolerantly, because other servers leave fields out, add their own, or send `null`:
unknown keys are ignored and absent ones have the value that means "not told".
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _absent_as_empty_list(value: Any) -> Any:
    return [] if value is None else value


def _absent_as_empty_text(value: Any) -> Any:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else value


TextList = Annotated[list[str], BeforeValidator(_absent_as_empty_list)]
Text = Annotated[str, BeforeValidator(_absent_as_empty_text)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ServerMetadata(_Document):
    """`GET /v2`: who answers and which extensions it has."""

    name: Text = ""
    version: Text = ""
    extensions: TextList = []

    def has(self, extension: str) -> bool:
        """Tell whether the server lists `extension`, such as `binary_tensor_data`."""
        return extension in self.extensions


class TensorMetadata(_Document):
    """One input or output of a model.

    Attributes:
        name: As in `infer(name=...)`.
        datatype: The protocol's word, `FP32` for example.
        shape: A size for each dimension, the batch included; -1 for a variable one.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(_Document):
    """`GET /v2/models/{m}`: a model's inputs and outputs, in its own order.

    Attributes:
        versions: Those that are ready, as text; empty when the server does not tell.
        platform: What runs it, `onnxruntime_onnx` for example.
    """

    name: Text = ""
    versions: TextList = []
    platform: Text = ""
    inputs: Annotated[list[TensorMetadata], BeforeValidator(_absent_as_empty_list)] = []
    outputs: Annotated[list[TensorMetadata], BeforeValidator(_absent_as_empty_list)] = []


class RepositoryEntry(_Document):
    """One row of the repository index; only `name` is known for a model never loaded.

    Attributes:
        state: `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`; "" where it is not told.
        reason: Why it is in that state, in words.
    """

    name: str
    version: Text = ""
    state: Text = ""
    reason: Text = ""

    @property
    def is_ready(self) -> bool:
        """Whether this version serves requests now."""
        return self.state == "READY"


class DurationStatistic(_Document):
    """A count of events and the nanoseconds they took together."""

    count: int = 0
    ns: int = 0

    @property
    def mean_seconds(self) -> float:
        """Mean duration in seconds; 0.0 before the first event."""
        return self.ns / self.count / 1e9 if self.count else 0.0


class InferenceStatistics(_Document):
    """Where the time of one version's requests went, cumulative since its start."""

    success: DurationStatistic = DurationStatistic()
    fail: DurationStatistic = DurationStatistic()
    queue: DurationStatistic = DurationStatistic()
    compute_input: DurationStatistic = DurationStatistic()
    compute_infer: DurationStatistic = DurationStatistic()
    compute_output: DurationStatistic = DurationStatistic()
    cache_hit: DurationStatistic = DurationStatistic()
    cache_miss: DurationStatistic = DurationStatistic()


class BatchStatistics(_Document):
    """Executions at one batch size."""

    batch_size: int
    compute_input: DurationStatistic = DurationStatistic()
    compute_infer: DurationStatistic = DurationStatistic()
    compute_output: DurationStatistic = DurationStatistic()


class CurvePoint(_Document):
    """How long a run of one size takes, as its server learned it."""

    size: int
    ns: int = 0

    @property
    def seconds_each(self) -> float:
        """Seconds of the run for each of its items or elements."""
        return self.ns / self.size / 1e9 if self.size else 0.0


class BatchCurve(_Document):
    """Which batches pay, an extension that only this project's server tells.

    Attributes:
        unit: What a size counts: `rows`, `elements` where rows are padded, or `bytes` where
            their shapes differ.
        cap: From this size on more gains nothing, so that batches are no larger.
        points: Ascending by size.
    """

    unit: Text = ""
    cap: int = 0
    points: Annotated[list[CurvePoint], BeforeValidator(_absent_as_empty_list)] = []


class ModelStatistics(_Document):
    """Counts and times of one version, since it was loaded.

    Attributes:
        last_inference: Milliseconds since the epoch; 0 before the first.
        inference_count: Rows inferred; a request without batch dimension counts as one.
        execution_count: Runs of the model, each for one batch.
        inference_stats: Where the time of requests went.
        batch_stats: Runs by their batch size.
        batch_curve: How long a run takes by its size; None where that is not told or not known.
    """

    name: str
    version: Text = ""
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: InferenceStatistics = InferenceStatistics()
    batch_stats: Annotated[list[BatchStatistics], BeforeValidator(_absent_as_empty_list)] = []
    batch_curve: BatchCurve | None = None

    @property
    def mean_batch_size(self) -> float:
        """Items an execution; 0.0 before the first."""
        return self.inference_count / self.execution_count if self.execution_count else 0.0


class StatisticsAnswer(_Document):
    """`GET /v2/models[/{m}]/stats`."""

    model_stats: list[ModelStatistics] = []


class ErrorBody(_Document):
    """The JSON body of every answer that is not a success; `code` is an `ErrorCode`."""

    error: str
    code: str
    retryable: bool = False
    request_id: str = ""
