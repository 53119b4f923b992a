"""The front door: what it finds out and refuses, for both kinds of routes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.app import create_app
from aiaas_server.core.errors import Draining, ModelUnavailable, QueueFull, ServerError
from aiaas_server.core.events import OPERATOR, Caller, InferenceRecord
from aiaas_server.http.gate import ANONYMOUS, Gate
from aiaas_server.http.incoming import route_path
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.settings import Settings
from tests.server.http.conftest import CALLERS

KEY = "k" * 32
ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
DOORS = [
    ("POST", "/v2/models/m/infer", ROW),
    ("POST", "/v2/models/m/generate", {"x": [1, 2, 3, 4]}),
    ("GET", "/v2/models/m", b""),
    ("GET", "/metrics", b""),
]


@pytest.fixture(params=["bare", "lane"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Both ways to the one function that answers."""
    return request.param


@pytest.fixture
def repository(make_repository: Any, onnx_models: SimpleNamespace) -> Any:
    return make_repository({"m": onnx_models.scale()})


def counted(page: bytes) -> dict[str, int]:
    lines = [x for x in page.decode().splitlines() if x.startswith("aiaas_errors_total{")]
    return {line.split('"')[1]: int(line.split()[-1]) for line in lines}


@pytest.mark.parametrize(("method", "path", "body"), DOORS, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("given", ["0", "soon", "999999999"])
async def test_a_deadline_that_is_none_is_400_at_every_door(
    open_app: Any, repository: Any, method: str, path: str, body: Any, given: str
) -> None:
    call = await open_app(repository)
    answer = await call(method, path, body, {"x-request-timeout-ms": given})
    assert answer.status == 400
    assert "X-Request-Timeout-Ms" in answer.json()["error"]


async def test_an_error_is_counted_once_at_every_door(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    for path in ("/v2/models/nobody/infer", "/v2/models/nobody/generate"):
        assert (await call("POST", path, ROW)).status == 404
    assert (await call("GET", "/v2/models/m/infer")).status == 405
    assert (await call("GET", "/nothing")).status == 404
    page = (await call("GET", "/metrics")).body
    assert counted(page) == {"model_not_found": 2, "method_not_allowed": 1, "not_found": 1}


async def test_what_was_refused_before_the_application_is_counted_with_the_rest(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    call.app.refused(ErrorCode.TOO_MANY_CONNECTIONS)
    call.app.refused(ErrorCode.TOO_MANY_CONNECTIONS)
    assert counted((await call("GET", "/metrics")).body) == {"too_many_connections": 2}


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v2/models/m/generate"])
async def test_an_observer_learns_who_asked_at_every_door(
    repository: Any, adapter: str, path: str
) -> None:
    records: list[InferenceRecord] = []
    settings = Settings(models=repository, api_key=KEY)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"x-api-key": KEY, "x-request-id": "mine", "traceparent": trace, "tracestate": "a=1"}
    headers["x-sticky-key"] = "user-17"
    async with create_app(settings, observers=[records.append]) as app:
        body = ROW if path.endswith("infer") else {"x": [1, 2, 3, 4]}
        assert (await CALLERS[adapter](app)("POST", path, body, headers)).status == 200
    (record,) = records
    assert record.caller == Caller("mine", trace, "a=1", OPERATOR, "user-17")


@pytest.mark.parametrize("given", ["", "a b", "x" * 129])
@pytest.mark.parametrize(("method", "path", "body"), DOORS)
async def test_a_sticky_key_that_is_none_is_400_at_every_door(
    open_app: Any, repository: Any, method: str, path: str, body: Any, given: str
) -> None:
    call = await open_app(repository)
    answer = await call(method, path, body, {"x-sticky-key": given})
    assert answer.status == 400
    assert "X-Sticky-Key: expected 1 to 128 visible ASCII" in answer.json()["error"]


async def test_whoever_needs_no_key_where_others_do_is_nobody() -> None:
    health = (b"r", {}, "/v2/health/live", b"", "")
    locked = Gate(Settings(api_key=KEY), RequestMetrics(), observed=False)
    assert locked.open(*health).caller.identity is ANONYMOUS
    assert not ANONYMOUS.scopes
    unlocked = Gate(Settings(), RequestMetrics(), observed=False)
    assert unlocked.open(*health).caller.identity is OPERATOR


@pytest.mark.parametrize(
    ("path", "root", "below"),
    [
        ("/v2", "", "/v2"),
        ("/ai/v2", "/ai", "/v2"),
        ("/ai/v2", "/ai/", "/v2"),
        ("/ai", "/ai", ""),
        ("/aim/v2", "/ai", "/aim/v2"),
        ("/v2", "/ai", "/v2"),  # servers that do not put the prefix into the path
    ],
)
def test_the_path_below_a_prefix(path: str, root: str, below: str) -> None:
    assert route_path({"path": path, "root_path": root}) == below


@pytest.mark.parametrize(
    "path",
    ["/v2/models/m/infer", "/v2/models/m/generate", "/v1/models/m:predict", "/predict",
     "/v1/models/m", "/v1/embeddings", "/v1/chat/completions"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [ModelUnavailable, QueueFull, Draining])
async def test_every_dialect_says_when_to_come_back(path: str, kind: type[ServerError]) -> None:
    async def endpoint(context: Any, scope: Any, receive: Any, send: Any) -> None:
        raise kind("model 'm': text", retry_after=10.0)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    gate = Gate(Settings(), RequestMetrics(), observed=False)
    scope = {"path": path, "headers": [], "query_string": b"", "client": None}
    await gate.serve(endpoint, scope, send, send)
    assert sent[0]["status"] == 503
    assert 8 <= int(dict(sent[0]["headers"])[b"retry-after"]) <= 12
    assert b"model 'm': text" in sent[1]["body"]
