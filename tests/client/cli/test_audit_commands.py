"""`aiaas audit`: list, verify, report and archive, of a server and of its directory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import update
from typer.testing import CliRunner

from aiaas_client import Client, NotFoundError
from aiaas_client._cli.commands import register
from aiaas_client.testing import FakeServer
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import AUDIT
from tests.server.http.serving import AsgiCaller

Aiaas = Callable[..., Any]
MONTH = time.strftime("%Y-%m", time.gmtime())


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server, Client(server.url) as client:
        client.models.deploy("m", b"one")
        with pytest.raises(NotFoundError):
            client.models.delete("other")
        yield server


@pytest.fixture
def aiaas() -> Aiaas:
    app = typer.Typer()
    register(app)

    def run(*arguments: object, **options: Any) -> Any:
        return CliRunner().invoke(
            app, ["audit", *map(str, arguments)], env={"COLUMNS": "200"}, **options
        )

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory whose server has been asked for three acts of two entries."""
    place = tmp_path / "data"

    async def work() -> None:
        async with create_app(Settings(data=place)) as app:
            for name in "abc":
                await AsgiCaller(app)("DELETE", f"/api/v1/models/{name}")

    asyncio.run(work())
    return place


def test_acts_are_listed(aiaas: Aiaas, server: FakeServer) -> None:
    done = aiaas("list", "--act", "models.delete", "--since", "1h", "--url", server.url)
    assert done.exit_code == 0, done.output
    assert "models.delete" in done.output
    assert "models.deploy" not in done.output
    lines = aiaas("list", "--lines", "--url", server.url).output.splitlines()
    whole = json.loads(aiaas("list", "--json", "--url", server.url).output)
    assert [json.loads(line) for line in lines] == whole
    wrong = aiaas("list", "--since", "whenever", "--url", server.url)
    assert wrong.exit_code == 2
    assert "expected a time" in wrong.output


def test_the_report_is_a_table_json_or_a_page(
    aiaas: Aiaas, server: FakeServer, tmp_path: Path
) -> None:
    asked = ("report", "--month", MONTH, "--url", server.url)
    done = aiaas(*asked)
    assert done.exit_code == 0, done.output
    assert "models.deploy" in done.output
    assert "Refusals: none" in done.output
    assert json.loads(aiaas(*asked, "--json").output)["month"] == MONTH
    page = tmp_path / "report.html"
    assert aiaas(*asked, "--html", page).exit_code == 0
    assert f"<h1>Audit of {MONTH}</h1>" in page.read_text()
    assert "<td>models.deploy</td>" in page.read_text()
    assert aiaas("report", "--month", "x", "--url", server.url).exit_code == 2


def test_verify_ends_with_1_where_something_was_changed(aiaas: Aiaas, server: FakeServer) -> None:
    assert aiaas("verify", "--url", server.url).exit_code == 0
    del server.audit.entries[-1]
    done = aiaas("verify", "--url", server.url)
    assert done.exit_code == 1
    assert "the end was cut off" in done.output
    assert "NOT intact" in done.output


def test_a_directory_is_checked_without_its_server(aiaas: Aiaas, data: Path) -> None:
    done = aiaas("verify", "--data", data)
    assert done.exit_code == 0, done.output
    assert "6 entries, 1 heads: intact" in done.output
    database = Database(f"sqlite:///{data / 'state.db'}")
    change = update(AUDIT).where(AUDIT.c.seq == 3).values(actor="other")
    database.submit(lambda c: c.execute(change)).result()
    database.close()
    done = aiaas("verify", "--data", data)
    assert done.exit_code == 1
    assert "entry 3 was edited: its column 'actor'" in done.output
    assert aiaas("archive", data / "x", "--before", "2100-01-01", "--data", data).exit_code == 1


def test_old_entries_go_into_a_file_that_is_checked(
    aiaas: Aiaas, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "old.jsonl"
    early = aiaas("archive", file, "--before", "2020-01-01", "--data", data)
    assert early.exit_code == 1
    assert "no entries" in early.output
    done = aiaas("archive", file, "--before", "2100-01-01", "--data", data)
    assert done.exit_code == 0, done.output
    assert "entries 1 to 6" in done.output
    assert len(file.read_text().splitlines()) == 7
    checked = json.loads(aiaas("verify", "--data", data, "--json").output)
    assert checked["intact"]
    assert (checked["archived"], checked["first"], checked["last"]) == (6, 7, 7)
    assert aiaas("verify", "--data", data, "--archive", file).exit_code == 0
    file.write_text(file.read_text().replace("models.delete", "models.update", 1))
    wrong = aiaas("verify", "--data", data, "--archive", file)
    assert wrong.exit_code == 1
    assert "entry 1 is not what was written" in wrong.output


def test_what_is_no_directory_of_a_server_is_told(aiaas: Aiaas, tmp_path: Path) -> None:
    done = aiaas("verify", "--data", tmp_path)
    assert done.exit_code == 1
    assert "state.db" in done.output
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"


def test_an_embedded_server_has_an_audit(tmp_path: Path) -> None:
    with Client.local(data=tmp_path / "data") as client:
        with pytest.raises(NotFoundError):
            client.models.delete("other")
        second, first = client.audit.list(act="models.delete")
        assert (first.result, second.result, second.begun) == ("begun", "failed", first.seq)
        assert client.audit.verify().intact
        assert client.audit.report(MONTH).acts[0].act == "models.delete"
