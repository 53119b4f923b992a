"""`aiaas serve --data`: a directory is all it takes; what cannot be used is told in one line."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer

from aiaas_client import AsyncClient, Client, ConfigurationError
from aiaas_server.cli import make_settings
from aiaas_server.listen import StartError
from aiaas_server.serve import _check_data, _check_parts
from aiaas_server.settings import Settings
from aiaas_server.state.migrate import upgrade
from aiaas_server.state.revision import REVISION, VERSION_TABLE
from tests.postgres import Postgres


def test_a_directory_is_all_it_takes(
    start_aiaas: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = start_aiaas("--data", "state", until="")
    server.line(f"run: aiaas deploy MODEL.onnx --name NAME --url http://127.0.0.1:{server.port}", 1)
    assert server.get("/v2/health/live")[0] == 200
    server.signal()
    assert server.exit_code() == 0
    with closing(sqlite3.connect(tmp_path / "state" / "state.db")) as connection:
        assert connection.execute(f"SELECT * FROM {VERSION_TABLE}").fetchall() == [(REVISION,)]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_state_may_be_in_postgresql(
    start_aiaas: Any, models: Path, tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.make_database()
    server = start_aiaas("--data", tmp_path / "d", "--models", models, database_url=url)
    assert server.get("/v2/models/tiny/ready")[0] == 200
    server.signal()
    assert server.exit_code() == 0
    assert not (tmp_path / "d" / "state.db").exists()
    with closing(psycopg.connect(url)) as connection:
        assert connection.execute(f"SELECT * FROM {VERSION_TABLE}").fetchall() == [(REVISION,)]
    postgres.drop_database(url)


@pytest.mark.slow
def test_workers_find_it_made(start_aiaas: Any, models: Path, tmp_path: Path) -> None:
    server = start_aiaas("--data", tmp_path / "state", "--models", models, "--workers", "2")
    assert server.get("/v2/models/tiny/ready")[0] == 200
    server.signal()
    assert server.exit_code() == 0
    server.to_the_end()
    assert not [line for line in server.lines if "ERROR" in line or "Traceback" in line]


def test_a_secret_url_comes_from_a_file_and_its_password_is_not_told(
    run_aiaas: Any, tmp_path: Path
) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://me:hunter2@127.0.0.1:1/name\n")
    secret.chmod(0o600)
    options = ["--data", tmp_path / "d", "--database-url-file", secret, "--metrics-port", "0"]
    done = run_aiaas("serve", *map(str, options))
    assert done.returncode == 1
    assert done.stderr.startswith("aiaas: the database postgresql://127.0.0.1:1/name: ")
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr


def test_a_newer_schema_refuses_the_start(tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path / 'state.db'}")
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StartError, match="schema 9999 of a newer server"):
        _check_data(Settings(data=tmp_path))


def test_models_that_are_asked_for_must_be_there(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "state", models=tmp_path / "nowhere")
    with pytest.raises(StartError, match="--models .*nowhere: no such file or directory"):
        _check_parts(_check_data(settings))


def test_a_wrong_url_is_told_by_the_name_it_was_given_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "mysql://me:hunter2@h/n"
    expected = "expected postgresql://user:password@host/name\n"
    with pytest.raises(typer.Exit):
        make_settings({"data": str(tmp_path), "database_url": wrong})
    assert capsys.readouterr().err == f"aiaas: --database-url-file: {expected}"
    monkeypatch.setenv("AIAAS_SERVER_DATABASE_URL", wrong)
    with pytest.raises(typer.Exit):
        make_settings({"data": str(tmp_path)})
    assert capsys.readouterr().err == f"aiaas: AIAAS_SERVER_DATABASE_URL: {expected}"
    monkeypatch.delenv("AIAAS_SERVER_DATABASE_URL")
    with pytest.raises(typer.Exit):
        make_settings({"artefacts_url": "s3://bucket"})
    told = "aiaas: artefacts_url needs data: a directory for what is kept beside it\n"
    assert capsys.readouterr().err == told


def test_in_process_a_directory_is_all_it_takes_too(tmp_path: Path) -> None:
    with Client.local(data=tmp_path / "state") as client:
        assert client.models.list() == []
    assert (tmp_path / "state" / "state.db").exists()


async def test_in_process_on_an_event_loop(models: Path, tmp_path: Path) -> None:
    async with AsyncClient.local(models, data=tmp_path / "state") as client:
        assert [entry.name for entry in await client.models.list()] == ["tiny"]


def test_in_process_a_mistake_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="expected a directory, got a file"):
        Client.local(data=tmp_path / "file")
    with pytest.raises(ConfigurationError, match="name a directory of models, or data="):
        Client.local()
