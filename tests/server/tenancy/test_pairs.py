"""Where what tenants brought meets what was there before."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from multiprocessing import shared_memory
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from aiaas_client.protocol.tenants import Limits
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.tenancy.months import month_at
from tests.server.http.serving import AsgiCaller
from tests.server.tenancy.billing import Billing
from tests.server.tenancy.conftest import Keys, OpenWorld
from tests.server.tenancy.served import served
from tests.server.tenancy.test_costs_are_told import price_things
from tests.server.tenancy.test_quota_routes import form
from tests.task_bundles import write_repository
from tests.tenants import Tenants

REGION = "/v2/systemsharedmemory/region/r"


@pytest.fixture
def shared() -> Iterator[shared_memory.SharedMemory]:
    """An object in memory that holds 7.0 four times."""
    memory = shared_memory.SharedMemory(f"aiaas-{uuid4().hex}", True, 16)
    assert memory.buf is not None
    memory.buf[:16] = np.full(4, 7.0, np.float32).tobytes()
    yield memory
    memory.close()
    memory.unlink()


async def test_memory_that_the_operator_shares_is_no_tenants(
    shared: Any, bring_all: Any, open_world: OpenWorld, keys: Keys
) -> None:
    """Who asks from this machine, or by a proxy on it, reads and writes nothing of the operator's:
    a region that there is looks like one that there is not."""
    bring_all()
    world = await open_world(shared_memory=True)

    async def ask(key: str, path: str, body: Any) -> Any:
        return await world.call("POST", path, body, {"authorization": f"Bearer {key}"})

    made = await ask(keys.operator, f"{REGION}/register", {"key": shared.name, "byte_size": 16})
    assert made.status == 200, made.body
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4]}

    def calls(region: str) -> list[dict[str, Any]]:
        place = {"shared_memory_region": region, "shared_memory_byte_size": 16}
        reads = {"inputs": [{**tensor, "parameters": place}]}
        output = {"name": "y", "parameters": place}
        return [reads, {"inputs": [{**tensor, "data": [1.0] * 4}], "outputs": [output]}]

    for there, absent in zip(calls("r"), calls("s"), strict=True):
        path = "/v2/models/shared/infer"
        theirs = [await ask(keys.b, path, asked) for asked in (there, absent)]
        assert [answer.status for answer in theirs] == [501, 501]
        assert theirs[0].json()["error"] == theirs[1].json()["error"]
        assert bytes(shared.buf[:4]) == np.float32(7.0).tobytes()
        answer = await ask(keys.operator, path, there)
        assert answer.status == 200, answer.body
    assert bytes(shared.buf[:4]) == np.float32(6.0).tobytes()


async def test_an_explanation_tells_what_it_costs(
    tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    """It computes much, which is paid for, though it is no request of the model."""
    root = write_repository(tmp_path / "models", onnx_models)
    price_things(tmp_path / "data", compute_seconds="1000000")
    settings = Settings(models=root, data=tmp_path / "data", cost_header=True)
    async with create_app(settings) as app:
        body = {"instances": ["good film"]}
        answer = await AsgiCaller(app)("POST", "/v1/models/moods:explain", body)
        assert answer.status == 200, answer.body
    assert Decimal(answer.headers["x-cost"].split()[0]) > 0


async def test_a_key_that_is_rotated_keeps_what_it_used(
    database: Database, tmp_path: Path, state_url: str, beside: Path
) -> None:
    """Neither is there a new month's money for whoever rotates a key, nor twice its requests."""
    billing = Billing(database)
    billing.price(month=month_at(time.time()), unit="rows")
    server = served(tmp_path, state_url, models=beside)
    server.tenants.tenant("acme")
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1] * 4}]}
    async with server.app as app:

        async def rotated(key: dict[str, Any]) -> dict[str, Any]:
            answer = await server.ask("POST", f"/keys/{key['id']}/rotate", {"grace": 600})
            assert answer.status == 201, answer.body
            made: dict[str, Any] = answer.json()
            return made

        async def infer(key: dict[str, Any]) -> Any:
            headers = {"authorization": f"Bearer {key['secret']}"}
            return await AsgiCaller(app)("POST", "/v2/models/open/infer", asked, headers)

        first = await server.made(tenant="acme", limits={"monthly_spend": "2"})
        second = await rotated(first)
        for key in (first, second):
            assert (await infer(key)).status == 200
        third = await rotated(second)
        for key in (second, third):
            assert (await infer(key)).json()["code"] == "budget_exceeded"

        first = await server.made(tenant="acme", limits={"requests_per_second": 1e-3, "burst": 2})
        second = await rotated(first)
        told = [(await infer(key)).status for key in (first, second, first, second)]
        assert told == [200, 200, 429, 429]


async def test_who_has_spent_enough_queues_no_jobs(tmp_path: Path) -> None:
    """Jobs cost, and batches are jobs; those of others go on, and what there is is told."""
    data = tmp_path / "data"
    tenants = Tenants(data)
    tenants.tenant("acme", Limits(monthly_spend=Decimal(0)))
    tenants.tenant("bolt")
    price_things(data, job_hours="1")
    spent, free = tenants.key("acme"), tenants.key("bolt")
    own = tenants.key("bolt", limits=Limits(monthly_spend=Decimal(0)))
    line = {
        "custom_id": "1", "method": "POST", "url": "/v1/embeddings",
        "body": {"model": "none", "input": "x"},
    }  # fmt: skip
    async with create_app(Settings(data=data, tenants=True, disk_reserve_bytes=0)) as app:
        call = AsgiCaller(app)

        async def batched(key: str) -> Any:
            headers = {"authorization": f"Bearer {key}"}
            body, kind = form(json.dumps(line).encode())
            sent = headers | {"content-type": kind}
            file = await call("POST", "/v1/files", body, sent)
            assert file.status == 200, file.body
            batch = {
                "input_file_id": file.json()["id"], "endpoint": "/v1/embeddings",
                "completion_window": "24h",
            }  # fmt: skip
            assert (await call("GET", "/api/v1/jobs", headers=headers)).status == 200
            return await call("POST", "/v1/batches", batch, headers)

        for key in (spent, own):
            refused = await batched(key)
            assert refused.status == 429, refused.body
            assert refused.json()["error"]["code"] == "budget_exceeded"
            assert int(refused.headers["retry-after"]) > 1
        made = await batched(free)
        assert made.status == 200, made.body
