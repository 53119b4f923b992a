"""The documents of `/api/v1/jobs`: work that takes longer than a request, and what it made.

Times are seconds since 1970 (UTC); durations seconds; sizes bytes.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from aiaas_client.protocol.datasets import DatasetRef, Split
from aiaas_client.protocol.documents import Asked, Told
from aiaas_client.protocol.management import Alias, Guard, JsonObject, Name, Note
from aiaas_client.protocol.names import ALIAS, NAME

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: Final = frozenset[str]({"succeeded", "failed", "cancelled"})
ModelRef = Annotated[str, Field(pattern=f"^{NAME}(@([1-9][0-9]{{0,8}}|{ALIAS}))?$")]
"""`m@3`, `m@production`, `m@latest`; `m` alone is whoever answers calls that name no version."""
_ref = re.compile(rf"({NAME})(?:@([1-9][0-9]{{0,8}}|{ALIAS}))?").fullmatch
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Columns = Annotated[list[str], Field(min_length=1, max_length=10_000)]


def read_model_ref(ref: str) -> tuple[str, int | str | None]:
    """Name and version of a reference: a number, an alias, or None.

    Raises:
        ValueError: It is none.
    """
    found = _ref(ref)
    if found is None:
        raise ValueError(f"expected MODEL or MODEL@VERSION, got {ref[:80]!r}")
    version = found[2]
    return found[1], int(version) if version and version.isdigit() else version


class Search(Asked):
    """A search over parameters, by cross-validation on the rows that are not held out.

    Attributes:
        params: By parameter the values to try, or for `random` also `{"low", "high", "log"}`.
        method: Every combination, `trials` random ones, or halving: many on few rows, then the
            better half on twice as many.
        folds: Of the cross-validation.
        metric: What is best: `accuracy`, `f1`, `roc_auc`, `log_loss`; `mse`, `mae`, `r2`; by
            default accuracy or MSE.
    """

    params: dict[str, Any]
    method: Literal["grid", "random", "halving"] = "grid"
    trials: Annotated[int, Field(ge=1, le=1000)] = 20
    folds: Annotated[int, Field(ge=2, le=20)] = 3
    metric: str | None = None


class TrainSpec(Asked):
    """Train a model by a recipe; the result is a version.

    Attributes:
        model: The name that the version gets.
        recipe: One of `GET /api/v1/recipes`.
        target: The column to learn; `label`, `target` or the last one where it is None.
        features: The columns to learn from; all others where it is None.
        params: Of the recipe; what is left out has a default that works.
        workers: Processes of a torch recipe, data-parallel; of others processor cores.
        cluster: `ray://host:port` of the operator's list, to learn there with `workers` workers; or
            `ray://local`, a Ray that the job starts for itself.
        seed: Equal seeds give equal models.
        folds: Cross-validation beside the held-out rows; 0 is none.
        class_weight: `balanced` weighs rare classes up.
        alias: Points at the version once it is verified.
    """

    kind: Literal["train"] = "train"
    model: Name
    recipe: str
    dataset: DatasetRef
    target: str | None = None
    features: Columns | None = None
    params: JsonObject = {}
    split: Split = Split()
    search: Search | None = None
    folds: Annotated[int, Field(ge=0, le=20)] = 0
    class_weight: Literal["balanced"] | dict[str, float] | None = None
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    cluster: str | None = None
    seed: Seed = 0
    alias: Alias | None = None


class EvaluateSpec(Asked):
    """Measure a version on a data set; the metrics are added to the version's.

    Attributes:
        target: The column of the truth; that of the version's training where it is None.
        held_out: Only the rows that its training held out, of the same data set.
    """

    kind: Literal["evaluate"] = "evaluate"
    model: ModelRef
    dataset: DatasetRef
    target: str | None = None
    held_out: bool = False


class CompareSpec(Asked):
    """Measure two versions on the same rows: differences with confidence intervals.

    Attributes:
        resamples: Of the bootstrap.
        confidence: Of the intervals.
    """

    kind: Literal["compare"] = "compare"
    models: Annotated[list[ModelRef], Field(min_length=2, max_length=2)]
    dataset: DatasetRef
    target: str | None = None
    held_out: bool = False
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    seed: Seed = 0


class ScoreSpec(Asked):
    """Have a version answer to every row; the answers are a data set, a row for a row.

    Attributes:
        output: The name of that data set; `<model>-scores` where it is None.
        keep: Columns of the data set that are carried over; all but images and arrays where it is
            None.
    """

    kind: Literal["score"] = "score"
    model: ModelRef
    dataset: DatasetRef
    output: Name | None = None
    keep: list[str] | None = None


class OptimiseSpec(Asked):
    """Make smaller or faster versions of one, each measured beside it.

    Attributes:
        targets: What to try.
        dataset: Measures accuracy, and calibrates `int8-static`.
        max_drop: Of the metric; what loses more is measured, but makes no version.
        metric: Accuracy or R² by default.
        promote: Point this alias at the fastest within the gate.
        guard: Of that promotion.
    """

    kind: Literal["optimise"] = "optimise"
    model: ModelRef
    targets: Annotated[
        list[Literal["int8-dynamic", "int8-static", "fp16", "graph"]],
        Field(min_length=1, max_length=4),
    ] = ["int8-dynamic", "int8-static", "fp16", "graph"]
    dataset: DatasetRef
    target: str | None = None
    max_drop: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    metric: str | None = None
    held_out: bool = False
    promote: Alias | None = None
    guard: Guard | None = None
    seed: Seed = 0


class ExplainSpec(Asked):
    """What a version looks at, over a whole data set.

    Attributes:
        repeats: Times that each column is shuffled.
        rows: At most so many are used, drawn by `seed`.
        curves: Columns with a curve of partial dependence: the most important ones.
    """

    kind: Literal["explain"] = "explain"
    model: ModelRef
    dataset: DatasetRef
    target: str | None = None
    repeats: Annotated[int, Field(ge=1, le=100)] = 5
    rows: Annotated[int, Field(ge=10, le=100_000)] = 2000
    curves: Annotated[int, Field(ge=0, le=50)] = 6
    held_out: bool = False
    seed: Seed = 0


class BatchSpec(Asked):
    """A file of OpenAI calls, a line each: `POST /v1/batches` makes it.

    Attributes:
        file: Its id, `file-…`.
        endpoint: The path that every line calls.
        models: Versions that the lines may call.
        called: By the name that lines call, one of `models`; a name that is not here is that of
            the version that has it.
        metadata: The caller's own.
    """

    kind: Literal["batch"] = "batch"
    file: str
    endpoint: Literal["/v1/embeddings"]
    models: Annotated[list[ModelRef], Field(max_length=100)] = []
    called: dict[str, ModelRef] = {}
    metadata: dict[str, str] = {}


JobSpec = Annotated[
    TrainSpec | EvaluateSpec | CompareSpec | ScoreSpec | OptimiseSpec | ExplainSpec | BatchSpec,
    Field(discriminator="kind"),
]
SPEC: Final = TypeAdapter[
    TrainSpec | EvaluateSpec | CompareSpec | ScoreSpec | OptimiseSpec | ExplainSpec | BatchSpec
](JobSpec)


class JobRequest(Asked):
    """`POST /api/v1/jobs`.

    Attributes:
        attempts: Processes that may be started for it: one that dies goes on from its checkpoint.
        timeout: Of the whole job; the server's own limit where it is None or longer.
    """

    spec: JobSpec
    note: Note = ""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    timeout: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None


class Progress(Told):
    """Where a job is.

    Attributes:
        step, total: In `unit`s, such as epochs, folds or rows; 0 where it is not known.
        phase: What it does just now: `reading`, `training`, `exporting`, …
        rate: Rows a second; 0 where it says nothing.
        left: Seconds, as far as the rate tells.
        metrics: As of this step: loss, validation accuracy, …
    """

    phase: str = ""
    step: int = 0
    total: int = 0
    unit: str = ""
    rate: float = 0.0
    left: float | None = None
    metrics: dict[str, float] = {}


class JobError(Told):
    """Why a job failed; `code` is one of `failed invalid_input out_of_memory timeout lost
    storage_full quota_exceeded
    diverged parity`.
    """

    code: str
    message: str
    details: dict[str, Any] = {}


class JobFile(Told):
    """A file that a job made, to be had from `/api/v1/jobs/{j}/files/{name}`."""

    name: str
    size: int
    sha256: str


class JobResult(Told):
    """What a job made.

    Attributes:
        versions: Versions of models, by number; `model` is their name.
        datasets: As `name@number`.
        metrics: Of the held-out rows, or of the evaluation.
        table: Rows of the comparison, of the candidates, of the trials of a search (the best
            first), or of a cross-validation.
        files: The report, plots, predictions.
        details: What else there is to tell: the confusion matrix, the best parameters, curves, …
    """

    model: str = ""
    versions: list[int] = []
    datasets: list[str] = []
    metrics: dict[str, Any] = {}
    table: list[dict[str, Any]] = []
    files: list[JobFile] = []
    details: dict[str, Any] = {}


class Job(Told):
    """A job.

    Attributes:
        attempt: Processes that were started for it.
        progress: Of the last event.
        log: The last lines that it printed, secrets left out.
        cancelling: A cancellation was asked for and is under way.
    """

    shown = ("id", "kind", "state", "attempt", "progress", "error")

    id: str
    kind: str
    state: JobState = "queued"
    spec: dict[str, Any] = {}
    note: str = ""
    attempt: int = 0
    attempts: int = 3
    cancelling: bool = False
    progress: Progress = Progress()
    result: JobResult | None = None
    error: JobError | None = None
    log: list[str] = []
    created: float = 0.0
    created_by: str = ""
    started: float | None = None
    ended: float | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in ENDED


class JobEvent(Told):
    """One event of `/api/v1/jobs/{j}/events`; `seq` grows, and is the SSE `id`.

    Attributes:
        kind: `state` (`data` has `state`, `attempt`, and of a failure `error`), `progress` (a
            `Progress`), or `log` (`{"line": …}`).
    """

    seq: int
    at: float
    kind: Literal["state", "progress", "log"]
    data: dict[str, Any] = {}


class RecipeInfo(Told):
    """A recipe.

    Attributes:
        task: `classification` or `regression`.
        columns: The kinds of columns that it learns from.
        params: JSON schema of its parameters, with defaults.
        extra: What has to be installed for it on the server; empty where it is.
        parallel: Whether `workers` above 1 are of use.
    """

    shown = ("name", "title", "task", "extra")

    name: str
    title: str = ""
    description: str = ""
    task: str = ""
    columns: list[str] = []
    params: dict[str, Any] = {}
    extra: str = ""
    parallel: bool = False
