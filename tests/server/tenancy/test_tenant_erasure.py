"""A tenant is erased: keys first, then bytes, then rows; and a certificate says what went."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner

from aiaas_client._cli.erase import problem_of
from aiaas_client.protocol.erasure import Certificate, TenantErasure
from aiaas_server.app import create_app
from aiaas_server.cli import app as cli
from aiaas_server.core.author import Author
from aiaas_server.core.errors import InvalidInput, NotFound
from aiaas_server.registry.deployment import Deployment
from aiaas_server.settings import Settings
from aiaas_server.state.artefacts.vault import Vault, open_vault
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade
from aiaas_server.state.tables import METADATA
from aiaas_server.tenancy import erasures
from aiaas_server.tenancy.certificates import Signer
from aiaas_server.tenancy.erasing import TenantEraser
from aiaas_server.tenancy.rows import add_tenant
from aiaas_server.tenancy.secrets import ServerSecret
from tests.server.http.serving import AsgiCaller
from tests.server.plain_bytes import Known
from tests.server.registry.deploying import ME, deploy, open_deployment, request_for, send
from tests.tenants import Tenants

SECRET = ServerSecret(bytes(32))
ACME, OTHER = Author("acme", "k1"), Author("other", "k2")
CONTENT = {"model.onnx": os.urandom(3000), "labels.txt": os.urandom(500)}
_KEPT = {"tenants", "keys", "usage", "statements", "audit", "prices", "erasures", "changes"}

pytestmark = pytest.mark.asyncio


class Server:
    """The parts of one that erase."""

    def __init__(self, database: Database, data: Path, settled: float = 0.0) -> None:
        data.mkdir(exist_ok=True)
        settings = Settings(data=data, master_key="11" * 32, disk_reserve_bytes=0)  # type: ignore[arg-type]
        vault = open_vault(settings, database)
        assert vault is not None
        self.data, self.database = data, database
        self.vault: Vault = vault
        self.deployment: Deployment = open_deployment(database, data, vault=vault)
        self.eraser = self.make(settled)

    def make(self, settled: float) -> TenantEraser:
        deployment = self.deployment
        return TenantEraser(
            self.database,
            deployment.artefacts,
            deployment.parts,
            deployment.remover,
            deployment.remote,
            Signer(SECRET),
            refresh=self.refreshed,
            forget=deployment.cache.drop_all,
            settled=settled,
        )

    async def refreshed(self) -> None:
        pass

    async def fill(self) -> None:
        """Versions and a draft of two tenants, of the same bytes."""
        for author in (ACME, OTHER):
            await self.database.write(lambda c, a=author: add_tenant(c, ME, a.tenant, "basic"))  # type: ignore[misc]
            await deploy(self.deployment, "m", CONTENT, author)
            files = {"model.onnx": os.urandom(2000)}
            draft, _ = await self.deployment.drafts.create(author, "new", request_for(files))
            await send(self.deployment, draft, files, author)

    async def done(self, tenant: str = "acme") -> Certificate:
        async with asyncio.timeout(60):
            while (found := await self.eraser.find(tenant)).certificate is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found.certificate

    def tables_of(self, tenant: str) -> dict[str, int]:
        """How many rows each table has of a tenant."""

        def count(connection: Any) -> dict[str, int]:
            found = {}
            for table in METADATA.sorted_tables:
                if "tenant" in table.c and table.name not in _KEPT:
                    asked = select(func.count()).select_from(table).where(table.c.tenant == tenant)
                    found[table.name] = connection.execute(asked).scalar_one()
            return {name: number for name, number in found.items() if number}

        return self.database.read_now(count)

    async def close(self) -> None:
        await self.eraser.close()
        await self.deployment.close()
        self.vault.close()


@asynccontextmanager
async def opened(database: Database, data: Path, **more: Any) -> AsyncIterator[Server]:
    server = Server(database, data, **more)
    try:
        yield server
    finally:
        await server.close()


async def test_nothing_is_left_of_it_and_another_has_what_it_had(
    database: Database, tmp_path: Path
) -> None:
    async with opened(database, tmp_path / "data") as server:
        await server.fill()
        before = server.tables_of("other")
        assert before["models"] == before["drafts"] == 1
        keys = [row for row in server.vault.keys.all() if row[0] == "acme"]
        server.eraser.start()
        asked = await server.eraser.erase(ME, "acme", ["tapes in the cellar, until March"])
        assert asked.state == "running"
        certificate = await server.done()
        assert server.tables_of("acme") == {}
        assert server.tables_of("other") == before
        assert not [one for one in server.deployment.artefacts.sizes() if one[0] == "acme"]
        assert not [row for row in server.vault.keys.all() if row[0] == "acme"]
        assert certificate.verified
        assert certificate.counts["models"] == certificate.counts["versions"] == 1
        assert certificate.counts["drafts"] == 1
        assert set(certificate.artefacts) == {digest for _, digest in keys}
        assert len(certificate.data_keys) == len(keys) == 3
        assert certificate.models == ["m"]
        assert certificate.backups == ["tapes in the cellar, until March"]
        again = await server.eraser.erase(ME, "acme", [])
        assert again.certificate == certificate


@pytest.mark.slow
async def test_what_came_in_meanwhile_goes_too(database: Database, tmp_path: Path) -> None:
    """Another process lets its keys in until it has heard of it."""
    async with opened(database, tmp_path / "data", settled=2.0) as server:
        await server.fill()
        server.eraser.start()
        await server.eraser.erase(ME, "acme", [])
        async with asyncio.timeout(60):
            while server.tables_of("acme"):  # noqa: ASYNC110  # there is no event
                await asyncio.sleep(0.02)
        await deploy(server.deployment, "late", CONTENT, ACME)
        certificate = await server.done()
        assert certificate.models == ["late", "m"]
        assert server.tables_of("acme") == {}


async def test_it_goes_on_wherever_it_was_ended(database: Database, tmp_path: Path) -> None:
    """Before anything went; with the rows gone and the bytes there; with all gone but unsigned."""
    data = tmp_path / "data"
    async with opened(database, data) as server:
        await server.fill()
        await server.eraser.erase(ME, "acme", [])  # nobody carries it out
    (row,) = await database.read(erasures.running)
    async with opened(database, data):
        await database.write(lambda c: erasures.take(c, row))
    async with opened(database, data) as server:
        assert await server.eraser._take(row) is True
        assert await server.eraser._take(row) is False
    async with opened(database, data) as server:
        server.eraser.start()
        certificate = await server.done()
        assert certificate.verified
        assert certificate.counts["versions"] == 1
        assert len(certificate.artefacts) == 3
        assert server.tables_of("acme") == {}
        assert not [one for one in server.deployment.artefacts.sizes() if one[0] == "acme"]


async def test_the_operator_and_nobody_cannot_be_erased(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path / "data") as server:
        with pytest.raises(InvalidInput, match="the operator's"):
            await server.eraser.erase(ME, "default", [])
        with pytest.raises(NotFound, match="no tenant 'none'"):
            await server.eraser.erase(ME, "none", [])
        with pytest.raises(NotFound, match="nobody has asked"):
            await server.eraser.find("none")


def signed() -> dict[str, Any]:
    certificate = Certificate(
        id="1", tenant="acme", requested=1.5, requested_by="k", finished=2.0, models=["é"]
    )
    return Signer(SECRET).signed(certificate).model_dump(mode="json")


async def test_a_certificate_is_verified_by_anybody_with_the_public_key() -> None:
    document = json.loads(json.dumps(signed()))
    assert problem_of(document) == ""
    assert problem_of(document, Signer(SECRET).public_key) == ""
    assert "expected to be signed by" in problem_of(document, "00" * 32)
    stranger = Signer(ServerSecret(bytes(31) + b"\1")).signed(Certificate(**document))
    assert "expected" in problem_of(stranger.model_dump(mode="json"), Signer(SECRET).public_key)


@pytest.mark.parametrize("member", sorted(Certificate.model_fields))
async def test_whatever_is_changed_of_a_certificate_is_found(member: str) -> None:
    document = signed()
    value = document[member]
    changed: Any = [*value, "x"] if isinstance(value, list) else f"{value}0"
    assert problem_of(document | {member: changed}) != ""
    assert problem_of({name: v for name, v in document.items() if name != member}) != ""


async def test_the_command_tells_whether_a_certificate_is_good(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(signed()))
    good = CliRunner().invoke(cli, ["erase", "verify", str(path)])
    assert good.exit_code == 0, good.output
    assert "tenant 'acme': erased 1970-01-01" in good.output
    path.write_text(json.dumps(signed() | {"tenant": "other"}))
    bad = CliRunner().invoke(cli, ["erase", "verify", str(path)])
    assert bad.exit_code == 1
    assert "it was changed" in bad.output


@pytest.mark.slow
async def test_its_keys_are_refused_at_once(tmp_path: Path) -> None:
    """The operator says its name twice; others may not at all."""
    tenants = Tenants(tmp_path)
    theirs, operator = tenants.key("acme", ["admin"]), tenants.key(scopes=["admin"])
    known = Known(CONTENT["model.onnx"])
    settings = Settings(data=tmp_path, tenants=True, master_key="22" * 32, disk_reserve_bytes=0)  # type: ignore[arg-type]
    async with create_app(settings) as app:
        call = AsgiCaller(app)

        async def asked(key: str, method: str, path: str, body: Any = b"") -> Any:
            return await call(method, path, body, {"authorization": f"Bearer {key}"})

        erase = "/api/v1/tenants/acme/erase"
        assert (await asked(theirs, "POST", erase, {"confirm": "acme"})).status == 403
        assert (await asked(operator, "POST", erase)).status == 400
        wrong = await asked(operator, "POST", erase, {"confirm": "acmé"})
        assert "expected the tenant's name" in wrong.json()["error"]
        assert (await asked(theirs, "GET", "/api/v1/models")).status == 200
        missing = await asked(operator, "POST", "/api/v1/tenants/none/erase", {"confirm": "none"})
        assert missing.status == 404
        begun = await asked(operator, "POST", erase, {"confirm": "acme", "backups": ["none"]})
        assert begun.status == 202
        assert (await asked(theirs, "GET", "/api/v1/models")).status == 401
        async with asyncio.timeout(60):
            while True:
                answer = await asked(operator, "GET", "/api/v1/tenants/acme/erasure")
                found = TenantErasure(**answer.json())
                if found.certificate is not None:
                    break
                await asyncio.sleep(0.1)
        assert found.certificate.verified
        assert len(found.certificate.keys) == 1
        assert problem_of(found.certificate.model_dump(mode="json")) == ""
    assert not known.found_below(tmp_path)


def killed(line: list[str], after: float) -> None:
    """Start it, and kill it so many seconds after it has begun; where it is then is no matter."""
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(after)
        process.kill()


@pytest.mark.slow
async def test_killed_again_and_again_it_comes_to_its_end(tmp_path: Path) -> None:
    """kill -9 at moments that move on; whatever it was doing, nothing is left in the end."""
    data, url = tmp_path / "data", f"sqlite:///{tmp_path / 'state.db'}"
    upgrade(url)
    database = Database(url)
    async with opened(database, data) as server:
        await server.fill()
        for number in range(40):
            content = {"model.onnx": os.urandom(2000)}
            await deploy(server.deployment, f"m{number}", content, ACME)
    line = [sys.executable, "-m", "tests.server.tenancy.erasing_server", str(data), "acme"]
    for turn in range(6):
        await asyncio.to_thread(killed, line, 0.02 * turn)
    await asyncio.to_thread(subprocess.run, line, check=True, stdout=subprocess.DEVNULL)
    async with opened(database, data) as server:
        certificate = (await server.eraser.find("acme")).certificate
        assert certificate is not None
        assert certificate.verified
        assert certificate.counts["models"] == certificate.counts["versions"] == 41
        assert len(certificate.artefacts) == len(certificate.data_keys) == 43
        assert server.tables_of("acme") == {}
        assert {one[0] for one in server.deployment.artefacts.sizes()} == {"other"}
    database.close()
