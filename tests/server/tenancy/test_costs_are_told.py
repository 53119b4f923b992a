"""`X-Cost` on whatever way an answer takes; limits of spending at a server's front door."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from aiaas_client.protocol.tenants import Limits
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade
from aiaas_server.tenancy.months import month_at
from tests import tiny_llm
from tests.server.http.conftest import CALLERS
from tests.server.http.serving import AsgiCaller
from tests.server.tenancy.billing import Billing
from tests.task_bundles import write_repository
from tests.tenants import Tenants
from tests.waiting import until
from tests.webhook import hook

TENSOR = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
ASK = [{"role": "user", "content": "the quick"}]
CHAT = {"model": "tiny", "messages": ASK, "max_tokens": 4, "temperature": 0}


def price_things(data: Path, **members: Any) -> None:
    """Put prices into the book of a data directory, as of this month's beginning."""
    data.mkdir(exist_ok=True)
    url = f"sqlite:///{data / 'state.db'}"
    upgrade(url)
    database = Database(url)
    try:
        billing, month = Billing(database), month_at(time.time())
        for unit, amount in members.items():
            billing.price(month=month, unit=unit, amount=amount)
    finally:
        database.close()


@pytest_asyncio.fixture(params=sorted(CALLERS))
async def call(
    request: pytest.FixtureRequest, tmp_path: Path, onnx_models: SimpleNamespace
) -> AsyncIterator[Any]:
    """A server that tells costs, reached in each of the ways there are."""
    root = write_repository(tmp_path / "models", onnx_models)
    tiny_llm.write_model(root)
    kept = root / "kept" / "1"
    kept.mkdir(parents=True)
    (kept / "model.onnx").write_bytes(onnx_models.identity("FP32", ["batch", 2]))
    config = {"max_batch_size": 4, "response_cache": {"enable": True}}
    (kept.parent / "config.json").write_text(json.dumps(config), "utf-8")
    data = tmp_path / "data"
    price_things(data, requests="0.01", rows="0.001", cache_hits="0.0002", tokens_out="0.1")
    settings = Settings(models=root, data=data, cost_header=True)
    async with create_app(settings) as app:
        yield CALLERS[request.param](app)


async def cost_of(call: Any, path: str, body: Any) -> str:
    answer = await call("POST", path, body)
    assert answer.status == 200, answer.body
    found: str = answer.headers["x-cost"]
    return found


async def test_answers_carry_their_cost(call: Any) -> None:
    asked = {"inputs": [TENSOR]}
    assert await cost_of(call, "/v2/models/table/infer", asked) == "0.012 EUR"
    assert await cost_of(call, "/v2/models/table/infer", asked) == "0.012 EUR"  # not their sum
    assert await cost_of(call, "/v2/models/table/versions/1/infer", asked) == "0.012 EUR"
    generate = {"x": [1, 2]}
    assert await cost_of(call, "/v2/models/table/generate", generate) == "0.011 EUR"
    payloads = {"instances": ["good film", "bad film"]}
    assert await cost_of(call, "/v1/models/moods:predict", payloads) in ("0.012 EUR", "0.022 EUR")
    embedded = {"input": "good", "model": "vectors"}
    assert await cost_of(call, "/v1/embeddings", embedded) == "0.011 EUR"
    first = await cost_of(call, "/v2/models/kept/infer", asked)
    assert (first, await cost_of(call, "/v2/models/kept/infer", asked)) == (
        "0.012 EUR",
        "0.0002 EUR",
    )
    answer = await call("POST", "/v2/models/table/infer", {"inputs": []})
    assert answer.status == 400
    assert "x-cost" not in answer.headers
    answer = await call("GET", "/v2/models/table")
    assert "x-cost" not in answer.headers


async def test_written_answers_tell_their_cost_whole_and_in_streams(call: Any) -> None:
    answer = await call("POST", "/v1/chat/completions", CHAT)
    assert answer.status == 200, answer.body
    tokens = answer.json()["usage"]["completion_tokens"]
    expected = Decimal("0.011") + tokens * Decimal("0.1")
    assert answer.headers["x-cost"] == f"{expected} EUR"
    answer = await call("POST", "/v1/chat/completions", {**CHAT, "stream": True})
    *events, last, end = answer.body.split(b"\n\n")
    assert (last, end) == (b"data: [DONE]", b"")
    told = [event for event in events if event.startswith(b":")]
    assert told == [f": x-cost: {expected} EUR".encode()]  # as many tokens as the whole one


async def test_costs_are_not_told_unless_they_are_asked_for(
    tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    root = write_repository(tmp_path / "models", onnx_models)
    price_things(tmp_path / "data", requests="0.01")
    async with create_app(Settings(models=root, data=tmp_path / "data")) as app:
        answer = await AsgiCaller(app)("POST", "/v2/models/table/infer", {"inputs": [TENSOR]})
    assert answer.status == 200
    assert "x-cost" not in answer.headers


async def test_who_has_spent_enough_is_told_and_then_refused(
    tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    """A header at 80 %, 429 at all of it; reading and managing go on, and the operator hears."""
    root = write_repository(tmp_path / "models", onnx_models)
    tenants = Tenants(tmp_path / "data")
    tenants.tenant("acme", Limits(monthly_spend=Decimal(10)))
    headers = {"authorization": f"Bearer {tenants.key('acme')}"}
    other = {"authorization": f"Bearer {tenants.key('bolt')}"}
    price_things(tmp_path / "data", rows="2")
    with hook() as operator:
        settings = Settings(
            models=root, data=tmp_path / "data", tenants=True, alert_url=SecretStr(operator.url)
        )
        async with create_app(settings) as app:
            call = AsgiCaller(app)
            path, body = "/v2/models/table/infer", {"inputs": [TENSOR]}
            for spent in (4, 8, 12):
                answer = await call("POST", path, body, headers)
                assert answer.status == 200, answer.body
                warned = answer.headers.get("x-budget-warning")
                # What was spent before it came in.
                expected = "spent=8.00, limit=10.00, currency=EUR" if spent == 12 else None
                assert warned == expected
            answer = await call("POST", path, body, headers)
            assert answer.status == 429
            assert answer.json()["code"] == "budget_exceeded"
            assert answer.json()["retryable"] is False
            assert 1 <= int(answer.headers["retry-after"]) <= 3600 * 1.2
            for reading in ("/v2/models/table", "/api/v1/prices", "/api/v1/models"):
                answer = await call("GET", reading, headers=headers)
                assert answer.status == 200, reading
                assert "spent=12.00" in answer.headers["x-budget-warning"]
            assert (await call("POST", path, body, other)).status == 200
            # What it spent has not been written by anybody here; the next read would forget it.
            async with AsyncExitStack() as stack:
                database = Database(f"sqlite:///{tmp_path / 'data' / 'state.db'}")
                stack.callback(database.close)
                hour = int(time.time()) // 3600 * 3600
                Billing(database).use("acme", hour, 9)
                assert app._platform is not None
                await app._platform.tenancy.budget.refresh()
            await until(lambda: bool(operator.received))
    (_, posted) = operator.received[0]
    document = json.loads(posted)
    assert document["kind"] == "budget"
    assert document["details"] == {
        "tenant": "acme",
        "month": str(month_at(document["at"])),
        "percent": 100,
        "spent": "18.00",
        "limit": "10",
        "currency": "EUR",
    }
