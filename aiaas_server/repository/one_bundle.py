"""A repository of one model, as the pool wants it: the bundle that is being verified."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from aiaas_client.protocol.management import MODEL_FILE
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.describe.stored import StoredModel, StoredVersion
from aiaas_server.core.errors import ControlDisabled, LoadFailed

VERSION = 1


class OneBundle:
    """See `core.describe.stored.ModelRepository`.

    Args:
        siblings: Files beside the model that hold weights of it.
    """

    def __init__(self, directory: Path, name: str, siblings: tuple[str, ...]) -> None:
        self._directory = directory
        self._siblings = siblings
        version = StoredVersion(VERSION, directory / MODEL_FILE, 0)
        self._stored = StoredModel(name, ModelConfig(), (version,), directory=directory)

    def names(self) -> list[str]:
        """The one model."""
        return [self._stored.name]

    def misplaced(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def find(self, name: str) -> StoredModel | None:
        """The model, if it is that."""
        return self._stored if name == self._stored.name else None

    def governs(self, name: str) -> bool:
        """Nobody else loads anything here."""
        return False

    def labels(self, model: StoredModel, version: StoredVersion, filename: str) -> tuple[str, ...]:
        """Refuse: no configuration of a bundle asks for a label file."""
        raise LoadFailed(f"label file '{filename}' is missing")

    def read_beside(self, model: StoredModel, version: StoredVersion, name: str) -> bytes:
        """The bytes of a file of the bundle. Raises `FileNotFoundError` where there is none."""
        return (self._directory / name).read_bytes()

    def warmup_data(self, model: StoredModel, version: StoredVersion, filename: str) -> bytes:
        """Refuse, as `labels`."""
        raise LoadFailed(f"warm-up data 'warmup/{filename}' is missing")

    def files_of(self, version: StoredVersion) -> list[Path]:
        """The model file and those that hold weights of it."""
        return [version.path, *(self._directory / name for name in self._siblings)]

    def upload(
        self, name: str, config: ModelConfig, files: Mapping[str, bytes]
    ) -> AbstractContextManager[StoredModel]:
        """Refuse: what is verified does not change."""
        raise ControlDisabled("a bundle that is being verified does not change")
