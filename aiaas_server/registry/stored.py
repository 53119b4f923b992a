"""`RegistryRepository`: the directory of models, and beside it what the registry wants loaded.

The registry's part is what `Reconcile` presents: of each model the versions that are to be loaded,
each a bundle in a directory of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from aiaas_client.protocol.management import MODEL_FILE, Policy
from aiaas_server.core.describe.config import ModelConfig, VersionPolicy
from aiaas_server.core.describe.stored import ModelRepository, StoredModel, StoredVersion
from aiaas_server.core.errors import LoadFailed

_LABELS, _WARMUP = 16 << 20, 256 << 20  # most bytes of such a file


class RegistryRepository:
    """A `core.describe.stored.ModelRepository`.

    Args:
        base: The directory. A name that it has is its own, whatever the operator has in the
            registry under it; tenants' models have names of their own.
    """

    def __init__(self, base: ModelRepository) -> None:
        self._base = base
        self._presented: dict[str, StoredModel] = {}

    # What the registry wants

    def present(self, model: StoredModel) -> None:
        """Have the pool find `model` from now on, instead of what it found under that name."""
        self._presented[model.name] = model

    def withdraw(self, name: str) -> None:
        """Have the pool find it no longer."""
        self._presented.pop(name, None)

    def presented(self, name: str) -> StoredModel | None:
        """What the pool finds of the registry's."""
        return self._presented.get(name)

    def in_directory(self, name: str) -> bool:
        """Whether the directory has a model of that name; reads the disk."""
        return "/" not in name and self._base.find(name) is not None

    # What the pool asks

    def names(self) -> list[str]:
        """All models, in order."""
        return sorted({*self._base.names(), *self._presented})

    def misplaced(self) -> dict[str, str]:
        """As the directory has it."""
        return self._base.misplaced()

    def find(self, name: str) -> StoredModel | None:
        """One model as it is to be now, or None."""
        beside = None if "/" in name else self._base.find(name)
        return beside or self._presented.get(name)

    def governs(self, name: str) -> bool:
        """Whether it is the registry's."""
        return name in self._presented

    def labels(self, model: StoredModel, version: StoredVersion, filename: str) -> tuple[str, ...]:
        """The lines of a label file, which is an asset of the bundle."""
        if not self._is_bundle(model):
            return self._base.labels(model, version, filename)
        text = _read(version.path.parent / filename, _LABELS, f"label file '{filename}'")
        try:
            lines = text.decode().removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise LoadFailed(f"label file '{filename}' is not UTF-8 text") from error
        return tuple(line.rstrip("\r") for line in lines)

    def read_beside(self, model: StoredModel, version: StoredVersion, name: str) -> bytes:
        """The bytes of a file of the bundle."""
        if not self._is_bundle(model):
            return self._base.read_beside(model, version, name)
        return (version.path.parent / name).read_bytes()

    def warmup_data(self, model: StoredModel, version: StoredVersion, filename: str) -> bytes:
        """A file that a warm-up request names, which is an asset of the bundle."""
        if not self._is_bundle(model):
            return self._base.warmup_data(model, version, filename)
        return _read(version.path.parent / filename, _WARMUP, f"warm-up data '{filename}'")

    def files_of(self, version: StoredVersion) -> list[Path]:
        """The model file and those beside it that hold weights of it."""
        return self._base.files_of(version)

    def upload(
        self, name: str, config: ModelConfig, files: Mapping[str, bytes]
    ) -> AbstractContextManager[StoredModel]:
        """As the directory has it; what the registry governs is not loaded from calls."""
        return self._base.upload(name, config, files)

    def _is_bundle(self, model: StoredModel) -> bool:
        return isinstance(model.stamp, _Bundle)


class _Bundle(str):
    """The stamp of what the registry presents; equal where the policy's configuration is."""

    __slots__ = ()


def policy_stamp(policy: Policy) -> str:
    """Differs when the configuration of a policy does."""
    return _Bundle(json.dumps(policy.config or {}, sort_keys=True))


def stored_model(
    name: str,
    policy: Policy,
    places: Mapping[int, tuple[Path, str]],
    *,
    isolated: bool = False,
) -> StoredModel:
    """Exactly these versions of a model.

    Args:
        name: The server's own name of it.
        places: By number, the directory of the bundle and its digest.
    """
    written = policy_stamp(policy)
    config, problem = ModelConfig(), ""
    try:
        config = ModelConfig.parse(written)
    except LoadFailed as error:
        problem = f"policy.config: {error.message}"
    filename = config.default_model_filename or MODEL_FILE
    versions = [
        StoredVersion(number, place / filename, digest)
        for number, (place, digest) in sorted(places.items())
    ]
    everything = config.model_copy(update={"version_policy": VersionPolicy(all={})})
    return StoredModel(name, everything, tuple(versions), problem, written, isolated=isolated)


def _read(path: Path, limit: int, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise LoadFailed(f"{what} cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise LoadFailed(f"{what} is larger than {limit} bytes")
    return content
