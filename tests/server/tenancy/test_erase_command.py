"""`aiaas erase tenant`, against a real server: from the command to the certificate in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aiaas_client._cli.erase import problem_of
from aiaas_server.app import create_app
from aiaas_server.cli import app as cli
from aiaas_server.settings import Settings
from tests.server.http.serving import serving
from tests.tenants import Tenants


@pytest.mark.slow
def test_the_command_erases_a_tenant_and_keeps_its_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = Tenants(tmp_path / "data")
    tenants.key("acme", ["admin"])
    monkeypatch.setenv("AIAAS_API_KEY", tenants.key(scopes=["admin"]))
    (tmp_path / "models").mkdir()
    settings = Settings(models=tmp_path / "models", data=tmp_path / "data", tenants=True)
    kept = tmp_path / "acme.json"
    with serving(create_app(settings)) as server:
        line = ["erase", "tenant", "acme", "--confirm", "acme", "--backup", "tape 7, until May"]
        done = CliRunner().invoke(cli, [*line, "-o", str(kept), "--url", server.url])
    assert done.exit_code == 0, done.output
    assert "nothing of it was found afterwards" in done.output
    assert "gone: 1 keys" in done.output
    assert "backup: tape 7, until May" in done.output
    assert problem_of(json.loads(kept.read_text())) == ""
