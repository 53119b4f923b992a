"""Acts whose client leaves, or that break: what was begun always gets a result."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from aiaas_server.core.acts import Act, Acts, Begun, Outcome
from aiaas_server.core.errors import StateUnavailable
from aiaas_server.core.events import NOBODY, Refusal
from aiaas_server.http.acts import on_record
from aiaas_server.http.incoming import CONTEXT, RequestContext
from aiaas_server.state.database import Database
from aiaas_server.tenancy.audit import Audit
from aiaas_server.tenancy.audit_head_file import HEAD_FILE
from tests.server.tenancy.auditing import KEY, checked, told
from tests.waiting import until

pytestmark = pytest.mark.asyncio


class Slow(Acts):
    """Acts whose beginning takes as long as somebody wants."""

    def __init__(self, acts: Acts) -> None:
        self.acts, self.go = acts, asyncio.Event()

    async def begin(self, act: Act) -> Begun:
        await self.go.wait()
        return await self.acts.begin(act)

    async def end(self, begun: Begun, outcome: Outcome) -> None:
        await self.acts.end(begun, outcome)

    def refused(self, refusal: Refusal) -> None:
        raise AssertionError

    def used(self, key_id: str, scope: str) -> None:
        raise AssertionError


class Endpoint:
    """What a route does: it waits, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.begun = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        self.begun.set()
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()
        return Response()


def asked() -> Request:
    """A request that the front door has let in."""

    async def receive() -> Any:
        await asyncio.Event().wait()

    context = RequestContext({}, b"r", NOBODY, 0.0)
    scope = {"type": "http", "method": "POST", "headers": [], "client": ("10.0.0.9", 1)}
    return Request({**scope, "path_params": {"model": "m"}, CONTEXT: context}, receive)


async def test_an_act_whose_client_leaves_is_abandoned(database: Database, tmp_path: Path) -> None:
    audit, endpoint = Audit(database, KEY, tmp_path / HEAD_FILE), Endpoint()
    task = asyncio.ensure_future(on_record(audit, "models.x", "s", endpoint)(asked()))
    await endpoint.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: len(told(database)) == 2)
    first, second = told(database)
    assert (first.result, second.result, second.begun) == ("begun", "abandoned", 1)
    assert (first.object, first.address) == ("m", "10.0.0.9")
    assert checked(database, tmp_path).unfinished == ()


async def test_one_who_leaves_before_the_beginning_is_written_has_nothing_done(
    database: Database, tmp_path: Path
) -> None:
    slow, endpoint = Slow(Audit(database, KEY, tmp_path / HEAD_FILE)), Endpoint()
    task = asyncio.ensure_future(on_record(slow, "models.x", "s", endpoint)(asked()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    slow.go.set()
    await until(lambda: len(told(database)) == 2)
    assert [one.result for one in told(database)] == ["begun", "abandoned"]
    assert not endpoint.begun.is_set()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RuntimeError("broken"), 500, "internal"),
        (StateUnavailable("away"), 503, "state_unavailable"),
    ],
    ids=["unexpected", "expected"],
)
async def test_an_act_that_raises_has_failed(
    error: Exception, status: int, code: str, database: Database, tmp_path: Path
) -> None:
    audit = Audit(database, KEY, tmp_path / HEAD_FILE)
    with pytest.raises(type(error)):
        await on_record(audit, "models.x", "s", Endpoint(error))(asked())
    second = told(database)[-1]
    assert (second.result, second.status, second.code) == ("failed", status, code)
