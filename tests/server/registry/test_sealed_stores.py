"""A sealed store, over a directory and over S3: it sees no plain byte, and its readers see all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiaas_server.core.errors import ServerError
from aiaas_server.state.artefacts.artefacts import Artefacts, Corrupt, open_artefacts
from aiaas_server.state.artefacts.data_keys import DataKeys
from aiaas_server.state.artefacts.master_keys import MasterKeys, parse_keys
from aiaas_server.state.artefacts.sealed import FRAME, HEADER, TAG
from aiaas_server.state.artefacts.stores import LocalStore, ObjectStore, Store
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade
from tests.server.plain_bytes import Known
from tests.server.registry.deploying import sha
from tests.server.registry.test_stores import bucket as bucket
from tests.server.registry.test_stores import s3_server as s3_server

LARGE = os.urandom(3 * FRAME) + b"end"
WHOLE = FRAME + TAG


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "local" else str(request.getfixturevalue("bucket"))


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[DataKeys]:
    where = f"sqlite:///{tmp_path / 'state.db'}"
    upgrade(where)
    database = Database(where)
    yield DataKeys(database, MasterKeys(parse_keys(bytes(32), "")))
    database.close()


@pytest.fixture
def sealed(url: str, tmp_path: Path, keys: DataKeys) -> Artefacts:
    return open_artefacts(url, tmp_path / "data", keys)


@pytest.fixture
def inner(url: str, tmp_path: Path) -> Store:
    """What the sealed one has below it."""
    return ObjectStore(url) if url else LocalStore(tmp_path / "data" / "artefacts")


def key(tenant: str, content: bytes) -> str:
    return f"{tenant}/{sha(content)[:2]}/{sha(content)}"


def put(artefacts: Artefacts, content: bytes, place: Path, tenant: str = "acme") -> None:
    path = place / "incoming"
    path.write_bytes(content)
    artefacts.put(tenant, sha(content), path)
    assert not path.exists()


def test_what_is_put_is_got_back_and_is_not_there(
    sealed: Artefacts, inner: Store, tmp_path: Path
) -> None:
    """Sizes are those of the plain bytes, one by one and in a list."""
    for content in (b"", b"small" * 20, LARGE):
        put(sealed, content, tmp_path)
        digest = sha(content)
        assert b"".join(sealed.pieces("acme", digest)) == content
        assert sealed.size("acme", digest) == len(content)
        stored = b"".join(inner.pieces(key("acme", content)))
        assert not Known(content).is_in(stored)
        assert sealed.local("acme", digest) is None
    assert sorted(size for _, _, size in sealed.sizes()) == [0, 100, len(LARGE)]
    sealed.delete("acme", sha(LARGE))
    assert sealed.size("acme", sha(LARGE)) is None
    with pytest.raises(Corrupt, match="missing"):
        list(sealed.pieces("acme", sha(LARGE)))


def test_bytes_without_their_key_are_nothing(
    sealed: Artefacts, inner: Store, tmp_path: Path
) -> None:
    """Whoever has a copy of the store, as of a backup, has lost it with the key."""
    put(sealed, LARGE, tmp_path)
    sealed.forget("acme", [sha(LARGE)])
    assert inner.size(key("acme", LARGE))
    with pytest.raises(Corrupt, match="damaged"):
        list(sealed.pieces("acme", sha(LARGE)))


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "bit": lambda c: c[:100] + bytes([c[100] ^ 1]) + c[101:],
    "swap": lambda c: (
        c[:HEADER] + c[HEADER + WHOLE :][:WHOLE] + c[HEADER:][:WHOLE] + c[HEADER + 2 * WHOLE :]
    ),
    "cut inside": lambda c: c[: HEADER + WHOLE + 99],
    "cut at a border": lambda c: c[: HEADER + WHOLE],
    "append": lambda c: c + b"\0",
    "plain bytes of another": lambda c: os.urandom(1000),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_the_store_changes_is_refused(
    sealed: Artefacts, inner: Store, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    put(sealed, LARGE, tmp_path)
    where = key("acme", LARGE)
    inner.put_pieces(where, iter([change(b"".join(inner.pieces(where)))]))
    with pytest.raises(Corrupt, match="damaged"):
        sealed.get("acme", sha(LARGE), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_the_artefact_of_another_tenant_does_not_stand_in(
    sealed: Artefacts, inner: Store, tmp_path: Path
) -> None:
    """The same bytes have another key there."""
    for tenant in ("acme", "other"):
        put(sealed, LARGE, tmp_path, tenant)
    inner.put_pieces(key("acme", LARGE), inner.pieces(key("other", LARGE)))
    with pytest.raises(Corrupt, match="frame 0 does not open"):
        list(sealed.pieces("acme", sha(LARGE)))


def test_a_store_of_before_is_read_as_it_is(
    sealed: Artefacts, url: str, tmp_path: Path, keys: DataKeys
) -> None:
    """Also in the moment in which its key is there, and its bytes are still plain."""
    put(open_artefacts(url, tmp_path / "data"), LARGE, tmp_path)
    digest = sha(LARGE)
    for _ in range(2):
        assert b"".join(sealed.pieces("acme", digest)) == LARGE
        assert sealed.size("acme", digest) == len(LARGE)
        keys.obtain("acme", digest)
    sealed.put_pieces("acme", digest, sealed.pieces("acme", digest))
    assert b"".join(sealed.pieces("acme", digest)) == LARGE


def test_what_breaks_off_leaves_what_was_there(sealed: Artefacts, tmp_path: Path) -> None:
    put(sealed, LARGE, tmp_path)

    def broken() -> Iterator[bytes]:
        yield LARGE[: 2 * FRAME]
        raise OSError("the source is gone")

    with pytest.raises((OSError, ServerError)):
        sealed.put_pieces("acme", sha(LARGE), broken())
    assert b"".join(sealed.pieces("acme", sha(LARGE))) == LARGE
    assert not list(tmp_path.rglob(".*"))
