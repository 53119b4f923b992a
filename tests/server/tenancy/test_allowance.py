"""What a tenant may keep: asked in the transaction that would be too much, exact when two race."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from sqlalchemy import insert, update

from aiaas_client.protocol.datasets import DatasetRequest
from aiaas_client.protocol.management import BundleFile, DraftRequest
from aiaas_client.protocol.tenants import UNLIMITED
from aiaas_server.core.author import SERVER, Author
from aiaas_server.core.errors import QuotaExceeded
from aiaas_server.datasets.draft_rows import ensure_draft
from aiaas_server.jobs.queue import enqueue
from aiaas_server.registry.draft_rows import end_draft, insert_draft
from aiaas_server.registry.models import ensure_model
from aiaas_server.state.artefacts import claims
from aiaas_server.state.database import Connection, Database
from aiaas_server.state.tables import ARTEFACTS, DRAFTS, JOBS
from aiaas_server.state.tenant_tables import PLANS
from aiaas_server.tenancy.allowance import (
    admit_draft,
    admit_files,
    admit_job,
    stored_bytes,
    told_bytes,
)
from aiaas_server.tenancy.rows import add_tenant

ACME = Author("acme", "key/one", "")


def sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def bundle(**sizes: int) -> DraftRequest:
    """Files by the name of their bytes."""
    files = [
        BundleFile(name=f"{name}.onnx", size=size, sha256=sha(name)) for name, size in sizes.items()
    ]
    return DraftRequest(files=files)


def have(connection: Connection, **limits: Any) -> None:
    """The tenant, with these limits alone."""
    document = UNLIMITED.model_copy(update=limits).model_dump(mode="json")
    connection.execute(insert(PLANS).values(
        name="some", limits=document, description="", created=0.0, created_by="tests"
    ))  # fmt: skip
    add_tenant(connection, SERVER, "acme", "some")


def keep(connection: Connection, name: str, size: int, user: str = "m/1") -> None:
    claims.claim(connection, "acme", sha(name), user)
    claims.set_size(connection, "acme", sha(name), size)


def bring(connection: Connection, model: str, request: DraftRequest) -> Any:
    admit_draft(connection, ACME, model, request)
    return insert_draft(connection, ACME, model, request)


def refused(database: Database, work: Any) -> str:
    with pytest.raises(QuotaExceeded) as error:
        database.submit(work).result()
    return error.value.message


def test_bytes_are_counted_once_a_digest_and_as_announced(database: Database) -> None:
    def work(connection: Connection) -> None:
        have(connection, stored_bytes=1000)
        keep(connection, "a", 300)
        keep(connection, "a", 300, "m/2")
        keep(connection, "gone", 5000)
        claims.release(connection, "acme", "m/1", sha("gone"))
        claims.claim(connection, "acme", sha("awaited"), "upload/1")
        bring(connection, "m", bundle(a=300, b=200))
        bring(connection, "n", bundle(b=200, c=100))
        assert stored_bytes(connection, "acme") == 600
        assert stored_bytes(connection, "other") == 0
        bring(connection, "o", bundle(a=300, b=200, d=400))
        assert stored_bytes(connection, "acme") == 1000

    database.submit(work).result()
    told = refused(database, lambda c: bring(c, "p", bundle(e=1)))
    assert told == "stored_bytes: 1000 B may be stored, 1000 are, this needs 1"
    database.submit(lambda c: bring(c, "p", bundle(a=300, b=200, c=100))).result()


def test_what_is_over_gives_its_bytes_back(database: Database) -> None:
    def work(connection: Connection) -> None:
        have(connection, stored_bytes=100)
        row = bring(connection, "m", bundle(a=100))
        with pytest.raises(QuotaExceeded):
            bring(connection, "n", bundle(b=100))
        end_draft(connection, row)
        old = bring(connection, "n", bundle(b=100))
        connection.execute(update(DRAFTS).where(DRAFTS.c.id == old.id).values(created=1.0))
        bring(connection, "o", bundle(c=100))
        connection.execute(DRAFTS.delete())
        keep(connection, "d", 100)
        with pytest.raises(QuotaExceeded):
            admit_files(connection, "acme", {sha("e"): 1})
        connection.execute(update(ARTEFACTS).values(leaving=True))
        admit_files(connection, "acme", {sha("e"): 100})

    database.submit(work).result()


def test_data_sets_and_models_share_the_bytes(database: Database) -> None:
    files = [BundleFile(name="a.csv", size=60, sha256=sha("a"))]
    request = DatasetRequest(files=files, format="csv")

    def work(connection: Connection) -> None:
        have(connection, stored_bytes=100)
        assert ensure_draft(connection, ACME, "d", request, admit_files)[1]
        assert not ensure_draft(connection, ACME, "d", request, admit_files)[1]
        with pytest.raises(QuotaExceeded, match="100 B may be stored, 60 are, this needs 41"):
            bring(connection, "m", bundle(b=41))

    database.submit(work).result()


def test_models_count_with_those_that_come(database: Database) -> None:
    def work(connection: Connection) -> None:
        have(connection, models=2)
        ensure_model(connection, ACME, "one")
        bring(connection, "two", bundle(a=1))
        bring(connection, "two", bundle(b=1))
        bring(connection, "one", bundle(c=1))

    database.submit(work).result()
    told = refused(database, lambda c: bring(c, "three", bundle(d=1)))
    assert told.startswith("models: 2 may be in the registry, 2 are there or being brought")


@pytest.mark.parametrize("state", ["queued", "running", "succeeded", "failed", "cancelled"])
def test_jobs_count_until_they_end(state: str, database: Database) -> None:
    def queue(connection: Connection) -> None:
        admit_job(connection, "acme")
        enqueue(connection, tenant="acme", by="x", kind="train", subject="m", spec={})

    database.submit(partial(have, jobs=1)).result()
    database.submit(queue).result()
    database.submit(lambda c: c.execute(update(JOBS).values(state=state))).result()
    if state in ("queued", "running"):
        told = refused(database, queue)
        assert told == "jobs: 1 may be queued or run at one time, 1 are"
    else:
        database.submit(queue).result()


@pytest.mark.parametrize("what", ["stored_bytes", "models", "jobs"])
async def test_of_those_that_race_one_passes(what: str, database: Database, state_url: str) -> None:
    await database.write(partial(have, **{what: 100 if what == "stored_bytes" else 1}))
    ways: Mapping[str, Any] = {
        "stored_bytes": lambda n: lambda c: bring(c, "m", bundle(**{f"f{n}": 60})),
        "models": lambda n: lambda c: bring(c, f"m{n}", bundle(a=1)),
        "jobs": lambda n: (
            lambda c: (
                admit_job(c, "acme"),
                enqueue(c, tenant="acme", by="x", kind="train", subject="m", spec={}),
            )
        ),
    }
    others = [database, *(Database(state_url) for _ in range(3))]
    try:
        found = await asyncio.gather(
            *(others[n % 4].write(ways[what](n)) for n in range(20)), return_exceptions=True
        )
    finally:
        for one in others[1:]:
            one.close()
    errors = [one for one in found if isinstance(one, BaseException)]
    assert len(errors) == 19
    assert all(isinstance(one, QuotaExceeded) for one in errors), errors


def test_a_tenant_without_limits_may_keep_all(database: Database) -> None:
    def work(connection: Connection) -> None:
        admit_files(connection, "default", {sha("a"): 1 << 60})
        admit_draft(connection, Author("default", "x", ""), "m", bundle(a=1 << 39))
        admit_job(connection, "nobody")

    database.submit(work).result()


def test_amounts_are_told_in_one_unit() -> None:
    assert told_bytes(20 << 30, int(19.9 * (1 << 30)), int(0.3 * (1 << 30))) == [
        "20.0 GiB", "19.9", "0.3",
    ]  # fmt: skip
    assert told_bytes(0, 0, 1) == ["0 B", "0", "1"]
