"""Uploading a data set, and fetching its rows: what happens when, as steps without own I/O."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiaas_client import _errors as errors
from aiaas_client._api import datasets as calls
from aiaas_client._api.documents import made
from aiaas_client._bundles.arriving import fetch_to
from aiaas_client._bundles.bundle import Bundle, Part, hashed
from aiaas_client._bundles.sending import PIECE_BYTES, Draftsman, Phases, Show, send
from aiaas_client._send.work import Local, Work
from aiaas_client.protocol.datasets import Dataset, DatasetDraft
from aiaas_client.protocol.management import BundleFile


@dataclass(frozen=True, slots=True)
class UploadWishes:
    """What an upload wants besides its rows.

    Attributes:
        members: Of `DatasetRequest`.
        progress: As `upload` takes it.
        piece: Bytes of a file that are sent at a time.
    """

    members: Mapping[str, Any]
    progress: Show = None
    piece: int = PIECE_BYTES


def upload(
    name: str, gather: Callable[[Path], dict[str, Part]], wishes: UploadWishes
) -> Work[Dataset]:
    """Write what is no file yet, hash, send what the server lacks, have it read.

    Args:
        name: The data set.
        gather: Finds the files, or writes them into the directory that it is given.
        wishes: Beside them.
    Raises:
        InputError: Something is wrong with the data, found before anything was sent.
        BadRequestError: The server cannot read them; the text names row and column.
    """
    calls.checked_name(name)
    scratch = Path((yield Local(partial(tempfile.mkdtemp, prefix="aiaas-upload-"))))
    try:
        with Phases(wishes.progress, name) as phases:
            return (yield from _upload(name, partial(gather, scratch), wishes, phases))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _upload(
    name: str, gather: Callable[[], dict[str, Part]], wishes: UploadWishes, phases: Phases
) -> Work[Dataset]:
    parts: dict[str, Part] = yield Local(gather)
    phases.begin("reading", sum(part.length() for part in parts.values()))
    bundle: Bundle = yield Local(partial(hashed, parts, phases.advance))
    request = made("datasets.DatasetRequest", {**wishes.members, "files": bundle.files})
    draft: DatasetDraft = yield calls.create_draft(name, request)
    phases.begin("sending", sum(file.size for file in bundle.files), is_sending=True)
    phases.advance(sum(file.size if file.complete else file.received for file in draft.files))
    to = Draftsman(partial(calls.put_file, name, draft.id), partial(calls.draft, name, draft.id))
    for file in draft.files:
        if not file.complete:
            yield from send(to, file, bundle.parts[file.name], wishes.piece, phases)
    phases.begin("being read by the server", None)
    dataset: Dataset = yield calls.commit(name, draft.id)
    return dataset


def fetch_rows(dataset: Dataset, target: Path) -> Work[Path]:
    """Fetch the rows of a data set as a Parquet file.

    Raises:
        InputError: They are erased.
        ProtocolError: What came is not what the data set's digest says.
    """
    if dataset.state == "erased":
        raise errors.InputError(f"data set '{dataset.ref}' is erased: its rows are gone")
    file = BundleFile(name="data.parquet", size=dataset.size, sha256=dataset.digest)
    call = calls.download(dataset.name, dataset.number)
    return (yield from fetch_to(call, file, target))
