"""`aiaas usage`: a table with bars, JSON, or a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aiaas_client.testing import FakeServer
from aiaas_server.cli import app


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.usage.add("m", requests=40, compute_us=2_500_000)
        server.usage.add("[n]", requests=10)
        yield server


def run(server: FakeServer, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["usage", "--url", server.url, *arguments])


def test_a_table_with_bars(server: FakeServer) -> None:
    found = run(server)
    assert found.exit_code == 0, found.output
    bars = {line.split()[0]: line.count("█") for line in found.output.splitlines() if "█" in line}
    assert bars == {"m": 20, "[n]": 5}
    assert "2.500 s" in found.output


def test_rows_as_json(server: FakeServer) -> None:
    found = run(server, "--by", "model,month", "--unit", "requests", "--json")
    rows = json.loads(found.output)
    assert [(row["model"], row["amount"]) for row in rows] == [("[n]", 10), ("m", 40)]


def test_a_file(server: FakeServer, tmp_path: Path) -> None:
    found = run(server, "--csv", str(tmp_path / "usage.csv"), "--model", "m")
    assert found.exit_code == 0, found.output
    assert len((tmp_path / "usage.csv").read_text("utf-8").splitlines()) == 3


def test_nothing_was_used(server: FakeServer) -> None:
    assert "nothing was used" in run(server, "--model", "other").output


def test_wrong_use_is_told(server: FakeServer) -> None:
    found = run(server, "--by", "colour")
    assert found.exit_code != 0
    assert "colour" in found.output
