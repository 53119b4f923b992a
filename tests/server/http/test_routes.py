"""Every route of the protocol's table, what it answers, and what every answer carries."""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiaas_server import __version__
from aiaas_server.http.oip.metadata import EXTENSIONS


@pytest.fixture
def repository(make_repository: Any, onnx_models: SimpleNamespace) -> Any:
    return make_repository(
        {
            "scale": {1: onnx_models.scale(2.0), 3: onnx_models.scale(3.0)},
            "fixed": onnx_models.fixed_batch(),
        },
        configs={"scale": "max_batch_size: 8\nversion_policy: { all: {} }\ndynamic_batching {}"},
    )


GET_ROUTES = [
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/scale",
    "/v2/models/scale/versions/1",
    "/v2/models/scale/ready",
    "/v2/models/scale/versions/1/ready",
    "/v2/models/scale/config",
    "/v2/models/scale/versions/1/config",
    "/v2/models/stats",
    "/v2/models/scale/stats",
    "/v2/models/scale/versions/1/stats",
    "/v2/systemsharedmemory/status",
    "/v2/cudasharedmemory/status",
    "/v2/logging",
    "/v2/trace/setting",
    "/v2/models/scale/trace/setting",
    "/metrics",
]
POST_ROUTES = [
    "/v2/repository/index",
    "/v2/repository/models/scale/load",
    "/v2/systemsharedmemory/unregister",
    "/v2/systemsharedmemory/region/r/unregister",
    "/v2/cudasharedmemory/unregister",
    "/v2/cudasharedmemory/region/r/unregister",
    "/v2/logging",
    "/v2/trace/setting",
    "/v2/models/scale/trace/setting",
    "/v2/repository/models/scale/unload",
]
POST_ONLY = [
    "/v2/models/scale/infer",
    "/v2/models/scale/versions/1/infer",
    "/v2/models/scale/generate",
    "/v2/models/scale/versions/1/generate",
    "/v2/models/scale/generate_stream",
    "/v2/systemsharedmemory/region/r/register",
    "/v2/cudasharedmemory/region/r/register",
]
ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


async def test_every_get_route_answers_200_with_a_query_too(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    for path in GET_ROUTES:
        for query in ("", "?unknown=1&x"):
            answer = await call("GET", path + query)
            assert answer.status == 200, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", answer.headers["x-request-id"])
            assert len(answer.body) == int(answer.headers["content-length"])


async def test_every_control_route_answers_200_whatever_the_content_type(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    for path in POST_ROUTES:
        for body in (b"", b"  ", b"{}"):
            headers = {"content-type": "application/x-www-form-urlencoded"}
            answer = await call("POST", path, body, headers)
            assert answer.status == 200, (path, answer.body)


async def test_unknown_routes_are_404_and_wrong_methods_405_in_json(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    for path in [p + "/" for p in GET_ROUTES] + [
        "/",
        "/v1",
        "/v2/nothing",
        "/v2/models/scale/versions/1/x",
        "/docs",
        "/v2/models",
    ]:
        answer = await call("GET", path)
        assert (answer.status, answer.json()["code"]) == (404, "not_found"), path
    for path in ("/chat/completions", "/audio/transcriptions", "/responses"):
        answer = await call("POST", path)
        error = answer.json()["error"]
        told = f"Not Found: {path}; did you mean /v1{path}?"
        assert (answer.status, error["code"], error["message"]) == (404, "not_found", told)
    for path in GET_ROUTES:
        answer = await call("DELETE", path)
        assert (answer.status, answer.json()["code"]) == (405, "method_not_allowed"), path
        assert "GET" in answer.headers["allow"]
    for path in POST_ONLY:
        answer = await call("GET", path)
        assert (answer.status, answer.headers["allow"]) == (405, "POST"), path


@pytest.mark.parametrize("version", ["x", "-1", "1.0", "01x", "9" * 3000])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/scale/versions/{}"),
        ("GET", "/v2/models/scale/versions/{}/ready"),
        ("POST", "/v2/models/scale/versions/{}/infer"),
        ("GET", "/v1/models/scale/versions/{}"),
        ("POST", "/v1/models/scale/versions/{}:predict"),
    ],
)
async def test_a_version_that_is_no_number_is_told_as_such(
    open_app: Any, repository: Any, method: str, path: str, version: str
) -> None:
    call = await open_app(repository)
    answer = await call(method, path.format(version), ROW if method == "POST" else b"")
    assert (answer.status, answer.json()["code"]) == (404, "version_not_found")
    told = f"'scale' version '{version[:64]}' is not found; versions here are whole numbers"
    assert told in answer.json()["error"]


async def test_errors_carry_the_request_id_of_the_client(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    for path in ("/v2/models/nobody", "/nothing", "/v2/models/nobody/infer"):
        answer = await call("POST", path, ROW, {"x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine-1"


async def test_server_metadata_lists_only_what_works(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    document = (await call("GET", "/v2")).json()
    assert document == {"name": "aiaas", "version": __version__, "extensions": list(EXTENSIONS)}
    assert not {"sequence", "system_shared_memory", "cuda_shared_memory"} & set(EXTENSIONS)


async def test_model_metadata_has_the_batch_dimension_and_text_versions(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    answer = await call("GET", "/v2/models/scale")
    assert answer.json() == {
        "name": "scale",
        "versions": ["1", "3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }
    assert re.fullmatch(r'"[0-9a-f]+"', answer.headers["etag"])
    one = await call("GET", "/v2/models/scale/versions/1", b"", {"if-none-match": "*"})
    assert one.status == 200
    assert one.json()["versions"] == ["1"]
    assert one.headers["etag"] != answer.headers["etag"]


async def test_config_dims_lack_the_batch_dimension(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    config = (await call("GET", "/v2/models/scale/config")).json()
    assert config["max_batch_size"] == 8
    assert config["input"][0]["dims"] == [4]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert "dynamic_batching" in config
    assert "sequence_batching" not in config
    fixed = (await call("GET", "/v2/models/fixed/config")).json()
    assert fixed["max_batch_size"] == 0
    assert fixed["input"][0]["dims"] == [1, 4]
    assert "dynamic_batching" not in fixed


@pytest.mark.parametrize("suffix", ["", "/ready", "/config", "/stats", "/trace/setting"])
async def test_unknown_models_and_versions_are_404(
    open_app: Any, repository: Any, suffix: str
) -> None:
    call = await open_app(repository)
    answer = await call("GET", f"/v2/models/nobody{suffix}")
    assert (answer.status, answer.json()["code"]) == (404, "model_not_found")
    if suffix != "/trace/setting":
        answer = await call("GET", f"/v2/models/scale/versions/9{suffix}")
        assert (answer.status, answer.json()["code"]) == (404, "version_not_found")


async def test_the_newest_ready_version_answers_when_none_is_named(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    newest = (await call("POST", "/v2/models/scale/infer", ROW)).json()
    assert (newest["model_version"], newest["outputs"][0]["data"]) == ("3", [3, 6, 9, 12])
    first = (await call("POST", "/v2/models/scale/versions/1/infer", ROW)).json()
    assert (first["model_version"], first["outputs"][0]["data"]) == ("1", [2, 4, 6, 8])


async def test_percent_encoded_names_are_decoded_once(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    assert (await call("POST", "/v2/models/sc%61le/infer", ROW)).status == 200
    assert (await call("GET", "/v2/models/sc%61le")).status == 200
    assert (await call("GET", "/v2/models/sc%2561le")).status == 404


async def test_health_turns_at_once_when_a_drain_begins(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    assert (await call("GET", "/v2/health/ready")).status == 200
    call.app.pool.begin_drain()
    ready = await call("GET", "/v2/health/ready")
    assert (ready.status, ready.json()["code"]) == (503, "draining")
    assert int(ready.headers["retry-after"]) >= 1
    assert (await call("GET", "/v2/health/live")).status == 200


async def test_live_answers_and_ready_does_not_before_the_models_are_loaded(
    repository: Any,
) -> None:
    from aiaas_server.app import create_app
    from aiaas_server.settings import Settings
    from tests.server.http.serving import AsgiCaller

    app = create_app(Settings(models=repository))
    call = AsgiCaller(app)
    assert (await call("GET", "/v2/health/live")).status == 200
    assert (await call("GET", "/v2/health/ready")).status == 400
    async with app:
        assert (await call("GET", "/v2/health/ready")).status == 200


async def test_statistics_count_requests_items_and_executions(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    rows = {"name": "x", "datatype": "FP32", "shape": [3, 4], "data": [0] * 12}
    for _ in range(2):
        await call("POST", "/v2/models/scale/infer", {"inputs": [rows]})
    answer = (await call("GET", "/v2/models/scale/versions/3/stats")).json()
    (entry,) = answer["model_stats"]
    assert (entry["name"], entry["version"]) == ("scale", "3")
    assert (entry["inference_count"], entry["execution_count"]) == (6, 2)
    stats = entry["inference_stats"]
    keys = ("success", "queue", "compute_input", "compute_infer", "compute_output")
    assert {key: stats[key]["count"] for key in keys} == dict.fromkeys(keys, 2)
    assert stats["cache_hit"] == stats["cache_miss"] == {"count": 0, "ns": 0}
    parts = sum(stats[key]["ns"] for key in keys[1:])
    assert 0 < parts <= stats["success"]["ns"]
    every = (await call("GET", "/v2/models/stats")).json()["model_stats"]
    assert [(e["name"], e["version"]) for e in every] == [
        ("fixed", "1"),
        ("scale", "1"),
        ("scale", "3"),
    ]


async def test_the_metrics_page_shows_what_was_served_and_refused(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    await call("POST", "/v2/models/scale/infer", ROW)
    await call("POST", "/v2/models/scale/infer", b"{")
    answer = await call("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    page = answer.body.decode()
    assert 'nv_inference_request_success{model="scale",version="3"} 1\n' in page
    assert 'aiaas_errors_total{code="invalid_json"} 1\n' in page


async def test_logging_settings_change_and_are_told(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    first = (await call("GET", "/v2/logging")).json()
    assert first["log_file"] == ""
    assert first["log_format"] == "default"
    changed = await call("POST", "/v2/logging", {"log_format": "ISO8601", "log_info": None})
    assert changed.json() == first | {"log_format": "ISO8601"}
    assert (await call("GET", "/v2/logging")).json() == changed.json()
    assert (await call("POST", "/v2/logging", {"log_file": "x"})).status == 501
    for bad in ({"log_info": 1}, {"log_verbose_level": -1}, {"log_format": "x"}, {"nope": 1}):
        assert (await call("POST", "/v2/logging", bad)).status == 400, bad


@pytest.mark.parametrize("name", ["aiaas_server", "aiaas_server.core"])
async def test_the_log_switches_hold_for_all_of_the_servers_loggers(
    open_app: Any, repository: Any, name: str
) -> None:
    call = await open_app(repository)
    logger = logging.getLogger(name)
    await call("POST", "/v2/logging", {"log_info": False})
    assert not logger.isEnabledFor(logging.INFO)
    assert logger.isEnabledFor(logging.WARNING)
    await call("POST", "/v2/logging", {"log_verbose_level": 1})
    assert logger.isEnabledFor(logging.DEBUG)
    await call("POST", "/v2/logging", {"log_info": True, "log_verbose_level": 0})
    assert not logger.isEnabledFor(logging.DEBUG)


async def test_trace_settings_change_and_null_resets(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    start = (await call("GET", "/v2/trace/setting")).json()
    assert start["trace_rate"] == "1000"
    change = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}
    changed = await call("POST", "/v2/trace/setting", change)
    assert changed.json() == start | change
    own = await call("POST", "/v2/models/scale/trace/setting", {"trace_rate": "7"})
    assert own.json() == start | change | {"trace_rate": "7"}
    own = await call("POST", "/v2/models/scale/trace/setting", {"trace_rate": None})
    assert own.json() == start | change
    assert (await call("POST", "/v2/trace/setting", dict.fromkeys(change))).json() == start
    assert (await call("POST", "/v2/trace/setting", {"trace_file": "x"})).status == 501
    for bad in ({"trace_level": "OFF"}, {"trace_level": ["X"]}, {"trace_rate": 1}, {"nope": None}):
        assert (await call("POST", "/v2/trace/setting", bad)).status == 400, bad


async def test_shared_memory_is_off(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    for kind in ("system", "cuda"):
        prefix = f"/v2/{kind}sharedmemory"
        assert (await call("GET", f"{prefix}/status")).json() == []
        assert (await call("GET", f"{prefix}/region/r/status")).status == 404
        register = await call("POST", f"{prefix}/region/r/register", {"key": "/k"})
        assert (register.status, register.json()["code"]) == (501, "not_supported")


async def test_a_key_guards_every_route_but_health(open_app: Any, repository: Any) -> None:
    call = await open_app(repository, api_key="k" * 40)
    for number, path in enumerate([*GET_ROUTES, *POST_ONLY, "/nothing", "/v2/models/no/infer"]):
        client = f"10.0.{number}.1"
        method = "POST" if path in POST_ONLY else "GET"
        answer = await call(method, path, ROW, client=client)
        if path.startswith("/v2/health/"):
            assert answer.status == 200
        else:
            assert answer.status == 401, path
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["code"] == "unauthorized"
    key = {"x-api-key": "k" * 40}
    for path in GET_ROUTES:
        assert (await call("GET", path, b"", key)).status == 200
    assert (await call("POST", "/v2/models/scale/infer", ROW, key)).status == 200
    both = key | {"authorization": "Bearer " + "k" * 40}
    assert (await call("POST", "/v2/models/scale/infer", ROW, both)).status == 400


async def test_the_21st_wrong_key_is_429(open_app: Any, repository: Any) -> None:
    call = await open_app(repository, api_key="k" * 40)
    wrong = {"x-api-key": "x"}
    answers = [await call("GET", "/v2", b"", wrong) for _ in range(21)]
    assert [answer.status for answer in answers] == [401] * 20 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 72
    infer = await call("POST", "/v2/models/scale/infer", ROW, wrong)
    assert infer.status == 429
    assert (await call("GET", "/v2/health/live")).status == 200


async def test_no_answer_allows_other_origins(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    origin = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    for method in ("GET", "OPTIONS"):
        answer = await call(method, "/v2", b"", origin)
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_the_metrics_port_serves_metrics_alone(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    call.app, app = call.app.metrics, call.app
    assert (await call("GET", "/metrics")).status == 200
    assert (await call("GET", "/v2")).status == 404
    call.app = app


async def test_a_request_without_a_batch_dimension_is_served_as_it_is(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    answer = (await call("POST", "/v2/models/fixed/infer", ROW)).json()
    assert answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [-1, -2, -3, -4]}
    ]
    assert np.isfinite(answer["outputs"][0]["data"]).all()
