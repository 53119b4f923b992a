"""`Artefacts`: the bytes of files, addressed by tenant and SHA-256.

Nothing is handed out that was not hashed on its way: whoever reads an artefact gets the bytes of
its digest, or `Corrupt`. No call holds more than a few MiB, however large the artefact.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from aiaas_server.core.errors import LoadFailed, StateUnavailable
from aiaas_server.state.artefacts.data_keys import DataKeys
from aiaas_server.state.artefacts.sealed import HEADER, is_sealed
from aiaas_server.state.artefacts.sealed_store import SealedStore
from aiaas_server.state.artefacts.stores import (
    Damaged,
    LocalStore,
    Missing,
    ObjectStore,
    Store,
    file_errors,
)

_tenant = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch
_digest = re.compile(r"[0-9a-f]{64}").fullmatch


class Corrupt(LoadFailed):
    """The bytes of an artefact are not those of its digest, or are gone.

    Attributes:
        tenant: Whose it is.
        digest: Of the bytes it should have.
    """

    def __init__(self, message: str, tenant: str, digest: str) -> None:
        super().__init__(message)
        self.tenant = tenant
        self.digest = digest


class Artefacts:
    """All artefacts of a server. Every call blocks: for threads.

    Args:
        store: Where the bytes lie.
        keys: Seal them with these; None keeps them as they are.

    Attributes:
        shared: Whether other machines write there too.
    """

    def __init__(self, store: Store, keys: DataKeys | None = None) -> None:
        self._store = store if keys is None else SealedStore(store, keys)
        self._opens = keys is not None
        self.shared = not isinstance(store, LocalStore)

    def put(self, tenant: str, digest: str, path: Path) -> None:
        """Keep a file whose digest was computed from what was written; it is moved or sent.

        On return the bytes are safe. What is there already, whole or damaged, is replaced.

        Raises:
            StorageFull: There is no room.
            StateUnavailable: The store does not answer.
        """
        self._store.put(key_of(tenant, digest), path)

    def put_pieces(self, tenant: str, digest: str, pieces: Iterator[bytes]) -> None:
        """As `put`, of bytes that lie in no file.

        Raises:
            StorageFull, StateUnavailable: As `put`; then nothing of them is kept.
        """
        self._store.put_pieces(key_of(tenant, digest), pieces)

    def size(self, tenant: str, digest: str) -> int | None:
        """Bytes of the artefact; None where it is missing."""
        return self._store.size(key_of(tenant, digest))

    def check_openable(self, tenant: str, digest: str) -> None:
        """See that bytes that are not as expected were not encrypted behind this server's back.

        Raises:
            StateUnavailable: They were, and this server has no master key: nothing is wrong with
                them.
        """
        try:
            sealed = not self._opens and is_sealed(
                self._store.beginning(key_of(tenant, digest), HEADER)
            )
        except (Missing, Damaged):
            return
        if sealed:
            raise StateUnavailable(
                f"artefact {digest[:12]} is encrypted, and this server was started without a "
                "master key: start it with --master-key-file"
            )

    def local(self, tenant: str, digest: str) -> Path | None:
        """The file of this machine that is the artefact, where it is one. Unchecked."""
        return self._store.local(key_of(tenant, digest))

    def pieces(self, tenant: str, digest: str) -> Iterator[bytes]:
        """The bytes; the last piece only once all of them are known to be right.

        Raises:
            Corrupt: They are not, or there are none.
            StateUnavailable: The store does not answer.
        """
        hashed, held = hashlib.sha256(), b""
        try:
            for piece in self._store.pieces(key_of(tenant, digest)):
                hashed.update(piece)
                if held:
                    yield held
                held = piece
        except Missing:
            text = f"artefact {digest[:12]} is missing in the store"
            raise Corrupt(text, tenant, digest) from None
        except Damaged as error:
            text = f"artefact {digest[:12]} is damaged: {error}"
            raise Corrupt(text, tenant, digest) from None
        if hashed.hexdigest() != digest:
            self.check_openable(tenant, digest)
            text = f"artefact {digest[:12]} is damaged: its bytes have digest {hashed.hexdigest()}"
            raise Corrupt(text, tenant, digest)
        if held:
            yield held

    def get(self, tenant: str, digest: str, target: Path) -> None:
        """Copy the bytes to a new file, checked on the way; a failure leaves none.

        Raises:
            Corrupt: They are damaged or gone.
            StateUnavailable: The store does not answer.
        """
        try:
            with file_errors(), target.open("xb") as file:
                for piece in self.pieces(tenant, digest):
                    file.write(piece)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def delete(self, tenant: str, digest: str) -> None:
        """Remove the bytes; fine where there are none."""
        self._store.delete(key_of(tenant, digest))

    def forget(self, tenant: str, digests: Collection[str]) -> None:
        """Make artefacts unreadable at once that are about to be removed, where they have keys."""
        self._store.forget([key_of(tenant, digest) for digest in digests])

    def sizes(self) -> Iterator[tuple[str, str, int]]:
        """Tenant, digest and size of all that is there; foreign names are passed over."""
        for key, size in self._store.sizes():
            tenant, _, rest = key.partition("/")
            digest = rest.partition("/")[2]
            if _tenant(tenant) and _digest(digest):
                yield tenant, digest, size

    def clean(self) -> int:
        """Remove what writers left that are gone."""
        return self._store.clean()


def open_artefacts(url: str, data: Path, keys: DataKeys | None = None) -> Artefacts:
    """The artefacts of a server.

    Args:
        url: `s3://bucket/prefix`; "" is the directory `artefacts` of `data`.
        keys: Seal them with these.
    Raises:
        ValueError: The URL is of another kind.
    """
    if not url:
        return Artefacts(LocalStore(data / "artefacts"), keys)
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[!-~]*)?", url):
        raise ValueError(f"artefacts_url: expected s3://bucket/prefix, got {url[:64]!r}")
    return Artefacts(ObjectStore(url), keys)


def key_of(tenant: str, digest: str) -> str:
    """Where the store has an artefact."""
    if not _tenant(tenant) or not _digest(digest):
        raise ValueError(f"no artefact can be named {tenant[:64]!r}, {digest[:64]!r}")
    return f"{tenant}/{digest[:2]}/{digest}"


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
