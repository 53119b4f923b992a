"""Puts verified versions into a server's `--data`, without the way that a deploy takes."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from sqlalchemy.engine import make_url

from aiaas_client.protocol.management import BundleFile, bundle_digest
from aiaas_server.core.errors import LoadFailed
from aiaas_server.registry import history, models
from aiaas_server.registry.rows import Author, VersionRow
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.artefacts import open_artefacts
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade

TENANT = "default"
AUTHOR = Author(TENANT, "tester", "r-1")


class Bringer:
    """The state and the cache of one data directory.

    Args:
        url: Of a database that stands for `state.db`.
        tenant: Whose versions it brings.
    """

    def __init__(self, data: Path, url: str = "", tenant: str = TENANT) -> None:
        self._tenant = tenant
        self._author = AUTHOR._replace(tenant=tenant)
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        where = url or f"sqlite:///{data / 'state.db'}"
        upgrade(make_url(where))
        self.database = Database(where)
        self._artefacts = open_artefacts("", data)

    def bring(
        self, name: str, files: bytes | Mapping[str, bytes], number: int | None = None, **more: Any
    ) -> VersionRow:
        """A verified version; `files` is the model file alone, or all by their names."""
        given = {"model.onnx": files} if isinstance(files, bytes) else dict(files)
        listed = [
            BundleFile(name=file, size=len(content), sha256=hashlib.sha256(content).hexdigest())
            for file, content in sorted(given.items())
        ]
        digest = bundle_digest(listed)
        place = self.data / "cache" / self._tenant / digest
        place.mkdir(parents=True, exist_ok=True)
        for file, content in given.items():
            (place / file).write_bytes(content)
            self._artefacts.put(
                self._tenant, hashlib.sha256(content).hexdigest(), self._kept(content)
            )

        def work(connection: Any) -> VersionRow:
            model = models.ensure_model(connection, self._author, name)
            row = VersionRow(
                model.id,
                models.take_number(connection, model, number),
                digest,
                "verified",
                "",
                sum(file.size for file in listed),
                listed,
                None,
                {"inputs": [], "outputs": []},
                {},
                {},
                {},
                "",
                time.time(),
                "tester",
            )._replace(**more)
            models.insert_version(connection, row)
            for file in listed:
                claims.claim(connection, self._tenant, file.sha256, row.user)
                claims.set_size(connection, self._tenant, file.sha256, file.size)
            history.record(connection, self._author, model, "deploy", version=row.number)
            return row

        return self.database.submit(work).result()

    def keep(self, content: bytes) -> str:
        """Bytes in the store that no row knows; gives their digest."""
        digest = hashlib.sha256(content).hexdigest()
        self._artefacts.put(self._tenant, digest, self._kept(content))
        return digest

    def _kept(self, content: bytes) -> Path:
        """A file of these bytes, for the store to take."""
        with NamedTemporaryFile(dir=self.data, delete=False) as file:
            file.write(content)
        return Path(file.name)

    def place(self, row: VersionRow) -> Path:
        """Where the files of a version are."""
        return self.data / "cache" / self._tenant / row.digest

    def lose(self, row: VersionRow) -> None:
        """The files of a version are gone, from the store and from the cache."""
        shutil.rmtree(self.place(row))
        for file in row.files:
            self._artefacts.delete(self._tenant, file.sha256)

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()


class Places:
    """Gives the directories that a `Bringer` wrote: `registry.reconcile.Bundles`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.asked: list[int] = []

    def materialise(self, version: VersionRow, tenant: str) -> Path:
        """The directory of a version."""
        self.asked.append(version.number)
        place = self._root / tenant / version.digest
        if not place.is_dir():
            raise LoadFailed("its files are not here")
        return place
