"""What is counted of every kind of request, and whose it is: an exact table."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import func, select

from aiaas_server.app import create_app
from aiaas_server.core.events import Caller, Identity, InferenceRecord, Units
from aiaas_server.core.statistics import FailureReason
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import USAGE
from aiaas_server.tenancy.meter import MOST_ATTEMPTS, MOST_WAITING, Meter
from tests.server.http.serving import AsgiCaller
from tests.server.tenancy.amounts import amounts_of
from tests.tenants import Tenants

PATH = "/v2/models/m/infer"


def asking(value: float, rows: int = 1) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 4], "data": [value] * 4 * rows}
    return {"inputs": [tensor]}


async def test_requests_hits_and_errors_are_told_apart(
    tmp_path: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    config = json.dumps({"max_batch_size": 4, "response_cache": {"enable": True}})
    root = make_repository({"m": onnx_models.scale(2)}, configs={"m": config})
    data = tmp_path / "data"
    tenants = Tenants(data)
    acme, bobs = tenants.key("acme"), tenants.key("bob")
    async with create_app(Settings(models=root, data=data, tenants=True)) as app:
        call = AsgiCaller(app)

        async def ask(key: str, body: Any) -> int:
            headers = {"authorization": f"Bearer {key}"}
            return (await call("POST", PATH, body, headers)).status

        assert [await ask(acme, asking(v)) for v in (1.0, 1.0, 2.0)] == [200] * 3  # one is a hit
        assert await ask(acme, asking(3.0, rows=3)) == 200
        assert await ask(bobs, asking(4.0, rows=2)) == 200
        assert await ask(bobs, asking(5.0, rows=5)) == 400  # beyond max_batch_size
        assert await ask(bobs, {"inputs": []}) == 400
        assert await ask("aias_nobody", asking(6.0)) == 401
    found = amounts_of(f"sqlite:///{data / 'state.db'}", "tenant", "model")
    assert found == {
        ("acme", "m", "requests"): 3,
        ("acme", "m", "rows"): 5,
        ("acme", "m", "cache_hits"): 1,
        ("acme", "m", "bytes_in"): 16 * 6,
        ("acme", "m", "bytes_out"): 16 * 6,
        ("bob", "m", "requests"): 1,
        ("bob", "m", "rows"): 2,
        ("bob", "m", "bytes_in"): 32,
        ("bob", "m", "bytes_out"): 32,
    }
    keys = amounts_of(f"sqlite:///{data / 'state.db'}", "key_id")
    assert keys[acme.split("_")[1], "requests"] == 3
    assert not list((data / "usage").glob("*.journal"))  # nothing was left to be added


async def test_compute_is_shared_by_rows_and_adds_up_to_the_runs(
    tmp_path: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    root = make_repository({"m": onnx_models.scale(2)})
    data = tmp_path / "data"
    async with create_app(Settings(models=root, data=data)) as app:
        call = AsgiCaller(app)
        await asyncio.gather(*(call("POST", PATH, asking(1.0, 1 + i % 3)) for i in range(32)))
        stats = app.pool.find("m", 1).statistics  # type: ignore[union-attr]
        ran = sum(sum(batch[1:]) for batch in stats.batches.values())
    database = Database(f"sqlite:///{data / 'state.db'}")
    total = select(func.sum(USAGE.c.amount)).where(USAGE.c.unit == "compute_us")
    charged = database.read_now(lambda connection: connection.execute(total).scalar_one())
    database.close()
    assert ran // 1000 - 33 <= charged <= ran // 1000  # each loses less than a µs at most


ACME = Identity("acme", "k" * 12)


def record(request_id: str, ending: Any = "answered", took: float = 0.0, **caller: Any) -> Any:
    failure: FailureReason | None = None if ending in ("answered", "cached") else "CANCELED"
    who = Caller(request_id, identity=ACME, **caller)
    units = Units(2, bytes_in=8, bytes_out=4 if failure is None else 0)
    return InferenceRecord("m", 1, units, 2, 0.0, 0.0, took, failure, who, ending, 5000)


def test_copies_cost_nothing_and_explanations_what_they_compute() -> None:
    meter = Meter()
    meter(record("a", shadow=True))
    assert not meter.take()
    meter(record("b", shadow=True, errand=True))
    ((used, amount),) = meter.take().amounts.items()
    assert (used.unit, amount) == ("compute_us", 5)


def test_an_id_that_others_choose_too_is_told_apart() -> None:
    """Two tenants count their requests from 1: each pays for its own once."""
    meter = Meter()
    meter(record("1", "abandoned"))
    (left,) = meter.take().left
    meter(record("1"))
    other = record("1")
    meter(other._replace(caller=other.caller._replace(identity=Identity("bob", "b" * 12))))
    meter.take()
    assert meter.absorbs(left)


def test_what_failed_is_not_counted_and_what_was_left_is_kept_apart() -> None:
    meter = Meter()
    meter(record("a", "failed"))
    meter(record("b", "abandoned"))
    taken = meter.take()
    assert not taken.amounts
    (left,) = taken.left
    assert left.amounts == {"requests": 1, "rows": 2, "compute_us": 5, "bytes_in": 8}


def test_an_attempt_is_paid_with_the_answer_of_the_same_request() -> None:
    """A hedge that lost, and an attempt before the answered one; no replay, and not many."""
    meter = Meter()
    meter(record("hedge"))
    meter(record("hedge", "abandoned", took=1.0))  # it began before the answer was given
    meter(record("retry", "abandoned", took=1.0))
    meter(record("retry"))
    meter(record("other", "abandoned", took=1.0))
    hedge, retry, other = meter.take().left
    assert meter.absorbs(hedge)
    assert meter.absorbs(retry)
    assert not meter.absorbs(other)
    assert not meter.absorbs(hedge._replace(tenant="bob"))
    assert not meter.absorbs(hedge._replace(began=hedge.at + 5))  # the id again: a new request
    assert [meter.absorbs(hedge) for _ in range(MOST_ATTEMPTS)].count(True) == MOST_ATTEMPTS - 1


@pytest.mark.parametrize("tenants", [1, 50])
def test_nothing_is_lost_where_nobody_takes_for_long(tenants: int) -> None:
    meter = Meter()
    for index in range(2 * MOST_WAITING + 7):
        who = Caller(f"r{index}", identity=Identity(f"t{index % tenants}"))
        meter(InferenceRecord("x/m", 1, Units(3), 3, 0.0, 0.0, 0.0, None, who, "answered", 1500))
    found = meter.take().amounts
    assert {used.model for used in found} == {"m"}
    sums = {
        unit: sum(a for u, a in found.items() if u.unit == unit) for unit in ("requests", "rows")
    }
    assert sums == {"requests": 2 * MOST_WAITING + 7, "rows": 3 * (2 * MOST_WAITING + 7)}
