"""What a fake registry keeps of a model and of a draft, and what it says of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from aiaas_client.protocol.management import (
    BundleFile,
    Draft,
    DraftFile,
    DraftRequest,
    Policy,
    Serving,
    Version,
)
from aiaas_client.testing.fake_model import FakeError

BY = "operator"


@dataclass(slots=True)
class DraftRow:
    """A version that is being brought, and the bytes that have come."""

    id: str
    request: DraftRequest
    created: float
    content: dict[str, bytearray] = field(default_factory=dict)

    def told(self, model: str) -> Draft:
        files = [self._file(file) for file in self.request.files]
        day = 86400.0
        return Draft(
            id=self.id, model=model, files=files, created=self.created, expires=self.created + day
        )

    def _file(self, file: BundleFile) -> DraftFile:
        received = len(self.content.get(file.name, b""))
        complete = file.name in self.content and received == file.size
        return DraftFile(**file.model_dump(), received=received, complete=complete)


@dataclass(slots=True)
class ModelRow:
    """A model and all that was ever done to it."""

    name: str
    created: float
    description: str = ""
    policy: Policy = field(default_factory=Policy)
    serving: Serving = field(default_factory=Serving)
    revision: int = 1
    position: int = 0  # of `served` that serves now
    served: list[Serving] = field(default_factory=lambda: [Serving()])
    versions: dict[int, Version] = field(default_factory=dict)
    drafts: dict[str, DraftRow] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)  # by digest
    is_gone: bool = False

    @property
    def latest(self) -> int | None:
        good = [number for number, one in self.versions.items() if one.state == "verified"]
        return max(good, default=None)


def made(name: str, number: int, digest: str, request: DraftRequest) -> Version:
    return Version(
        model=name,
        version=number,
        digest=digest,
        size=sum(file.size for file in request.files),
        files=request.files,
        metrics=request.metrics,
        lineage=request.lineage,
        note=request.note,
        created=time.time(),
        created_by=BY,
    )


def digests(version: Version) -> dict[str, Any]:
    return {file.name: file.sha256 for file in version.files}


def answering(serving: Serving) -> Serving:
    """The part that says who answers callers: what a rollback restores."""
    return serving.model_copy(update={"shadow": None, "pins": [], "sticky": True})


def replaced(serving: Serving, gone: int, replacement: int | None) -> Serving:
    """Who serves when a version is gone: the replacement, or nobody in its place."""
    aliases = {
        alias: replacement if pointed == gone else pointed
        for alias, pointed in serving.aliases.items()
        if pointed != gone or replacement is not None
    }
    changed: dict[str, Any] = {"aliases": aliases, "pins": [p for p in serving.pins if p != gone]}
    if str(gone) in serving.split:
        changed["split"] = {}
    if serving.shadow is not None and serving.shadow.version == gone:
        changed["shadow"] = None
    return serving.model_copy(update=changed)


def no_model(name: str) -> FakeError:
    return FakeError(404, f"model '{name[:64]}' is not in the registry")


def no_version(name: str, version: int | str) -> FakeError:
    return FakeError(404, f"model '{name}' has no version {str(version)[:64]}")
