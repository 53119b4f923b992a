"""Deploying without HTTP: requests, bodies in pieces, and a verifier that loads the model."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from aiaas_client.protocol.management import BundleFile, Draft, DraftRequest, Report, TensorSpec
from aiaas_server.core.errors import Rejected
from aiaas_server.registry.commit import Committed
from aiaas_server.registry.deployment import Deployment
from aiaas_server.registry.rows import Author
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database

ME = Author(by="me")


class Looked:
    """What `load_it` found."""

    report = Report(opset={"": 17}, nodes=1)
    card: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] = {}
    profile: Mapping[str, Any] | None = None

    def __init__(self, session: Any) -> None:
        self.inputs = [_spec(value) for value in session.get_inputs()]
        self.outputs = [_spec(value) for value in session.get_outputs()]


def _spec(value: Any) -> TensorSpec:
    shape = [dim if isinstance(dim, int) else -1 for dim in value.shape]
    return TensorSpec(name=value.name, datatype="FP32", shape=shape)


async def load_it(directory: Path, *, name: str, digests: Mapping[str, str]) -> Looked:
    """A verifier: the model loads, and the files are those that were announced."""
    for file, digest in digests.items():
        assert sha((directory / file).read_bytes()) == digest
    try:
        session = await asyncio.to_thread(
            onnxruntime.InferenceSession, str(directory / "model.onnx")
        )
    except Exception as error:
        raise Rejected(f"model.onnx cannot be loaded: {str(error)[:80]}") from None
    return Looked(session)


async def accept(directory: Path, *, name: str, digests: Mapping[str, str]) -> Looked:
    """A verifier for bytes that need not be a model."""
    return Looked(_Nothing())


class _Nothing:
    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs


def open_deployment(database: Database, data: Path, **given: Any) -> Deployment:
    """A deployment with room on any disk, and no models beside it."""
    settings = Settings(data=data, **given.pop("settings", {"disk_reserve_bytes": 0}))
    given.setdefault("is_taken", lambda name: False)
    return Deployment(settings, data, database, given.pop("verify", accept), **given)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def request_for(files: Mapping[str, bytes], **more: Any) -> DraftRequest:
    listed = [BundleFile(name=n, size=len(c), sha256=sha(c)) for n, c in files.items()]
    return DraftRequest(files=listed, **more)


async def in_pieces(content: bytes, sizes: Sequence[int] = ()) -> AsyncIterator[bytes]:
    """A body that comes in pieces of those sizes, and then the rest."""
    at = 0
    for size in sizes:
        if content[at : at + size]:
            yield content[at : at + size]
        at += size
    if content[at:]:
        yield content[at:]


async def send(
    deployment: Deployment, draft: Draft, files: Mapping[str, bytes], author: Author = ME
) -> Draft:
    """Send what is missing of a draft."""
    for file in draft.missing:
        body = in_pieces(files[file.name][file.received :])
        draft = await deployment.drafts.receive(
            author, draft.model, draft.id, file.name, body, offset=file.received
        )
    return draft


async def deploy(
    deployment: Deployment, name: str, files: Mapping[str, bytes], author: Author = ME, **more: Any
) -> Committed:
    """All of it: open, send, commit."""
    draft, _ = await deployment.drafts.create(author, name, request_for(files, **more))
    draft = await send(deployment, draft, files, author)
    return await deployment.commits.commit(author, name, draft.id)


def files_below(root: Path) -> set[str]:
    """All files of a data directory, as far as they belong to versions and drafts."""
    return {
        path.relative_to(root).as_posix()
        for part in ("artefacts", "cache", "drafts")
        for path in (root / part).rglob("*")
        if path.is_file()
    }
