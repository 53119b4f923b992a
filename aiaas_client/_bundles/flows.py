"""Deploying, exporting and importing: what happens when, as steps without I/O of their own."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiaas_client import _errors as errors
from aiaas_client._api import management as calls
from aiaas_client._bundles.arriving import fetch
from aiaas_client._bundles.bundle import MANIFEST, Bundle, Part, gathered, hashed
from aiaas_client._bundles.sending import PIECE_BYTES, Draftsman, Phases, Show, send
from aiaas_client._send.work import Local, Work
from aiaas_client.protocol.management import BundleFile, Draft, Version, bundle_digest
from aiaas_client.protocol.names import FILE, LATEST


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a deployment wants besides its files.

    Attributes:
        members: Of `DraftRequest`.
        progress: As `deploy` takes it.
        piece: Bytes of a file that are sent at a time.
    """

    members: Mapping[str, Any]
    progress: Show = None
    piece: int = PIECE_BYTES


def deploy(name: str, gather: Callable[[], dict[str, Part]], wishes: Wishes) -> Work[Version]:
    """Read and hash the files, send what the server lacks, have it verified.

    Args:
        name: The model.
        gather: Finds the files; it reads from the disk.
        wishes: Beside them.
    Raises:
        InputError: something is wrong with the files, found before anything was sent.
        ModelRejectedError: the server looked at the model and refuses it.
    """
    calls.checked_name(name)
    with Phases(wishes.progress, name) as phases:
        parts: dict[str, Part] = yield Local(gather)
        phases.begin("reading", sum(part.length() for part in parts.values()))
        bundle: Bundle = yield Local(partial(hashed, parts, phases.advance))
        request = calls.asked("DraftRequest", name, files=bundle.files, **wishes.members)
        draft: Draft = yield calls.create_draft(name, request)
        phases.begin("sending", sum(file.size for file in bundle.files), is_sending=True)
        phases.advance(sum(file.size if file.complete else file.received for file in draft.files))
        to = Draftsman(
            partial(calls.put_file, name, draft.id), partial(calls.draft, name, draft.id)
        )
        for file in draft.missing:
            yield from send(to, file, bundle.parts[file.name], wishes.piece, phases)
        phases.begin("verifying", None)
        version: Version = yield calls.commit(name, draft.id)
        return version


def export(name: str, version: str | int | None, target: Path, *, overwrite: bool) -> Work[Path]:
    """Fetch the files of a version into a directory that is there as a whole or not at all.

    Raises:
        InputError: there is something else at `target`.
        ProtocolError: the bytes that came are not those of the version.
    """
    told: Version = yield calls.version(name, LATEST if version is None else version)
    digest = bundle_digest(told.files)
    if digest != told.digest:
        raise errors.ProtocolError(f"model {name!r}: version {told.version} has another digest")
    if (yield Local(partial(_is_there, target, digest, overwrite))):
        return target
    beside: str = yield Local(partial(_directory_beside, target))
    try:
        for file in told.files:
            yield from _fetch(told, file, Path(beside))
        yield Local(partial(_finish, told, Path(beside), target))
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _fetch(version: Version, file: BundleFile, directory: Path) -> Work[None]:
    if re.fullmatch(FILE, file.name) is None or file.name == MANIFEST:
        raise errors.ProtocolError(f"file {file.name[:80]!r}: a server must not call one that")
    call = calls.download(version.model, version.version, file.name)
    yield from fetch(call, file, directory)


def _is_there(target: Path, digest: str, overwrite: bool) -> bool:
    """Whether the very bundle is there already; what else is there is not replaced unasked."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    is_bundle = target.is_dir() and (target / MANIFEST).is_file()
    if is_bundle:
        try:
            if hashed(gathered(target)).digest == digest:
                return True
        except errors.InputError:
            is_bundle = overwrite  # a damaged one
    if not overwrite:
        raise errors.InputError(f"'{target}' is there already, with other files (see overwrite)")
    if not is_bundle:
        raise errors.InputError(f"'{target}' is no exported bundle: it is not overwritten")
    return False


def _directory_beside(target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)


def _finish(version: Version, beside: Path, target: Path) -> None:
    """Write what the bundle is, and put it into its place."""
    (beside / MANIFEST).write_text(json.dumps(manifest(version), indent=1) + "\n", "utf-8")
    beside.chmod(0o755)  # a temporary directory is its owner's only
    if target.exists():
        old = tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent)
        target.rename(Path(old) / target.name)
        beside.rename(target)
        shutil.rmtree(old)
    else:
        beside.rename(target)


def manifest(version: Version) -> dict[str, Any]:
    """What `bundle.json` of an export says."""
    kept = {"version", "digest", "files", "metrics", "lineage", "note"}
    return {"name": version.model, **version.model_dump(mode="json", include=kept)}


def read_manifest(directory: Path) -> dict[str, Any]:
    """`bundle.json` of an export.

    Raises:
        InputError: it is not there, or says nothing that a bundle's says.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise errors.MissingFileError(f"'{directory}': expected an exported bundle: no {MANIFEST}")
    try:
        document = json.loads(path.read_bytes())
        named = {"name": str, "digest": str, "metrics": dict, "lineage": dict, "note": str}
        for member, kind in named.items():
            if not isinstance(document[member], kind):
                raise TypeError(f"{member}: expected a {kind.__name__}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise errors.InputError(f"'{path}': {type(error).__name__}: {error}") from None
    found: dict[str, Any] = document
    return found


def import_(directory: Path, name: str | None, wishes: Wishes) -> Work[Version]:
    """Deploy an exported bundle, after a look at its digest.

    Raises:
        InputError: it is no exported bundle, or its files are not those that were exported.
    """
    told: dict[str, Any] = yield Local(partial(read_manifest, directory))
    bundle: Bundle = yield Local(lambda: hashed(gathered(directory)))
    if bundle.digest != told["digest"]:
        raise errors.InputError(
            f"'{directory}': its files were changed: expected the digest {told['digest'][:64]}, "
            f"got {bundle.digest}"
        )
    members = {key: told[key] for key in ("metrics", "lineage", "note") if told[key]}
    asked = Wishes({**members, **wishes.members}, wishes.progress)
    version = yield from deploy(
        told["name"] if name is None else name, lambda: gathered(directory), asked
    )
    return version
