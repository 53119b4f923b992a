"""Master keys: read from files as people write them, and what they do not open is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aiaas_server.state.artefacts.data_keys import DataKeys, check_openable
from aiaas_server.state.artefacts.master_keys import (
    MasterKeyRefused,
    MasterKeys,
    name_of,
    parse_keys,
)
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import DATA_KEYS

OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def written(path: Path, *keys: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_text("".join(f"{key.hex()}\n" for key in keys), "ascii")
    return path


def keys_of(path: Path) -> MasterKeys:
    found = MasterKeys.of(path, None)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "content",
    [
        OLD,
        OLD.hex().encode(),
        OLD.hex().upper().encode() + b"\r\n",
        b"# mine\n\n" + OLD.hex().encode(),
    ],
    ids=["raw", "hexadecimal", "upper case", "with a remark"],
)
def test_a_key_is_32_bytes_however_they_are_written(content: bytes) -> None:
    assert [key.secret for key in parse_keys(content, "the key")] == [OLD]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "got nothing"),
        (b"\n# only a remark\n", "got nothing"),
        (OLD.hex()[:-1].encode(), "line 1: expected 64 hexadecimal digits, got 63 bytes"),
        (OLD.hex().encode() + b"\n" + b"g" * 64, "line 2"),
        (os.urandom(33).replace(b"\n", b" "), "expected 64 hexadecimal digits"),
        ("ü".encode() * 32, "expected 64 hexadecimal digits"),
    ],
    ids=["empty", "remarks", "short", "second line", "33 bytes", "letters"],
)
def test_what_is_no_key_is_told_without_telling_it(content: bytes, told: str) -> None:
    with pytest.raises(MasterKeyRefused, match=told) as error:
        parse_keys(content, "the key")
    assert OLD.hex()[:16] not in str(error.value)


def test_a_file_that_others_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "key", OLD)
    path.chmod(0o644)
    with pytest.raises(MasterKeyRefused, match="chmod 600"):
        keys_of(path)
    with pytest.raises(MasterKeyRefused, match="No such file"):
        keys_of(tmp_path / "none")


def test_no_key_is_told_by_its_representation() -> None:
    (key,) = parse_keys(OLD, "the key")
    assert repr(key) == f"MasterKey({name_of(OLD)})"


def test_a_data_key_stays_the_same_and_is_kept_wrapped(database: Database) -> None:
    keys = DataKeys(database, MasterKeys(parse_keys(OLD, "")))
    assert keys.find("acme", "0" * 64) is None
    made = keys.obtain("acme", "0" * 64)
    assert len(made) == 32
    assert keys.obtain("acme", "0" * 64) == keys.find("acme", "0" * 64) == made
    assert keys.obtain("other", "0" * 64) != made
    (row, _) = database.read_now(lambda c: c.execute(DATA_KEYS.select()).all())
    assert made not in bytes(row.wrapped)


def test_a_key_that_is_away_is_named_with_what_it_opens(database: Database) -> None:
    masters = MasterKeys(parse_keys(OLD, ""))
    keys = DataKeys(database, masters)
    for number in range(5):
        keys.obtain("acme", f"{number:064x}")
    database.read_now(lambda c: check_openable(c, masters))
    wrong = MasterKeys(parse_keys(NEW, ""))
    with pytest.raises(MasterKeyRefused) as error:
        database.read_now(lambda c: check_openable(c, wrong))
    told = str(error.value)
    assert "5 artefacts cannot be opened, such as acme/000000000000" in told
    assert name_of(OLD) in told
    assert name_of(NEW) in told
    with pytest.raises(MasterKeyRefused, match="there is no master key"):
        database.read_now(lambda c: check_openable(c, None))


def test_a_rotation_goes_on_where_it_was_and_ends_the_need_of_the_old_key(
    database: Database, tmp_path: Path
) -> None:
    """The file is read again: nobody has to be started anew."""
    path = written(tmp_path / "key", OLD)
    masters = keys_of(path)
    keys = DataKeys(database, masters)
    before = [keys.obtain("acme", f"{number:064x}") for number in range(7)]
    written(path, NEW, OLD)
    assert masters.current.id == name_of(NEW)
    done = database.submit(lambda c: keys._rewrapped(c, 3)).result()
    assert done == 3  # and here it was killed
    assert keys.rewrap(batch=2) == (4, name_of(NEW))
    assert keys.rewrap() == (0, name_of(NEW))
    alone = DataKeys(database, keys_of(written(tmp_path / "new", NEW)))
    assert [alone.find("acme", f"{number:064x}") for number in range(7)] == before


def test_a_file_that_becomes_unusable_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "key", OLD)
    masters = keys_of(path)
    path.write_text("no key")
    assert masters.current.id == name_of(OLD)
    path.unlink()
    assert masters.has(name_of(OLD))


def test_of_a_destroyed_key_nothing_is_left(database: Database, tmp_path: Path) -> None:
    """Not in the file of the database, and not in its log."""
    keys = DataKeys(database, MasterKeys(parse_keys(OLD, "")))
    digests = [f"{number:064x}" for number in range(100)]
    for digest in digests:
        keys.obtain("acme", digest)
    rows = database.read_now(lambda c: c.execute(DATA_KEYS.select()).all())
    wrapped = [bytes(row.wrapped) for row in rows]
    files = [path for path in tmp_path.rglob("state.db*") if path.is_file()]
    if files:
        assert all(any(one in path.read_bytes() for path in files) for one in wrapped)
    assert set(keys.destroy("acme", digests)) == set(digests)
    assert keys.destroy("acme", digests) == {}
    assert keys.find("acme", digests[0]) is None
    for path in files:
        content = path.read_bytes() if path.exists() else b""
        assert not any(one in content for one in wrapped)
