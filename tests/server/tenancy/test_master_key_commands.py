"""`aiaas master-key` and `aiaas encrypt`, against a server that runs, and killed in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from aiaas_server.app import create_app
from aiaas_server.cli import app
from aiaas_server.settings import Settings
from aiaas_server.state.artefacts.data_keys import DataKeys, wrapped_by
from aiaas_server.state.artefacts.master_keys import MasterKeys
from aiaas_server.state.database import Database
from aiaas_server.tenancy.audit_read import Wanted, entries
from tests.conftest import scale
from tests.server.http.serving import AsgiCaller
from tests.server.plain_bytes import Known
from tests.server.tenancy.test_at_rest import bring
from tests.waiting import wait_until


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path


def settings(place: Path, *, sealed: bool = True) -> Settings:
    file = place / "key" if sealed else None
    given = {"models": place / "models", "disk_reserve_bytes": 0, "master_key_file": file}
    return Settings(data=place / "data", **given)  # type: ignore[arg-type]


def command(place: Path, *words: str) -> str:
    given = ("--data", str(place / "data"), "--master-key-file", str(place / "key"))
    ran = CliRunner().invoke(app, [*words, *given])
    assert ran.exit_code == 0, ran.output
    return ran.output


def new_key(place: Path, *more: str) -> str:
    ran = CliRunner().invoke(app, ["master-key", "new", str(place / "key"), *more])
    assert ran.exit_code == 0, ran.output
    return ran.output.split("master key ")[1].split()[0]


def database_of(place: Path) -> Database:
    return Database(f"sqlite:///{place / 'data' / 'state.db'}")


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_key_is_changed_while_versions_come_and_serve(place: Path) -> None:
    """Afterwards the old key opens nothing, and the server needs it no more."""
    old = new_key(place)
    async with create_app(settings(place)) as running:
        call = AsgiCaller(running)
        for number in range(3):
            await bring(call, f"/api/v1/models/m{number}", "model.onnx", scale(number + 1.0))
        new = new_key(place, "--add")
        coming = asyncio.create_task(bring(call, "/api/v1/models/late", "model.onnx", scale(9.0)))
        told = await asyncio.to_thread(command, place, "master-key", "rotate")
        await coming
        assert f"master key {old} is no longer needed here" in told
        database = database_of(place)
        assert database.read_now(wrapped_by) == {new: 4}
        (noted,) = database.read_now(lambda c: entries(c, Wanted(act="master-key.rotate"), 9))
        assert (noted.actor, noted.object) == ("operator", new)
        database.close()
    lines = (place / "key").read_text().splitlines()
    (place / "key").write_text(lines[0])
    async with create_app(settings(place)) as running:
        call = AsgiCaller(running)
        for name in ("m0", "m1", "m2", "late"):
            assert (await call("GET", f"/v2/models/{name}/ready")).status == 200
    assert f"{new} (current): opens 4 artefacts" in command(place, "master-key", "show")


@pytest.mark.asyncio
async def test_what_was_kept_in_plain_is_read_and_then_encrypted(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = scale(5.0) + os.urandom(0)
    known = Known(model)
    async with create_app(settings(place, sealed=False)) as running:
        await bring(AsgiCaller(running), "/api/v1/models/m", "model.onnx", model)
    assert len(known.found_below(place / "data")) == 2  # the store's, and the cache's link
    new_key(place)
    async with create_app(settings(place)) as running:
        call = AsgiCaller(running)
        assert "1 artefacts were kept before there was a master key" in caplog.text
        assert (await call("GET", "/v2/models/m/ready")).status == 200
        assert "1 artefacts encrypted" in await asyncio.to_thread(command, place, "encrypt")
        assert not known.found_below(place / "data")
        got = await call("GET", "/api/v1/models/m/versions/1/files/model.onnx")
        assert got.body == model
        assert "0 artefacts encrypted" in await asyncio.to_thread(command, place, "encrypt")
    async with create_app(settings(place)) as running:
        call = AsgiCaller(running)
        assert (await call("GET", "/v2/models/m/ready")).status == 200


def test_mistakes_are_told_in_a_line(place: Path) -> None:
    run = CliRunner().invoke
    key = ("--master-key-file", str(place / "key"))
    assert "there is no state.db" in run(app, ["encrypt", "--data", str(place), *key]).output
    assert "needs data" in run(app, ["master-key", "rotate", *key]).output
    new_key(place)
    again = run(app, ["master-key", "new", str(place / "key")])
    assert again.exit_code == 2
    assert "exists; --add" in again.output
    assert (place / "key").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def many_keys(place: Path) -> int:
    """So many data keys under an old master key, and a new one in front of it."""
    new_key(place)
    subprocess.run(
        [sys.executable, "-c", f"from aiaas_server.state.migrate import upgrade as u; "
         f"from pathlib import Path; Path({str(place / 'data')!r}).mkdir(); "
         f"u('sqlite:///{place / 'data' / 'state.db'}')"],
        check=True,
    )  # fmt: skip
    masters = MasterKeys.of(place / "key", None)
    assert masters is not None
    database = database_of(place)
    keys, count = DataKeys(database, masters), 5000
    first = keys.obtain("acme", f"{0:064x}")
    wrapped, master = masters.wrap(first)
    rows = [{"t": "acme", "d": f"{n:064x}", "w": wrapped, "m": master} for n in range(1, count)]
    insert = text("INSERT INTO data_keys VALUES (:t, :d, :w, :m, 0)")
    database.submit(lambda c: c.execute(insert, rows)).result()
    database.close()
    new_key(place, "--add")
    return count


def _wait_for_more(process: subprocess.Popen[bytes], done: Callable[[], int], had: int) -> None:
    wait_until(lambda: done() > had or process.poll() is not None)


@pytest.mark.slow
def test_a_rotation_that_is_killed_goes_on(place: Path, many_keys: int) -> None:
    """kill -9 in the middle, again and again: nothing is lost, and it comes to its end."""
    words = ("master-key", "rotate", "--data", str(place / "data"))
    line = [sys.executable, "-m", "aiaas_server", *words, "--master-key-file", str(place / "key")]
    masters = MasterKeys.of(place / "key", None)
    assert masters is not None
    new = masters.current.id
    database = database_of(place)

    def rewrapped() -> int:
        return database.read_now(wrapped_by).get(new, 0)

    before, killed = 0, 0
    while before < many_keys and killed < 3:
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        _wait_for_more(process, rewrapped, before)
        process.send_signal(signal.SIGKILL)
        process.wait()
        counts = database.read_now(wrapped_by)
        assert sum(counts.values()) == many_keys
        assert counts.get(new, 0) >= before
        before, killed = counts.get(new, 0), killed + 1
    assert killed
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    assert database.read_now(wrapped_by) == {new: many_keys}
    keys = DataKeys(database, masters)
    assert keys.find("acme", f"{0:064x}") == keys.find("acme", f"{many_keys - 1:064x}")
    database.close()


def test_a_new_key_in_a_directory_that_is_not_there_is_told_in_words(
    tmp_path: Path,
) -> None:
    file = tmp_path / "nowhere" / "master.key"
    told = CliRunner().invoke(app, ["master-key", "new", str(file)])
    assert told.exit_code == 2
    assert f"aiaas: {file}: no such file, or no directory for it" in told.output
