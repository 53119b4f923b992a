"""What the pool asks of the place where models lie."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiaas_server.core.describe.config import ModelConfig

_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def name_problem(name: str) -> str:
    """Why no route could reach a model of this name; "" for a usable one."""
    if name == "stats":
        return "a model cannot be named 'stats': /v2/models/stats is the statistics of all models"
    if not _name.fullmatch(name):
        return (
            "the name of a model begins with a letter or digit of ASCII and goes on with those, "
            "'.', '_' and '-'"
        )
    return ""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a stored model.

    Attributes:
        path: The model file; it may be missing or damaged.
        stamp: Differs when the files do.
    """

    number: int
    path: Path
    stamp: Hashable


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model as it lies on disk.

    Attributes:
        config: As written; empty where there is none or it is unusable.
        versions: Ascending.
        problem: Why the name or the configuration is unusable; empty when they are not.
        stamp: Differs when the configuration does.
        directory: Where the files lie that the configuration names.
        isolated: It is to run in a process of its own.
    """

    name: str
    config: ModelConfig
    versions: tuple[StoredVersion, ...]
    problem: str = ""
    stamp: Hashable = None
    directory: Path | None = None
    isolated: bool = False


class ModelRepository(Protocol):
    """A directory of models; every call reads the disk and blocks."""

    def names(self) -> list[str]:
        """All models, in order."""
        ...

    def misplaced(self) -> dict[str, str]:
        """By name, what to do about each place that looks like a model's and holds none."""
        ...

    def find(self, name: str) -> StoredModel | None:
        """One model as it is now, or None."""
        ...

    def governs(self, name: str) -> bool:
        """Whether the repository itself says what of a model is loaded, and nobody else."""
        ...

    def labels(self, model: StoredModel, version: StoredVersion, filename: str) -> tuple[str, ...]:
        """The lines of a label file. Raises `LoadFailed` when it cannot be read."""
        ...

    def read_beside(self, model: StoredModel, version: StoredVersion, name: str) -> bytes:
        """The bytes of a file beside a version. Raises `FileNotFoundError` where there is none."""
        ...

    def warmup_data(self, model: StoredModel, version: StoredVersion, filename: str) -> bytes:
        """A file of the model's directory `warmup`. Raises `LoadFailed` when it cannot be read."""
        ...

    def files_of(self, version: StoredVersion) -> list[Path]:
        """The model file and those beside it that hold weights of it.

        Raises `LoadFailed` when it names weights anywhere but in a plain file beside it.
        """
        ...

    def upload(
        self, name: str, config: ModelConfig, files: Mapping[str, bytes]
    ) -> AbstractContextManager[StoredModel]:
        """A model of files that came with a load call, `<version>/<file name>` to bytes.

        They exist while the context is open. Raises `LoadFailed` for a name that is not of
        that form.
        """
        ...
