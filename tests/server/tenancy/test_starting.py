"""How a server with tenants begins: the first key, the flag that was forgotten, the secret."""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aiaas_client import Client
from aiaas_server.app import create_app
from aiaas_server.cli import app as commands
from aiaas_server.listen import StartError
from aiaas_server.serve import _check_data
from aiaas_server.settings import Settings
from aiaas_server.state.prepare import DataRefused, prepare
from aiaas_server.tenancy.secrets import SecretRefused, key_id
from tests.server.tenancy.served import Served, settings_of
from tests.tenants import Tenants
from tests.waiting import until


def init(data: Path, state_url: str, *more: str) -> Any:
    arguments = ["keys", "init", "--data", str(data), *more]
    if state_url.startswith("postgresql"):
        file = data.parent / "url"
        file.write_text(state_url.replace("+psycopg", "", 1))
        file.chmod(0o600)
        arguments += ["--database-url-file", str(file)]
    return CliRunner().invoke(commands, arguments)


@pytest.fixture
def where(tmp_path: Path, state_url: str) -> tuple[Path, str]:
    data = tmp_path / "data"
    url = state_url if state_url.startswith("postgresql") else f"sqlite:///{data / 'state.db'}"
    return data, url


async def test_the_first_key_is_printed_once_and_opens_the_server(where: Any) -> None:
    data, url = where
    done = init(data, url)
    assert done.exit_code == 0, done.output
    key = done.stdout.strip()
    assert key_id(key.encode())
    assert key not in done.stderr
    assert "--tenants" in done.stderr
    assert stat.S_IMODE((data / "secret").stat().st_mode) == 0o600
    second = init(data, url)
    assert second.exit_code == 1
    assert "there is an operator's key already" in second.stderr
    assert key_id(key.encode()) in second.stderr
    assert not second.stdout
    async with create_app(settings_of(data, url)) as app:
        server = Served(app, Tenants(data, url), key)
        me = (await server.ask("GET", "/me")).json()
        assert (me["tenant"], "operator" in me["scopes"]) == ("default", True)
        made = await server.made(name="deploy")
        assert made["created_by"] == me["key_id"]
        (told,) = (await server.ask("GET", "/audit?act=keys.init")).json()["items"]
        assert (told["actor"], told["object"]) == ("operator", me["key_id"])
        assert (await server.ask("GET", "/audit/verify")).json()["intact"]


async def test_another_key_is_known_to_a_server_that_runs(where: Any) -> None:
    data, url = where
    first = init(data, url).stdout.strip()
    async with create_app(settings_of(data, url)) as app:
        done = init(data, url, "--another")
        assert done.exit_code == 0, done.output
        second = done.stdout.strip()
        assert second != first
        identities = app._platform.tenancy.identities  # type: ignore[union-attr]
        await until(lambda: identities.find(second.encode()) is not None)
        assert identities.find(first.encode()) is not None


async def test_a_server_without_a_key_begins_and_says_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("aiaas_server")
    logger.addHandler(caplog.handler)
    try:
        async with create_app(Settings(data=tmp_path, tenants=True)) as app:
            server = Served(app, Tenants(tmp_path), "")
            assert (await server.ask("GET", "/me")).status == 401
    finally:
        logger.removeHandler(caplog.handler)
    assert f"aiaas keys init --data {tmp_path}" in caplog.text


def test_forgetting_the_flag_opens_nothing(where: Any) -> None:
    data, url = where
    without = settings_of(data, url, tenants=False)
    prepare(without)
    Tenants(data, url).key("acme")
    with pytest.raises(DataRefused, match="start it with --tenants"):
        create_app(without)
    prepare(settings_of(data, url))


def test_a_secret_that_is_too_short_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "short"
    secret.write_bytes(b"short")
    with pytest.raises(SecretRefused, match="expected 32 bytes or more, got 5"):
        create_app(Settings(data=tmp_path / "data", tenants=True, secret_file=secret))
    done = init(tmp_path / "data", "sqlite://", "--secret-file", str(secret))
    assert done.exit_code == 2
    assert "expected 32 bytes" in done.stderr


def test_all_servers_of_a_database_have_one_secret(where: Any, tmp_path: Path) -> None:
    """With another no key would be known, and its entries of the audit look forged."""
    data, url = where
    assert init(data, url).exit_code == 0
    secret = tmp_path / "another"
    secret.write_bytes(b"x" * 32)
    others = settings_of(data, url).model_copy(update={"secret_file": secret})
    with pytest.raises(SecretRefused, match="not the one that this database was used with"):
        create_app(others)
    with pytest.raises(StartError, match="name the copy with --secret-file"):
        _check_data(others)
    done = init(data, url, "--another", "--secret-file", str(secret))
    assert done.exit_code == 2
    assert "--secret-file" in done.stderr
    found = init(data, url, "--lost-secret", "--secret-file", str(secret))
    assert found.exit_code == 0, found.output
    assert key_id(found.stdout.strip().encode())
    create_app(others)
    back = init(data, url, "--lost-secret")
    assert back.exit_code == 0, back.output
    same = tmp_path / "same"
    same.write_bytes((data / "secret").read_bytes())
    create_app(settings_of(data, url).model_copy(update={"secret_file": same}))


def test_init_without_a_directory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIAAS_SERVER_DATA", raising=False)
    done = CliRunner().invoke(commands, ["keys", "init"])
    assert done.exit_code == 2
    assert "--data" in done.stderr


@pytest.mark.parametrize("tenants", [False, True])
def test_whoever_runs_it_in_process_is_the_operator(tmp_path: Path, tenants: bool) -> None:
    Tenants(tmp_path).key("acme")
    with Client.local(data=tmp_path, tenants=tenants) as client:
        me = client.whoami()
        assert (me.tenant, me.key_id) == ("default", "")
        assert [one.name for one in client.tenants.list()] == ["acme", "default"]
        made = client.keys.create("ci", scopes=["infer"], tenant="acme", expires=60)
        assert made.secret.startswith("aias_")
        assert made.secret not in repr(made)
        assert client.keys.get(made).name == "ci"
        assert client.keys.revoke(made).state == "revoked"
