"""Promotions, splits, aliases and rollbacks as a client of the management routes sees them."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from tests.server.http.serving import Answer, AsgiCaller
from tests.server.registry.bringing import Bringer
from tests.server.registry.conftest import OpenServer

INFER = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
MODEL = "/api/v1/models/m"


class Client:
    """What the tests ask of the server, in their words."""

    def __init__(self, call: AsgiCaller) -> None:
        self.call = call
        self.app = call.app

    async def __call__(
        self, method: str, path: str, body: Any = b"", status: int = 200, **headers: str
    ) -> Any:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if not isinstance(body, bytes):
            given["content-type"] = "application/json"
        answer: Answer = await self.call(method, path, body, given)
        assert answer.status == status, (answer.status, answer.body)
        return answer.json()

    async def version(self, path: str = "", **headers: str) -> int:
        """Which version answers, checked by what it computes."""
        told = await self("POST", f"/v2/models/m{path}/infer", INFER, 200, **headers)
        (output,) = told["outputs"]
        assert output["data"] == [float(told["model_version"])] * 4
        return int(told["model_version"])

    async def promote(self, version: int, alias: str = "production", **headers: str) -> Any:
        return await self("PUT", f"{MODEL}/aliases/{alias}", {"version": version}, 200, **headers)

    async def error(self, method: str, path: str, body: Any, status: int, **headers: str) -> str:
        told = await self(method, path, body, status, **headers)
        text: str = told["error"]
        return text


@pytest_asyncio.fixture
async def client(bringer: Bringer, open_server: OpenServer, onnx_models: SimpleNamespace) -> Client:
    """A server with three versions of `m`, each of which multiplies by its number."""
    for factor in (1.0, 2.0, 3.0):
        bringer.bring("m", onnx_models.scale(factor))
    return Client(await open_server())


async def test_without_an_alias_the_latest_serves_and_only_it_is_loaded(client: Client) -> None:
    assert await client.version() == 3
    assert client.app.pool.ready_versions("m") == [3]
    told = await client("GET", MODEL)
    assert (told["latest"], told["versions"]) == (3, 3)


async def test_the_log_has_a_line_of_each_change_and_none_of_what_changed_nothing(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aiaas_server")
    await client.promote(1)
    await client.promote(1)
    await client.promote(2)
    await client.promote(3, "canary")
    shares = {"split": {"1": 0.75, "2": 0.25}, "shadow": {"version": 3}, "note": "SECRET"}
    await client("PATCH", f"{MODEL}/traffic", shares)
    await client("POST", f"{MODEL}/rollback", {"note": "SECRET"})
    await client("DELETE", f"{MODEL}/aliases/canary")
    await client("DELETE", f"{MODEL}/versions/1")
    await client("DELETE", f"{MODEL}?force=true")
    lines = [one.getMessage() for one in caplog.records if one.levelname == "INFO"]
    by = "by operator"
    assert [line for line in lines if by in line] == [
        f"model 'm': version 1 promoted to 'production' {by}, now production 1",
        f"model 'm': version 2 promoted to 'production' {by}, now production 2",
        f"model 'm': version 3 promoted to 'canary' {by}, now canary 3, production 2",
        f"model 'm': traffic changed {by}, now canary 3, production 2, split 1 75 % 2 25 %, "
        "shadow 3",
        f"model 'm': rolled back {by}, now canary 3, production 2, shadow 3",
        f"model 'm': alias 'canary' removed {by}, now production 2, shadow 3",
        f"model 'm': version 1 erased {by}",
        f"model 'm': erased {by}, 2 versions",
    ]
    assert not any("SECRET" in line for line in lines)


async def test_a_promotion_is_in_force_when_it_is_answered(client: Client) -> None:
    for version in (1, 2, 1):
        told = await client.promote(version)
        assert told["serving"]["aliases"] == {"production": version}
        assert await client.version() == version
        assert await client.version(f"/versions/{version}") == version
    page = await client("GET", f"{MODEL}/history?limit=3")
    assert [entry["kind"] for entry in page["items"]] == ["promoted"] * 3
    assert page["items"][0]["before"]["aliases"] == {"production": 2}


async def test_what_serves_no_longer_is_unloaded(client: Client) -> None:
    await client.promote(1)
    assert client.app.pool.ready_versions("m") == [1]
    version = await client("GET", f"{MODEL}/versions/1")
    assert (version["loaded"], version["share"], version["aliases"]) == (True, 1.0, ["production"])
    assert not (await client("GET", f"{MODEL}/versions/3"))["loaded"]


async def test_promoting_what_is_promoted_changes_nothing(client: Client) -> None:
    first = await client.promote(2)
    again = await client.promote(2)
    assert first == again
    page = await client("GET", f"{MODEL}/history")
    assert [entry["kind"] for entry in page["items"]].count("promoted") == 1


async def test_an_alias_is_a_version_in_every_url(client: Client) -> None:
    await client.promote(1)
    await client.promote(2, "canary")
    assert await client.version("/versions/canary") == 2
    assert await client.version("/versions/production") == 1
    assert await client.version("/versions/2") == 2
    for path in ("", "/ready", "/config", "/stats"):
        await client("GET", f"/v2/models/m/versions/canary{path}")
    told = await client("POST", "/v2/models/m/versions/canary/generate", {"x": [1, 1, 1, 1]})
    assert told["model_version"] == "2"
    stats = await client("GET", "/v2/models/m/versions/canary/stats")
    assert [one["version"] for one in stats["model_stats"]] == ["2"]
    await client("DELETE", f"{MODEL}/aliases/canary")
    error = await client.error("POST", "/v2/models/m/versions/canary/infer", INFER, 404)
    assert error.startswith("Request for unknown model: 'm' version 'canary' is not found")
    error = await client.error("POST", "/v2/models/m/versions/2/infer", INFER, 404)
    assert "version 2 is not found; loaded are the versions that an alias, " in error


async def test_a_split_divides_by_caller_and_a_version_in_the_url_wins(client: Client) -> None:
    told = await client("PATCH", f"{MODEL}/traffic", {"split": {"1": 0.25, "3": 0.75}})
    assert told["serving"]["split"] == {"1": 0.25, "3": 0.75}
    assert client.app.pool.ready_versions("m") == [1, 3]
    seen = Counter([await client.version(x_sticky_key=f"user-{i}") for i in range(200)])
    assert set(seen) == {1, 3}
    assert 20 <= seen[1] <= 90
    for key in ("user-1", "user-2"):
        assert len({await client.version(x_sticky_key=key) for _ in range(5)}) == 1
    assert await client.version("/versions/1", x_sticky_key="user-1") == 1
    assert (await client("GET", f"{MODEL}/versions/1"))["share"] == 0.25
    await client("PATCH", f"{MODEL}/traffic", {"split": None})
    assert await client.version() == 3


async def test_rollbacks_go_further_and_further_back(client: Client) -> None:
    await client.promote(1)
    await client.promote(2)
    await client("PATCH", f"{MODEL}/traffic", {"split": {"2": 0.5, "3": 0.5}})
    assert (await client("POST", f"{MODEL}/rollback"))["serving"]["split"] == {}
    assert await client.version() == 2
    await client("POST", f"{MODEL}/rollback", {"steps": 1, "note": "worse"})
    assert await client.version() == 1
    told = await client("POST", f"{MODEL}/rollback")
    assert told["serving"]["aliases"] == {}
    assert await client.version() == 3
    error = await client.error("POST", f"{MODEL}/rollback", b"", 409)
    assert "no earlier state to go back to" in error
    page = await client("GET", f"{MODEL}/history?limit=2")
    assert [entry["reason"] for entry in page["items"]] == ["", "worse"]


async def test_a_change_of_what_was_changed_meanwhile_is_refused(client: Client) -> None:
    etag = (await client("GET", f"{MODEL}/traffic") and await client("GET", MODEL))["etag"]
    await client.promote(1, if_match=f'"{etag}"')
    error = await client.error(
        "PUT", f"{MODEL}/aliases/production", {"version": 2}, 412, if_match=f'"{etag}"'
    )
    assert "was changed since it was read" in error
    assert await client.version() == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("PUT", f"{MODEL}/aliases/production", {"version": 9}, 404, "has no version 9"),
        ("PUT", "/api/v1/models/no/aliases/production", {"version": 1}, 404, "not in the registry"),
        ("PUT", f"{MODEL}/aliases/latest", {"version": 1}, 400, "by itself"),
        ("PUT", f"{MODEL}/aliases/1st", {"version": 1}, 400, "expected a letter"),
        ("PUT", f"{MODEL}/aliases/a", {"version": 0}, 400, "version"),
        ("PUT", f"{MODEL}/aliases/a", {"version": 1, "x": 1}, 400, "x"),
        ("DELETE", f"{MODEL}/aliases/none", b"", 404, "no alias 'none'"),
        ("PATCH", f"{MODEL}/traffic", {"split": {"1": 0.5}}, 400, "add up to 1, got 0.5"),
        ("PATCH", f"{MODEL}/traffic", {"split": {"x": 1.0}}, 400, "version numbers"),
        ("PATCH", f"{MODEL}/traffic", {"split": {"1": 0.5, "9": 0.5}}, 404, "has no version 9"),
        ("PATCH", f"{MODEL}/traffic", {"shadow": {"version": 9}}, 404, "has no version 9"),
        ("PATCH", f"{MODEL}/traffic", {"pins": [9]}, 404, "has no version 9"),
        ("POST", f"{MODEL}/rollback", {"steps": 0}, 400, "steps"),
        ("POST", "/api/v1/models/no/rollback", b"", 404, "not in the registry"),
        ("GET", "/api/v1/models/no", b"", 404, "not in the registry"),
        ("GET", f"{MODEL}/versions/9", b"", 404, "has no version 9"),
        ("GET", f"{MODEL}/versions/none", b"", 404, "no version or alias 'none'"),
        ("GET", f"{MODEL}/diff?old=1", b"", 400, "new: expected a version"),
        ("GET", f"{MODEL}/history?limit=0", b"", 400, "limit"),
        ("PATCH", MODEL, {"policy": {"config": {"version_policy": {"all": {}}}}}, 400, "registry"),
        ("PATCH", MODEL, {"policy": {"config": {"max_batch_size": "x"}}}, 400, "policy.config"),
    ],
)
async def test_what_is_wrong_is_refused_and_changes_nothing(
    client: Client, method: str, path: str, body: Any, status: int, text: str
) -> None:
    before = await client("GET", f"{MODEL}/history")
    assert text in await client.error(method, path, body, status)
    assert await client("GET", f"{MODEL}/history") == before
    assert await client.version() == 3


async def test_a_version_that_is_not_whole_is_not_promoted(
    client: Client, bringer: Bringer, onnx_models: SimpleNamespace
) -> None:
    bringer.bring("m", onnx_models.scale(4.0), state="corrupt", reason="bytes differ")
    error = await client.error("PUT", f"{MODEL}/aliases/production", {"version": 4}, 409)
    assert "version 4 of model 'm' is corrupt (bytes differ)" in error


async def test_a_version_that_does_not_load_changes_nothing(
    client: Client, bringer: Bringer
) -> None:
    bringer.bring("m", b"no model at all", number=7)
    error = await client.error("PUT", f"{MODEL}/aliases/production", {"version": 7}, 422)
    assert "version 7 of model 'm' cannot be loaded" in error
    assert await client.version() == 3
    told = await client("GET", MODEL)
    assert told["serving"]["aliases"] == {}


async def test_a_policy_configures_all_versions(client: Client) -> None:
    await client(
        "PATCH", MODEL, {"description": "scales", "policy": {"config": {"max_batch_size": 7}}}
    )
    assert (await client("GET", "/v2/models/m/config"))["max_batch_size"] == 7
    told = await client("GET", MODEL)
    assert told["description"] == "scales"
    assert (await client("GET", f"{MODEL}/history"))["items"][0]["kind"] == "updated"
    await client.error("POST", f"{MODEL}/rollback", b"", 409)  # nobody serves otherwise than before


async def test_versions_are_told_in_pages_and_compared(client: Client) -> None:
    page = await client("GET", f"{MODEL}/versions?limit=2")
    assert [one["version"] for one in page["items"]] == [3, 2]
    rest = await client("GET", f"{MODEL}/versions?limit=2&after={page['next']}")
    assert [one["version"] for one in rest["items"]] == [1]
    assert rest["next"] is None
    diff = await client("GET", f"{MODEL}/diff?old=1&new=latest")
    assert not diff["same_bytes"]
    assert "files.model.onnx.sha256" in [one["path"] for one in diff["differences"]]
    listed = await client("GET", "/api/v1/models")
    assert [one["name"] for one in listed["items"]] == ["m"]


async def test_who_controls_the_repository_does_not_control_the_registry(client: Client) -> None:
    await client("POST", "/v2/repository/models/m/load")
    error = await client.error("POST", "/v2/repository/models/m/unload", b"", 409)
    assert "is in the registry" in error
    body = {"parameters": {"force": True}}
    await client.error("POST", "/v2/repository/models/m/load", body, 409)
    index = await client("POST", "/v2/repository/index")
    assert {"name": "m", "version": "3", "state": "READY"} in index


async def test_a_replayed_rollback_is_made_once(client: Client) -> None:
    await client.promote(1)
    await client.promote(2)
    for _ in range(2):
        await client("POST", f"{MODEL}/rollback", b"", idempotency_key="k1")
    assert await client.version() == 1


async def test_the_api_document_tells_what_goes_in_and_comes_out(client: Client) -> None:
    document = await client("GET", "/openapi.json")
    put = document["paths"]["/api/v1/models/{model}/aliases/{alias}"]["put"]
    asked = put["requestBody"]["content"]["application/json"]["schema"]
    assert asked["properties"]["guard"]["anyOf"][0]["properties"]["steps"]["type"] == "array"
    told = put["responses"]["200"]["content"]["application/json"]["schema"]
    assert "serving" in told["properties"]
    for path, entry in document["paths"].items():
        if path.startswith("/api/v1/models"):
            for method in entry.keys() & {"get", "put", "post", "patch", "delete"}:
                assert entry[method]["summary"], (method, path)
                told = entry[method]["responses"]
                assert "204" in told or "content" in told["200"], (method, path)


async def test_another_method_is_405_and_another_path_404(client: Client) -> None:
    await client.error("POST", f"{MODEL}/traffic", {}, 405)
    await client.error("PUT", MODEL, {}, 405)
    await client.error("GET", f"{MODEL}/nothing", b"", 404)
    await client.error("GET", "/api/v1/nothing", b"", 404)


async def test_two_promotions_at_once_are_made_one_after_the_other(client: Client) -> None:
    await asyncio.gather(*(client.promote(version) for version in (1, 2, 1, 2)))
    page = await client("GET", f"{MODEL}/history")
    entries = [entry for entry in page["items"] if entry["kind"] == "promoted"]
    for later, earlier in itertools.pairwise(entries):
        assert later["before"] == earlier["after"]
    assert await client.version() == entries[0]["after"]["aliases"]["production"]
