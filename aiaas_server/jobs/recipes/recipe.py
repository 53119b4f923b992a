"""`Recipe`: how a model is trained, and how it becomes a bundle.

A module of a recipe is light: a server imports it for its name and parameters. What is heavy is
imported inside `fit`, which only the process of a job calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_server.jobs.table import Table

TaskKind = Literal["classification", "regression"]
Array = np.ndarray[Any, Any]


class Params(BaseModel):
    """Parameters of a recipe; each with a default that works, a range and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


P = TypeVar("P", bound=Params)


class Cluster(NamedTuple):
    """Workers of a Ray cluster that are held for a training.

    Attributes:
        group: Ray's placement group, one bundle a worker.
        cores: Of each worker.
        gpus: Of each worker, 0 or 1.
        is_local: Whether all are on this machine.
    """

    group: Any
    workers: int
    cores: int
    gpus: int
    is_local: bool

    def options(self, worker: int = -1) -> dict[str, Any]:
        """What `options` of a task or an actor takes, to run on one of the workers; -1 is any."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        place: Any = PlacementGroupSchedulingStrategy(
            self.group, placement_group_bundle_index=worker
        )
        return {"num_cpus": self.cores, "num_gpus": self.gpus, "scheduling_strategy": place}


class Training(NamedTuple):
    """What is learned from.

    Attributes:
        features: Rows of the columns to learn from.
        target: One value a row: of a classification the index into `classes`, else float64.
        classes: The labels as texts, in the order of the outputs; empty for regression.
        validation: Rows and target held out for early stopping, if any.
        weights: Of the rows, if they differ.
        workers: Processes, or cores.
        threads: Cores that this process may use.
        cluster: Where the workers are, if not on this machine; joblib's work goes there by itself.
    """

    features: Table
    target: Array
    classes: tuple[str, ...] = ()
    validation: tuple[Table, Array] | None = None
    weights: Array | None = None
    seed: int = 0
    workers: int = 1
    threads: int = 1
    cluster: Cluster | None = None


class Watch(Protocol):
    """Who follows a job. Every call is cheap enough for each epoch, not for each row."""

    restored: Path | None
    """The checkpoint that an attempt before this one left."""
    scratch: Path
    """A directory for whatever is needed meanwhile."""

    def phase(self, name: str) -> None:
        """What comes next: `reading`, `training`, `exporting`, …"""
        ...

    def progress(
        self,
        step: int,
        total: int = 0,
        unit: str = "",
        *,
        rate: float = 0.0,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """`step` of `total` is done; the time that is left is told from the pace."""
        ...

    def checkpoint(self, step: int, write: Callable[[Path], object]) -> None:
        """Have `write` put all that is needed to go on into a file, and keep that."""
        ...

    def log(self, line: str) -> None:
        """A line of the job's log."""
        ...


class Diverged(Exception):
    """The loss is not a number any more; the message says at which step."""


class Exported(NamedTuple):
    """A bundle's files that were written, and what its card says.

    Attributes:
        card: `task`, `labels`, `preprocessing`, `postprocessing`; without what the engine adds
            (name, metrics, lineage).
        tolerance: Largest difference of scores, or relative one of values, between the trainer and
            the exported model that rounding explains.
    """

    card: dict[str, Any]
    tolerance: float = 1e-4


class Fitted(ABC):
    """A trained model, as its own library runs it."""

    @abstractmethod
    def answer(self, features: Table) -> Array:
        """`[rows, classes]` probabilities, or `[rows]` values; float64."""

    @abstractmethod
    def export(self, directory: Path) -> Exported:
        """Write `model.onnx` and the assets that the card names."""


class Recipe(ABC, Generic[P]):
    """One way to train.

    Attributes:
        name: `logistic-regression`.
        kinds: Columns that it learns from; others are refused by name.
        extra: Of this package that it needs; `modules` are what must be importable.
        parallel: Whether `workers` above 1 are of use.
        resumes: Whether it goes on from a checkpoint.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    task: ClassVar[TaskKind]
    kinds: ClassVar[frozenset[ColumnKind]] = frozenset({"number", "integer", "boolean", "category"})
    extra: ClassVar[str] = "train"
    modules: ClassVar[tuple[str, ...]] = ("sklearn", "skl2onnx")
    parallel: ClassVar[bool] = False
    resumes: ClassVar[bool] = False
    params: type[P]

    @abstractmethod
    def fit(self, params: P, data: Training, watch: Watch) -> Fitted:
        """Train.

        Raises:
            Diverged: The loss is not a number any more.
            InvalidInput: The data cannot be learned from; the message names the column.
        """
