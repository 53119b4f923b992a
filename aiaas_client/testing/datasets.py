"""The data sets of a fake server, in memory: drafts, versions, rows, erasure.

Files are read in a simple way (see `tables`): kinds are guessed of the values, and there is no
profile beyond counts and ranges.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from aiaas_client.protocol.datasets import (
    Dataset,
    DatasetDraft,
    DatasetErasure,
    DatasetRequest,
    read_ref,
)
from aiaas_client.protocol.management import bundle_digest
from aiaas_client.testing import tables
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.rows import BY, DAY, Received


@dataclass(slots=True)
class _Draft(Received):
    name: str = ""
    request: DatasetRequest = field(kw_only=True)

    def told(self) -> DatasetDraft:
        expires = self.created + DAY
        files = self.files()
        return DatasetDraft(
            id=self.id, name=self.name, files=files, created=self.created, expires=expires
        )


class FakeDatasets:
    """What a fake server knows of data sets; `server.datasets`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._versions: dict[str, dict[int, Dataset]] = {}
        self._rows: dict[str, bytes | None] = {}  # by digest
        self._drafts: dict[str, _Draft] = {}

    # For tests

    def every(self) -> list[Dataset]:
        """The latest version of each, by name."""
        with self._lock:
            found = (self._latest(name) for name in sorted(self._versions))
            return [one for one in found if one is not None]

    def get(self, ref: str) -> Dataset:
        """One version: `d@2`, or `d` for the latest."""
        name, number = read_ref(ref)
        return self.version(name, "latest" if number is None else str(number))

    # Routes

    def versions(self, name: str) -> list[Dataset]:
        with self._lock:
            return [one for _, one in sorted(self._found(name).items())[::-1]]

    def version(self, name: str, number: str) -> Dataset:
        with self._lock:
            versions = self._found(name)
            if number == "latest":
                found = self._latest(name)
            else:
                found = versions.get(int(number)) if number.isdigit() else None
            if found is None:
                raise FakeError(404, f"data set '{name}' has no version {number[:32]}")
            return found

    def data(self, name: str, number: str) -> bytes:
        """Its rows as a Parquet file."""
        with self._lock:
            found = self.version(name, number)
            if found.state == "erased":
                raise FakeError(404, f"data set '{found.ref}' is erased")
            rows = self._rows[found.digest]
        if rows is None:
            text = "the fake server writes Parquet with pandas, which is not installed"
            raise FakeError(501, text, code="not_supported")
        return rows

    def erase(self, name: str, number: str) -> DatasetErasure:
        with self._lock:
            found = self.version(name, number)
            if found.state == "erased":
                raise FakeError(404, f"data set '{found.ref}' is erased already")
            erased = found.model_copy(update={"state": "erased", "columns": [], "size": 0})
            self._versions[name][found.number] = erased
            others = [
                one
                for versions in self._versions.values()
                for one in versions.values()
                if one.state == "ready" and one.digest == found.digest
            ]
            if not others:
                self._rows.pop(found.digest, None)
            gone, kept = ([], [found.digest]) if others else ([found.digest], [])
            return DatasetErasure(name=name, number=found.number, gone=gone, kept=kept)

    def erase_all(self, name: str) -> list[DatasetErasure]:
        """Every version, and the drafts."""
        with self._lock:
            ready = [one for one in self._found(name).values() if one.state == "ready"]
            kept = {key: one for key, one in self._drafts.items() if one.name != name}
            self._drafts = kept
            return [self.erase(name, str(one.number)) for one in ready]

    def draft(self, name: str, request: DatasetRequest) -> tuple[DatasetDraft, bool]:
        """A new draft, and True; or the open one of the same files."""
        digest = bundle_digest(request.files)
        with self._lock:
            for known in self._drafts.values():
                if known.name == name and bundle_digest(known.request.files) == digest:
                    known.request = request
                    return known.told(), False
            made = _Draft(uuid.uuid4().hex, request.files, time.time(), name=name, request=request)
            self._drafts[made.id] = made
            return made.told(), True

    def told_draft(self, name: str, draft: str) -> DatasetDraft:
        with self._lock:
            return self._draft(name, draft).told()

    def drop_draft(self, name: str, draft: str) -> None:
        with self._lock:
            del self._drafts[self._draft(name, draft).id]

    def put(self, name: str, draft: str, file: str, offset: int, content: bytes) -> DatasetDraft:
        with self._lock:
            found = self._draft(name, draft)
            found.put(file, offset, content, f"data set '{name}'")
            return found.told()

    def commit(self, name: str, draft: str) -> tuple[Dataset, bool]:
        """The version, and whether it is a new one."""
        with self._lock:
            found = self._draft(name, draft)
            missing = [file.name for file in found.files() if not file.complete]
            if missing:
                text = f"data set '{name}': the draft lacks {', '.join(missing)}"
                raise FakeError(409, text, code="conflict")
            dataset, is_new = self._kept(name, found)
            del self._drafts[draft]
            return dataset, is_new

    def _kept(self, name: str, draft: _Draft) -> tuple[Dataset, bool]:
        files = {key: bytes(value) for key, value in draft.content.items()}
        format = draft.request.format or tables.format_of(list(files))
        columns = tables.read(format, files)
        rows = files[next(iter(files))] if format == "parquet" else tables.parquet_of(columns)
        digest = hashlib.sha256(rows or b"".join(files.values())).hexdigest()
        versions = self._versions.setdefault(name, {})
        for known in versions.values():
            if known.digest == digest and known.state == "ready":
                return known, False
        kinds = draft.request.kinds
        made = Dataset(
            name=name,
            number=max(versions, default=0) + 1,
            rows=len(next(iter(columns.values()))),
            columns=[tables.described(key, one, kinds.get(key)) for key, one in columns.items()],
            digest=digest,
            size=len(rows or b""),
            format=format,
            note=draft.request.note,
            description=draft.request.description or "",
            created=time.time(),
            created_by=BY,
        )
        versions[made.number] = made
        self._rows[digest] = rows
        return made, True

    def _found(self, name: str) -> dict[int, Dataset]:
        versions = self._versions.get(name)
        if not versions:
            raise FakeError(404, f"there is no data set '{name[:64]}'")
        return versions

    def _latest(self, name: str) -> Dataset | None:
        ready = [one for one in self._versions[name].values() if one.state == "ready"]
        return max(ready, key=lambda one: one.number, default=None)

    def _draft(self, name: str, draft: str) -> _Draft:
        found: Any = self._drafts.get(draft)
        if found is None or found.name != name:
            raise FakeError(404, f"data set '{name}' has no draft '{draft[:64]}'")
        return found  # type: ignore[no-any-return]
