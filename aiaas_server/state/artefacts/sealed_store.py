"""`SealedStore`: a store around a store, which gets to see nothing but sealed bytes.

An artefact with a data key is sealed; one without was kept before there was a master key, and is
read as it is. While one is being sealed its key is there already and its bytes are still plain:
the first bytes tell, and whoever reads compares the digest in any case.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from aiaas_server.state.artefacts.data_keys import DataKeys
from aiaas_server.state.artefacts.sealed import (
    HEADER,
    Tampered,
    frame_of,
    is_sealed,
    plain_size,
    seal,
    unseal,
)
from aiaas_server.state.artefacts.stores import PIECE, Damaged, Missing, Store, file_errors


class SealedStore:
    """Seals what is put, and opens what is read.

    Args:
        inner: Has the bytes.
        keys: Has their keys.
    """

    def __init__(self, inner: Store, keys: DataKeys) -> None:
        self._inner = inner
        self._keys = keys

    def put(self, key: str, path: Path) -> None:
        """Seal a file, which is used up."""
        self.put_pieces(key, _pieces_of(path))
        with file_errors():
            path.unlink()

    def put_pieces(self, key: str, pieces: Iterator[bytes]) -> None:
        """Seal bytes as they come."""
        tenant, digest = _read(key)
        data_key = self._keys.obtain(tenant, digest)
        self._inner.put_pieces(key, seal(pieces, data_key, _about(tenant, digest)))

    def pieces(self, key: str) -> Iterator[bytes]:
        """The bytes, opened."""
        tenant, digest = _read(key)
        data_key = self._keys.find(tenant, digest)
        if data_key is None or not is_sealed(self._inner.beginning(key, HEADER)):
            yield from self._inner.pieces(key)
            return
        try:
            yield from unseal(self._inner.pieces(key), data_key, _about(tenant, digest))
        except Tampered as error:
            raise Damaged(str(error)) from None

    def beginning(self, key: str, length: int) -> bytes:
        """The first bytes, opened."""
        return next(self.pieces(key), b"")[:length]

    def size(self, key: str) -> int | None:
        """How many bytes there are, opened."""
        tenant, digest = _read(key)
        size = self._inner.size(key)
        if size is None or self._keys.find(tenant, digest) is None:
            return size
        try:
            beginning = self._inner.beginning(key, HEADER)
            return plain_size(size, frame_of(beginning)) if is_sealed(beginning) else size
        except Tampered:
            return -1
        except Missing:
            return None

    def local(self, key: str) -> Path | None:
        """None: no file has the bytes as they are."""
        return None

    def delete(self, key: str) -> None:
        """Destroy the key, then the bytes."""
        tenant, digest = _read(key)
        self._keys.destroy(tenant, [digest])
        self._inner.delete(key)

    def forget(self, keys: Collection[str]) -> None:
        """Destroy the keys of some artefacts at once."""
        by_tenant: dict[str, list[str]] = {}
        for tenant, digest in map(_read, keys):
            by_tenant.setdefault(tenant, []).append(digest)
        for tenant, digests in by_tenant.items():
            self._keys.destroy(tenant, digests)

    def sizes(self) -> Iterator[tuple[str, int]]:
        """All keys with how many bytes there are, opened; of one that is just being sealed it may
        be wrong, which `size` is not."""
        sealed = self._keys.all()
        for key, size in self._inner.sizes():
            yield key, plain_size(size) if _read(key) in sealed else size

    def clean(self) -> int:
        """Remove what writers left that are gone."""
        return self._inner.clean()


def _pieces_of(path: Path) -> Iterator[bytes]:
    with file_errors(), path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _read(key: str) -> tuple[str, str]:
    tenant, _, rest = key.partition("/")
    return tenant, rest.rpartition("/")[2]


def _about(tenant: str, digest: str) -> bytes:
    return f"{tenant}/{digest}".encode()
