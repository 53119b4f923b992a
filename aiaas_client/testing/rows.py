"""What a fake registry keeps of a model and of a draft, and what it says of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
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
DAY = 86400.0  # seconds that a draft is kept


@dataclass(slots=True)
class Received:
    """Files that are being brought, and the bytes that have come."""

    id: str
    wanted: Sequence[BundleFile]
    created: float
    content: dict[str, bytearray] = field(default_factory=dict)

    def files(self) -> list[DraftFile]:
        """What has come of each."""
        return [self._file(file) for file in self.wanted]

    def put(self, name: str, offset: int, content: bytes, whose: str) -> None:
        """Take the next bytes of a file; its digest is checked with the last of them."""
        wanted = next((one for one in self.wanted if one.name == name), None)
        if wanted is None:
            raise FakeError(404, f"{whose}: the draft has no file '{name[:64]}'")
        have = self.content.setdefault(name, bytearray())
        if offset != len(have):
            text = f"file '{name}': offset {offset}, and received are {len(have)}"
            raise FakeError(409, text, code="conflict")
        if offset + len(content) > wanted.size:
            raise FakeError(400, f"file '{name}': more than its {wanted.size} bytes")
        have += content
        if len(have) == wanted.size and hashlib.sha256(have).hexdigest() != wanted.sha256:
            del self.content[name]
            raise FakeError(400, f"file '{name}': its bytes have another digest")

    def _file(self, file: BundleFile) -> DraftFile:
        received = len(self.content.get(file.name, b""))
        complete = file.name in self.content and received == file.size
        return DraftFile(**file.model_dump(), received=received, complete=complete)


@dataclass(slots=True)
class DraftRow(Received):
    """A version that is being brought."""

    request: DraftRequest = field(kw_only=True)

    def told(self, model: str) -> Draft:
        expires = self.created + DAY
        files = self.files()
        return Draft(id=self.id, model=model, files=files, created=self.created, expires=expires)


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
