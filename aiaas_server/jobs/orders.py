"""What a server and the process of a job tell each other.

The process is started in a directory of its own that holds `order.json` and what that names. It
answers on a pipe, one `Line` of JSON after another, and leaves what it made in `out/`. It knows no
database, no key and no other directory.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from aiaas_client.protocol.datasets import Column, Dataset
from aiaas_client.protocol.jobs import JobError, Progress
from aiaas_client.protocol.management import Guard, Version

ORDER_FILE: Final = "order.json"
OUT: Final = "out"
CHECKPOINTS: Final = "checkpoints"
LONGEST_LINE: Final = 16 << 20  # bytes of a line, as of a profile of 4,096 columns; more is a fault


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class LaidDataset(_Document):
    """A data set that lies in the directory.

    Attributes:
        path: Of its Parquet file, relative.
    """

    dataset: Dataset
    path: str


class LaidVersion(_Document):
    """A version that lies in the directory.

    Attributes:
        path: Of the directory of its files, relative.
    """

    version: Version
    path: str


class LaidCheckpoint(_Document):
    """Where an attempt before this one came to."""

    step: int
    path: str


class Order(_Document):
    """What is to be done.

    Attributes:
        spec: A `protocol.jobs.JobSpec`, or `{"kind": "ingest", …}`; references are `name@number`.
        datasets, versions: By reference, as the spec has it.
        checkpoint: To go on from.
        threads: Processor cores that it may use.
        memory_bytes: Most that it may take.
    """

    job: str
    attempt: int = 1
    spec: dict[str, Any]
    datasets: dict[str, LaidDataset] = {}
    versions: dict[str, LaidVersion] = {}
    files: dict[str, str] = {}
    checkpoint: LaidCheckpoint | None = None
    threads: int = 1
    memory_bytes: int = 0


class MadeVersion(_Document):
    """A version to be kept.

    Attributes:
        path: Of the directory of its files: `model.onnx`, `model.json`, `golden.json`, assets.
        reference: An `.npz` of inputs (`in:<name>`) and outputs (`out:<name>`), rows first, of
            which the reference profile is made.
        alias: Points at it once it is verified; with `guard` by a guarded rollout.
    """

    model: str
    path: str
    note: str = ""
    metrics: dict[str, Any] = {}
    lineage: dict[str, Any] = {}
    reference: str | None = None
    alias: str | None = None
    guard: Guard | None = None


class MadeDataset(_Document):
    """A data set to be kept; `path` is of a Parquet file."""

    name: str
    path: str
    rows: int
    columns: list[Column]
    format: str = "parquet"
    note: str = ""
    lineage: dict[str, Any] = {}


class Product(_Document):
    """What a job made.

    Attributes:
        versions, datasets: In the order of `JobResult`.
        measured: Metrics that are added to those of a version, by its reference.
        files: By name the relative path of a file for the caller: `report.html`, `curves.svg`, …
    """

    versions: list[MadeVersion] = []
    datasets: list[MadeDataset] = []
    measured: dict[str, dict[str, Any]] = {}
    metrics: dict[str, Any] = {}
    table: list[dict[str, Any]] = []
    details: dict[str, Any] = {}
    files: dict[str, str] = {}


class ProgressLine(_Document):
    """It came further."""

    kind: Literal["progress"] = "progress"
    progress: Progress


class CheckpointLine(_Document):
    """There is a file from which it could go on; it lies whole and on the disk."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str


class FailedLine(_Document):
    """It has failed for good: another attempt would fail alike."""

    kind: Literal["failed"] = "failed"
    error: JobError


class DoneLine(_Document):
    """It is done."""

    kind: Literal["done"] = "done"
    product: Product


Line = Annotated[ProgressLine | CheckpointLine | FailedLine | DoneLine, Field(discriminator="kind")]
