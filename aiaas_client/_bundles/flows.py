"""Deploying, exporting and importing: what happens when, as steps without I/O of their own."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiaas_client import _errors as errors
from aiaas_client._api import management as calls
from aiaas_client._bulk.progress import Progress, Report, open_progress
from aiaas_client._bundles.bundle import MANIFEST, Bundle, Part, gathered, hashed
from aiaas_client._send.work import Local, Pause, Save, Work
from aiaas_client.protocol.management import BundleFile, Draft, DraftFile, Version, bundle_digest
from aiaas_client.protocol.names import FILE, LATEST

PIECE_BYTES = 16 << 20
"""Of a file, at a time: what a broken connection loses at most, and what is held in memory."""
MOST_FAILURES = 5
"""In a row, of one file that gets no further."""
FIRST_PAUSE = 0.1
"""Seconds; doubling with each failure."""
_TEMPORARY = (
    errors.APIConnectionError,
    errors.APITimeoutError,
    errors.ConflictError,
    errors.BadGatewayError,
    errors.ServiceUnavailableError,
    errors.GatewayTimeoutError,
    errors.RateLimitError,
)

Show = bool | Report | None


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


class Phases:
    """One bar after another: reading, sending, verifying; a callback hears of what is sent."""

    def __init__(self, wanted: Show, title: str) -> None:
        self._wanted = wanted
        self._title = title
        self._shown: Progress | None = None

    def begin(self, phase: str, total: int | None, *, is_sending: bool = False) -> None:
        """End the former phase, and show this one."""
        self.close()
        wanted = self._wanted or False
        if wanted is not True and not is_sending:
            wanted = False
        title = f"{self._title}: {phase}"
        self._shown = open_progress(wanted, total, title, is_bytes=total is not None)

    def advance(self, count: int) -> None:
        """So many more bytes are done."""
        if self._shown is not None and count:
            self._shown.advance(count)

    def close(self) -> None:
        """End the phase."""
        shown, self._shown = self._shown, None
        if shown is not None:
            shown.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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
        for file in draft.missing:
            yield from _send(draft, file, bundle.parts[file.name], wishes.piece, phases)
        phases.begin("verifying", None)
        version: Version = yield calls.commit(name, draft.id)
        return version


def _send(draft: Draft, file: DraftFile, part: Part, piece: int, phases: Phases) -> Work[None]:
    """Send what is missing of a file, piece by piece; after a break from where the server is."""
    failures = 0
    while not file.complete:
        offset = file.received
        count = max(min(piece, part.size - offset), 0)
        content = yield Local(partial(part.read, offset, count))
        try:
            told = yield calls.put_file(draft.model, draft.id, file.name, offset, content)
        except _TEMPORARY:
            failures += 1
            if failures >= MOST_FAILURES:
                raise
            yield Pause(FIRST_PAUSE * 2**failures)
            file = _found((yield calls.draft(draft.model, draft.id)), file.name)
        else:
            file = _found(told, file.name)
            if file.received <= offset and not file.complete:
                raise errors.ProtocolError(
                    f"{file.name}: {count} bytes were sent, and the server still has {offset}"
                )
        if file.received > offset:
            failures = 0
            phases.advance(file.received - offset)


def _found(draft: Draft, name: str) -> DraftFile:
    for file in draft.files:
        if file.name == name:
            return file
    raise errors.ProtocolError(f"draft {draft.id!r}: {name!r} is no longer a file of it")


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
    for left in (2, 1, 0):  # a download begins anew where it breaks
        try:
            with _Arriving(file, directory) as arriving:
                yield Save(call, arriving.write)
                arriving.check()
            return
        except (errors.APIConnectionError, errors.APITimeoutError):
            if not left:
                raise


class _Arriving:
    """A file on its way, counted and hashed as it is written."""

    def __init__(self, file: BundleFile, directory: Path) -> None:
        self._file = file
        self._written = 0
        self._digest = hashlib.sha256()
        self._target = (directory / file.name).open("wb")

    def __enter__(self) -> Self:
        return self

    def write(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            ProtocolError: there are more than were announced.
        """
        self._written += len(piece)
        if self._written > self._file.size:
            raise errors.ProtocolError(f"{self._file.name}: over {self._file.size} bytes came")
        self._digest.update(piece)
        self._target.write(piece)

    def check(self) -> None:
        """See that all has come.

        Raises:
            ProtocolError: these are not the bytes of the version.
        """
        if self._digest.hexdigest() != self._file.sha256:
            raise errors.ProtocolError(
                f"{self._file.name}: expected {self._file.size} bytes with sha256 "
                f"{self._file.sha256}, got {self._written} others"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._target.close()


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
