"""The registry beside what else a server can do: caches, budgets, keys, prefixes, TLS, sockets."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import trustme
from starlette.applications import Starlette
from starlette.routing import Mount

from aiaas_client import Client as Sdk
from tests.server.http.edge_caller import EdgeCaller
from tests.server.http.serving import AsgiCaller
from tests.server.process.conftest import start_aiaas
from tests.server.registry.bringing import Bringer
from tests.server.registry.conftest import OpenServer

__all__ = ["start_aiaas"]

JSON = {"content-type": "application/json"}
INFER = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
ONES = np.ones((1, 4), np.float32)
MODEL = "/api/v1/models/m"


async def answered(call: Any, name: str = "m", **headers: str) -> str:
    """Which version answers, checked by what it computes."""
    answer = await call("POST", f"/v2/models/{name}/infer", INFER, {**JSON, **headers})
    assert answer.status == 200, answer.body
    told: str = answer.json()["model_version"]
    assert answer.json()["outputs"][0]["data"] == [float(told)] * 4
    return told


async def change(call: Any, method: str, path: str, body: Any = None) -> None:
    """A change that is made."""
    answer = await call(method, f"{MODEL}{path}", b"" if body is None else body, JSON)
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("kind", [AsgiCaller, EdgeCaller])
async def test_no_answer_of_the_old_version_is_remembered_for_the_new_one(
    kind: Any, bringer: Bringer, open_server: OpenServer, onnx_models: SimpleNamespace
) -> None:
    for factor in (1.0, 2.0, 3.0):
        bringer.bring("m", onnx_models.scale(factor))
    call = kind((await open_server()).app)
    config = {"max_batch_size": 4, "response_cache": {"enable": True}}
    await change(call, "PATCH", "", {"policy": {"config": config}})
    steps: list[tuple[str, str, Any, str]] = [
        ("PUT", "/aliases/production", {"version": 1}, "1"),
        ("PUT", "/aliases/production", {"version": 2}, "2"),
        ("POST", "/rollback", {}, "1"),
        ("PATCH", "/traffic", {"split": {"3": 1.0}}, "3"),
        ("PATCH", "/traffic", {"split": None}, "1"),
        ("DELETE", "/versions/1?force=true&replacement=2", None, "2"),
        ("DELETE", "/aliases/production", None, "3"),
    ]
    for method, path, body, wanted in steps:
        await change(call, method, path, body)
        assert [await answered(call) for _ in range(4)] == [wanted] * 4, (method, path)
    answer = await call("POST", "/v2/models/m/versions/1/infer", INFER, JSON)
    assert answer.status == 404  # what was erased answers nobody, from no cache either


async def test_with_a_memory_budget_versions_come_and_go(
    bringer: Bringer, open_server: OpenServer, onnx_models: SimpleNamespace
) -> None:
    for name in ("m", "n"):
        for factor in (1.0, 2.0):
            bringer.bring(name, onnx_models.scale(factor))
    call = await open_server(memory_budget_bytes=500 << 20)
    for version in ("1", "2", "1"):
        await change(call, "PUT", "/aliases/production", {"version": int(version)})
        assert await answered(call) == version
        assert await answered(call, "n") == "2"
    await change(call, "PATCH", "/traffic", {"split": {"1": 0.5, "2": 0.5}, "sticky": False})
    assert {await answered(call) for _ in range(40)} == {"1", "2"}


async def test_every_management_route_asks_for_the_key(
    bringer: Bringer, open_server: OpenServer, onnx_models: SimpleNamespace
) -> None:
    bringer.bring("m", onnx_models.scale(1.0))
    call = await open_server(api_key="k" * 32)
    document = (await call("GET", "/openapi.json", b"", {"x-api-key": "k" * 32})).json()
    asked = 0
    for path, methods in document["paths"].items():
        if not path.startswith("/api/v1/"):
            continue
        for method in methods.keys() & {"get", "put", "post", "patch", "delete"}:
            answer = await call(method.upper(), path.replace("{", "").replace("}", ""), b"{}", JSON)
            assert (answer.status, answer.json()["code"]) == (401, "unauthorized"), (method, path)
            asked += 1
    assert asked > 20
    answer = await call("GET", MODEL, b"", {"authorization": f"Bearer {'k' * 32}"})
    assert answer.status == 200


async def test_all_of_it_is_there_below_a_prefix(
    bringer: Bringer, open_server: OpenServer, onnx_models: SimpleNamespace
) -> None:
    for factor in (1.0, 2.0):
        bringer.bring("m", onnx_models.scale(factor))
    call = await open_server()
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/ml", app=call.app)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://t/ml") as client:
        for version in (1, 2, 1):
            path = f"{MODEL}/aliases/production"
            answer = await client.put(path, json={"version": version})
            assert answer.status_code == 200, answer.text
            told = await client.post("/v2/models/m/infer", json=INFER)
            assert told.json()["model_version"] == str(version)
        assert (await client.get(f"{MODEL}/versions/1/files/model.onnx")).status_code == 200
        assert (await client.get("/api/v1/models/nobody")).status_code == 404


async def test_a_model_of_the_directory_has_the_name_for_itself(
    bringer: Bringer, open_server: OpenServer, models: Path, onnx_models: SimpleNamespace
) -> None:
    bringer.bring("m", onnx_models.scale(2.0))
    (models / "m" / "1").mkdir(parents=True)
    (models / "m" / "1" / "model.onnx").write_bytes(onnx_models.scale(1.0))
    call = await open_server()
    assert await answered(call) == "1"
    entry = {"name": "model.onnx", "size": 1, "sha256": "0" * 64}
    refused = await call("POST", f"{MODEL}/drafts", {"files": [entry]}, JSON)
    assert (refused.status, refused.json()["code"]) == (409, "conflict")
    refused = await call("PUT", f"{MODEL}/aliases/production", {"version": 1}, JSON)
    assert (refused.status, refused.json()["code"]) == (409, "conflict"), refused.body
    told = await call("GET", f"{MODEL}/versions/1")
    assert not told.json()["loaded"], "that one is the directory's"
    assert await answered(call) == "1"
    await call("POST", "/v2/repository/models/m/load", b"", JSON)
    assert await answered(call) == "1"


async def test_a_post_that_is_sent_again_is_carried_out_once(
    bringer: Bringer, open_server: OpenServer, onnx_models: SimpleNamespace
) -> None:
    for factor in (1.0, 2.0, 3.0):
        bringer.bring("m", onnx_models.scale(factor))
    call = await open_server()
    for version in (1, 2, 3):
        await change(call, "PUT", "/aliases/production", {"version": version})
    headers = {**JSON, "idempotency-key": "once"}
    answers = await asyncio.gather(
        *(call("POST", f"{MODEL}/rollback", {}, headers) for _ in range(8))
    )
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert await answered(call) == "2"
    other = await call("POST", f"{MODEL}/rollback", {"steps": 1}, headers)
    assert (other.status, other.json()["code"]) == (409, "conflict")
    for key in ("", "x" * 129, "a b", "\u00e4"):
        wrong = await call("POST", f"{MODEL}/rollback", {}, {**JSON, "idempotency-key": key})
        assert wrong.status == 400, key
    assert await answered(call) == "2"


@pytest.mark.slow
def test_models_are_brought_over_tls(
    start_aiaas: Any, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    secure = ["--certfile", tmp_path / "cert", "--keyfile", tmp_path / "key"]
    server = start_aiaas("--data", tmp_path / "data", *secure, until="")
    with Sdk(f"https://localhost:{server.port}", verify=context) as client:
        for number in (1, 2):
            assert client.models.deploy("m", onnx_models.scale(float(number))).version == number
        client.models.promote("m", 1)
        assert client.model("m").infer(x=ONES)["y"].tolist() == [[1.0] * 4]
        client.models.promote("m", 2)
        client.models.rollback("m")
        assert client.model("m").infer(x=ONES)["y"].tolist() == [[1.0] * 4]
        client.models.export("m", tmp_path / "out", version=2)
        assert (tmp_path / "out" / "model.onnx").read_bytes() == onnx_models.scale(2.0)


@pytest.mark.slow
def test_models_are_brought_over_a_unix_socket(
    start_aiaas: Any, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    place = tmp_path / "s"
    start_aiaas("--data", tmp_path / "data", "--uds", place, until="")
    transport = httpx.HTTPTransport(uds=str(place))
    with httpx.Client(transport=transport, base_url="http://s", timeout=120) as client:
        for number in (1, 2):
            content = onnx_models.scale(float(number))
            digest = hashlib.sha256(content).hexdigest()
            entry = {"name": "model.onnx", "size": len(content), "sha256": digest}
            draft = client.post(f"{MODEL}/drafts", json={"files": [entry]}).json()["id"]
            sent = client.put(f"{MODEL}/drafts/{draft}/files/model.onnx", content=content)
            assert sent.status_code == 200, sent.text
            made = client.post(f"{MODEL}/drafts/{draft}/commit")
            assert (made.status_code, made.json()["version"]) == (201, number)
        assert client.put(f"{MODEL}/aliases/production", json={"version": 1}).is_success
        told = client.post("/v2/models/m/infer", json=INFER).json()
        assert (told["model_version"], told["outputs"][0]["data"]) == ("1", [1.0] * 4)
