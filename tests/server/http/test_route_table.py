"""The whole route table under every mode that changes how a request comes in or finds its model.

Each operation of the OpenAPI document is called for a model that is there, for a version that is
there, for one that is not, for an unknown model, and without the key. The management routes are
there with `data` alone, and change what the others answer: `tests/server/registry` has them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.routing import Mount

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import Answer, AsgiCaller
from tests.task_bundles import write_repository

MIB = 1 << 20
KEY = "k" * 32
PREFIX = "/ai"
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
REGION = {"key": "/there_is_no_such_object", "byte_size": 8}
V2, V2_VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
V1, V1_VERSION = "/v1/models/{model}", "/v1/models/{model}/versions/{version}"


@dataclass(frozen=True)
class Mode:
    """How the server is started, and what that changes."""

    settings: dict[str, Any]
    mounted: bool = False
    cached: bool = False


MODES = {
    "plain": Mode({}),
    "key": Mode({"api_key": KEY}),
    "budget": Mode({"memory_budget_bytes": 500 * MIB}),
    "budget and key": Mode({"memory_budget_bytes": 500 * MIB, "api_key": KEY}),
    "mounted": Mode({}, mounted=True),
    "mounted, with a key": Mode({"api_key": KEY}, mounted=True),
    "mounted, with a budget": Mode({"memory_budget_bytes": 500 * MIB}, mounted=True),
    "response cache": Mode({}, cached=True),
    "watch": Mode({"watch": True, "watch_interval": 0.05}),
    "watch and budget": Mode({"watch": True, "memory_budget_bytes": 500 * MIB}),
}

# Operation -> the body that suits it, the model it is for, and its status.
Row = tuple[Any, str, int]
INFER: Row = ({"inputs": [TENSOR]}, "table", 200)
GENERATE: Row = ({"x": [1, 2]}, "table", 200)
PREDICT: Row = ({"instances": ["good film"]}, "moods", 200)
EXPLAIN: Row = ({"instances": ["good film"]}, "moods", 200)
TOLD: Row = (b"", "table", 200)
OFF: Row = (REGION, "", 501)
# Of models that write, of which there is none: `openai/test_chat.py` has one.
CHAT: Row = ({"model": "{model}", "messages": [{"role": "user", "content": "hi"}]}, "moods", 400)
TABLE: dict[tuple[str, str], Row] = {
    ("POST", f"{V2}/infer"): INFER,
    ("POST", f"{V2_VERSION}/infer"): INFER,
    ("POST", f"{V2}/generate"): GENERATE,
    ("POST", f"{V2_VERSION}/generate"): GENERATE,
    ("POST", f"{V2}/generate_stream"): GENERATE,
    ("POST", f"{V2_VERSION}/generate_stream"): GENERATE,
    ("GET", V2): TOLD,
    ("GET", V2_VERSION): TOLD,
    ("GET", f"{V2}/ready"): TOLD,
    ("GET", f"{V2_VERSION}/ready"): TOLD,
    ("GET", f"{V2}/config"): TOLD,
    ("GET", f"{V2_VERSION}/config"): TOLD,
    ("GET", f"{V2}/stats"): TOLD,
    ("GET", f"{V2_VERSION}/stats"): TOLD,
    ("GET", f"{V2}/trace/setting"): TOLD,
    ("POST", f"{V2}/trace/setting"): ({"trace_rate": "7"}, "table", 200),
    ("POST", "/v2/repository/models/{model}/load"): TOLD,
    ("POST", "/v2/repository/models/{model}/unload"): TOLD,
    ("POST", f"{V1}:predict"): PREDICT,
    ("POST", f"{V1_VERSION}:predict"): PREDICT,
    ("POST", f"{V1}:explain"): EXPLAIN,
    ("POST", f"{V1_VERSION}:explain"): EXPLAIN,
    ("GET", V1): TOLD,
    ("GET", V1_VERSION): TOLD,
    ("POST", "/predict"): ({"text": "good film", "model": "{model}"}, "moods", 200),
    ("POST", "/v1/embeddings"): ({"input": "good", "model": "{model}"}, "vectors", 200),
    ("POST", "/v1/chat/completions"): CHAT,
    ("POST", "/v1/completions"): ({"model": "{model}", "prompt": "hi"}, "moods", 400),
    ("POST", "/v1/responses"): ({"model": "{model}", "input": "hi"}, "moods", 400),
    ("POST", "/v1/audio/speech"): ({"input": "good", "model": "{model}"}, "moods", 400),
    ("POST", "/v1/audio/transcriptions"): (b"", "", 415),
    ("GET", "/v2/health/live"): (b"", "", 200),
    ("GET", "/v2/health/ready"): (b"", "", 200),
    ("GET", "/v2"): (b"", "", 200),
    ("GET", "/v1/models"): (b"", "", 200),
    ("GET", "/v2/models/stats"): (b"", "", 200),
    ("GET", "/metrics"): (b"", "", 200),
    ("GET", "/openapi.json"): (b"", "", 200),
    ("POST", "/v2/repository/index"): (b"", "", 200),
    ("GET", "/v2/logging"): (b"", "", 200),
    ("POST", "/v2/logging"): ({"log_verbose_level": 0}, "", 200),
    ("GET", "/v2/trace/setting"): (b"", "", 200),
    ("POST", "/v2/trace/setting"): ({"trace_rate": "1000"}, "", 200),
    ("GET", "/v2/systemsharedmemory/status"): (b"", "", 200),
    ("GET", "/v2/systemsharedmemory/region/{region}/status"): (b"", "", 404),
    ("POST", "/v2/systemsharedmemory/region/{region}/register"): OFF,
    ("POST", "/v2/systemsharedmemory/unregister"): (b"", "", 200),
    ("POST", "/v2/systemsharedmemory/region/{region}/unregister"): (b"", "", 200),
    ("GET", "/v2/cudasharedmemory/status"): (b"", "", 200),
    ("GET", "/v2/cudasharedmemory/region/{region}/status"): (b"", "", 404),
    ("POST", "/v2/cudasharedmemory/region/{region}/register"): OFF,
    ("POST", "/v2/cudasharedmemory/unregister"): (b"", "", 200),
    ("POST", "/v2/cudasharedmemory/region/{region}/unregister"): (b"", "", 200),
}
OPEN = {"/v2/health/live", "/v2/health/ready"}
# Unloading what is not there is done already.
UNKNOWN = {("POST", "/v2/repository/models/{model}/unload"): 200}
OF_MODEL = sorted(key for key, (body, _, _) in TABLE.items() if "{model}" in f"{key} {body}")
OF_VERSION = sorted(key for key in TABLE if "{version}" in key[1])


class Caller:
    """Calls operations of a server in one of the modes."""

    def __init__(self, mode: Mode, app: Any) -> None:
        self._mode = mode
        outer: Any = Starlette(routes=[Mount(PREFIX, app=app)]) if mode.mounted else app
        self._call = AsgiCaller(outer)
        self._prefix = PREFIX if mode.mounted else ""
        self.app = app

    @property
    def has_key(self) -> bool:
        return "api_key" in self._mode.settings

    async def __call__(
        self,
        key: tuple[str, str],
        *,
        model: str = "",
        version: str = "1",
        with_key: bool = True,
        method: str = "",
        client: str = "127.0.0.1",
    ) -> Answer:
        body, known, _ = TABLE[key]
        filled = {"{model}": model or known, "{version}": version, "{region}": "r"}
        path, text = key[1], body if isinstance(body, bytes) else json.dumps(body).encode()
        for name, value in filled.items():
            path = path.replace(name, value)
            text = text.replace(name.encode(), value.encode())
        headers = {"authorization": f"Bearer {KEY}"} if self.has_key and with_key else {}
        return await self._call(method or key[0], self._prefix + path, text, headers, client=client)


@pytest_asyncio.fixture(params=MODES.values(), ids=MODES.keys())
async def call(
    request: pytest.FixtureRequest, tmp_path: Path, onnx_models: SimpleNamespace
) -> AsyncIterator[Caller]:
    mode: Mode = request.param
    root = write_repository(tmp_path / "models", onnx_models)
    if mode.cached:
        (root / "table" / "config.pbtxt").write_text("response_cache { enable: true }")
    async with AsyncExitStack() as stack:
        app = create_app(Settings(models=root, **mode.settings))
        yield Caller(mode, await stack.enter_async_context(app))


def code_of(answer: Answer) -> Any:
    document = answer.json()
    error = document["error"]
    return error["code"] if isinstance(error, dict) else document["code"]


async def test_the_table_here_is_the_whole_table(call: Caller) -> None:
    document = (await call(("GET", "/openapi.json"))).json()
    told = {
        (method.upper(), path)
        for path, entry in document["paths"].items()
        for method in entry
        if method in ("get", "post") and not path.startswith("/v1/models/moods")
    }
    own = {path for _, path in told if path.endswith(":predict") and "{" not in path}
    assert {key for key in told if key[1] not in own} == set(TABLE)


async def test_every_route_answers_for_what_is_there(call: Caller) -> None:
    for key, (_, _, status) in TABLE.items():
        for _ in range(2):  # the second time from the tables and caches
            answer = await call(key)
            assert answer.status == status, (key, answer.body)
            assert len(answer.headers["x-request-id"]) > 0
        if key[1].endswith("/unload"):  # for those that come after it
            await call(("POST", "/v2/repository/models/{model}/load"))


async def test_an_unknown_model_is_404_on_every_route_of_a_model(call: Caller) -> None:
    for key in OF_MODEL:
        answer = await call(key, model="nobody")
        assert answer.status == UNKNOWN.get(key, 404), (key, answer.body)
        if answer.status == 404:
            assert code_of(answer) == "model_not_found", key


async def test_an_unknown_version_is_404_on_every_route_of_a_version(call: Caller) -> None:
    for key in OF_VERSION:
        answer = await call(key, version="77")
        assert answer.status == 404, (key, answer.body)
        assert code_of(answer) == "version_not_found", key


async def test_without_the_key_only_health_is_told_and_nothing_is_loaded(call: Caller) -> None:
    if not call.has_key:
        pytest.skip("a server without a key")
    before = {model.name for model in call.app.pool.models()}
    for number, (key, (_, _, status)) in enumerate(TABLE.items()):
        answer = await call(key, with_key=False, client=f"10.0.0.{number}")
        assert answer.status == (status if key[1] in OPEN else 401), key
    assert {model.name for model in call.app.pool.models()} == before


async def test_another_method_is_405_and_another_path_404(call: Caller) -> None:
    for key in TABLE:
        answer = await call(key, method="DELETE")
        assert (answer.status, code_of(answer)) == (405, "method_not_allowed"), key
        assert key[0] in answer.headers["allow"]
    for path in ("/nothing", "/v2/models", "/v2/models/table/versions/1/x", "/v1/embedding"):
        headers = {"authorization": f"Bearer {KEY}"}
        answer = await call._call("POST", call._prefix + path, b"", headers)
        assert (answer.status, code_of(answer)) == (404, "not_found"), path


async def test_every_error_answer_is_counted_once(call: Caller) -> None:
    async def count() -> float:
        page = (await call(("GET", "/metrics"))).body.decode()
        lines = [x for x in page.splitlines() if x.startswith("aiaas_errors_total{")]
        return sum(float(line.split()[-1]) for line in lines)

    before = await count()
    wrong = [await call(key, model="nobody") for key in OF_MODEL]
    assert await count() - before == sum(answer.status >= 400 for answer in wrong)
