"""The same names in two tenants: each gets its own model, and is told of no other."""

from __future__ import annotations

import asyncio
import hashlib
import json
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiaas_client import Client
from aiaas_server.app import create_app
from aiaas_server.platform import _is_isolated
from aiaas_server.settings import Settings
from tests.server.http.serving import Answer, serving
from tests.server.tenancy.conftest import (
    OPERATOR,
    A,
    Asking,
    B,
    Keys,
    OpenWorld,
    World,
    bringing,
    make_public,
    moods,
    writer,
)
from tests.task_bundles import MEANINGS, PARTS, VECTOR_CARD, table_model, tokenizer
from tests.tenants import Tenants
from tests.waiting import until

INFER = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}


def names_in(answer: Answer, *path: str) -> set[str]:
    found = answer.json()
    for key in path:
        found = found[key]
    return {entry["name"] if "name" in entry else entry["id"] for entry in found}


async def factor(ask: Asking, name: str, version: str = "") -> float:
    """What a model multiplies by; it must be told by its plain name."""
    answer = await ask("POST", f"/v2/models/{name}{version}/infer", INFER)
    assert answer.status == 200, answer.body
    document = answer.json()
    assert document["model_name"] == name
    return float(document["outputs"][0]["data"][0])


async def status(ask: Asking, name: str) -> int:
    return (await ask("POST", f"/v2/models/{name}/infer", INFER)).status


async def test_tensors_are_run_by_the_callers_own_model(world: World) -> None:
    for _ in range(3):  # the later ones by what is remembered of the first
        assert [await factor(who, "m") for who in (world.a, world.b)] == [2.0, 3.0]
        assert await factor(world.a, "m", "/versions/1") == 2.0
        assert await factor(world.b, "m", "/versions/latest") == 3.0
    assert await status(world.operator, "m") == 404


async def test_public_models_are_behind_ones_own(world: World) -> None:
    assert await factor(world.a, "open") == 8.0
    assert await factor(world.b, "open") == 10.0
    assert await factor(world.operator, "open") == 10.0
    for who in (world.a, world.b, world.operator):
        assert await factor(who, "shared") == 6.0
    assert await factor(world.operator, "house") == 5.0
    assert [await status(who, "house") for who in (world.a, world.b)] == [404, 404]


async def test_what_is_public_is_the_operators_to_say(world: World) -> None:
    path, public = "/api/v1/models/shared", {"policy": {"public": True}}
    refused = await world.a("PATCH", "/api/v1/models/m", public)
    assert (refused.status, "operator" in refused.json()["error"]) == (403, True)
    assert (await world.operator("PATCH", path, {"policy": {"public": False}})).status == 200
    assert [await status(who, "shared") for who in (world.a, world.operator)] == [404, 200]
    assert (await world.operator("PATCH", path, public)).status == 200
    assert await factor(world.b, "shared") == 6.0


async def test_nobody_calls_a_model_by_its_full_name(world: World) -> None:
    for ask in (world.b, world.operator, world.a):
        for name in (f"{A}/okapis", f"{A}/m", f"{B}/m", f"{OPERATOR}/house", "/m", "/house"):
            body = {"model": name, "text": "good film"}
            answer = await ask("POST", "/predict", body)
            assert answer.status == 404, (name, answer.body)
            chat = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
            assert (await ask("POST", "/v1/chat/completions", chat)).status == 404


async def test_predictions_are_of_the_callers_own_model(world: World) -> None:
    for _ in range(2):
        for ask, label in ((world.a, "positive"), (world.b, "negative")):
            told = await ask("POST", "/v1/models/moods:predict", {"instances": ["good film"]})
            assert told.json()["predictions"][0]["label"] == label
            assert told.headers["x-aiaas-model"] == "moods"
            named = await ask("POST", "/predict", {"text": "good film", "model": "moods"})
            assert (named.json()["label"], named.json()["model"]) == (label, "moods")
            found = await ask("POST", "/predict", {"text": "good film"})  # the only one that fits
            assert found.json()["label"] == label


async def test_no_model_of_others_is_found_by_its_task(world: World) -> None:
    answer = await world.operator("POST", "/predict", {"text": "good film"})
    assert answer.status == 404
    assert "moods" not in answer.json()["error"]


async def test_explanations_are_of_the_callers_own_model(world: World) -> None:
    signs = []
    for ask in (world.a, world.b):
        answer = await ask("POST", "/v1/models/moods:explain", {"instances": ["good film"]})
        assert answer.status == 200, answer.body
        document = answer.json()
        assert document["model_name"] == "moods"
        signs.append(document["explanations"][0]["output"])
    assert signs == ["positive", "negative"]


async def test_texts_are_written_by_the_callers_own_model(world: World) -> None:
    body = {"model": "writer", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4}
    for ask, context in ((world.a, 64), (world.b, 48)):
        answer = await ask("POST", "/v1/chat/completions", body)
        assert answer.status == 200, answer.body
        assert answer.json()["model"] == "writer"
        assert (await ask("GET", "/v1/models/writer")).json()["context"] == context
    assert (await world.operator("POST", "/v1/chat/completions", body)).status == 404


async def test_lists_tell_ones_own_models_and_public_ones(world: World) -> None:
    own = {
        world.a: {"m", "moods", "writer", "okapis", "open", "shared"},
        world.b: {"m", "moods", "writer", "open", "shared"},
        world.operator: {"house", "open", "shared"},
    }
    for ask, names in own.items():
        assert names_in(await ask("GET", "/v1/models"), "data") == names
        assert names_in(await ask("POST", "/v2/repository/index")) == names
        assert names_in(await ask("GET", "/v2/models/stats"), "model_stats") == names
        document = (await ask("GET", "/openapi.json")).body.decode()
        assert f"{A}/" not in document
        assert ("/v1/models/moods:predict" in document) is ("moods" in names)
    managed = await world.b("GET", "/api/v1/models")
    assert names_in(managed, "items") == {"m", "moods", "writer"}


async def test_each_counts_its_own_requests(world: World) -> None:
    for ask, times in ((world.a, 3), (world.b, 5)):
        for _ in range(times):
            await factor(ask, "m")
    for ask, times in ((world.a, 3), (world.b, 5)):
        (entry,) = (await ask("GET", "/v2/models/m/stats")).json()["model_stats"]
        assert (entry["name"], entry["inference_count"]) == ("m", times)
    page = (await world.operator("GET", "/metrics")).body.decode()
    for tenant, times in ((A, 3), (B, 5)):
        assert f'nv_inference_count{{model="{tenant}/m",version="1"}} {times}' in page


async def test_monitoring_and_feedback_are_of_ones_own(world: World) -> None:
    for ask, times in ((world.a, 2), (world.b, 4)):
        for number in range(times):
            body = {"instances": ["good film"]}
            await ask("POST", "/v1/models/moods:predict", body, {"x-request-id": f"r{number}"})
    for ask, times in ((world.a, 2), (world.b, 4)):
        found = (await ask("GET", "/api/v1/models/moods/monitoring")).json()
        assert sum(one["requests"] for one in found["versions"]) == times
    for ask, known in ((world.a, 2), (world.b, 4), (world.operator, 0)):
        items = [{"request_id": f"r{n}", "label": "positive"} for n in range(4)]
        told = (await ask("POST", "/api/v1/feedback", {"items": items})).json()["results"]
        assert sum(one["status"] != "unknown" for one in told) == known


async def test_splits_and_aliases_are_of_ones_own(
    world: World, data: Path, onnx_models: Any
) -> None:
    with bringing(data, B) as bringer:
        bringer.bring("m", onnx_models.scale(30.0))
    put = await world.b("PUT", "/api/v1/models/m/aliases/production", {"version": 2})
    assert put.status == 200, put.body
    assert [await factor(world.a, "m"), await factor(world.b, "m")] == [2.0, 30.0]
    assert await factor(world.b, "m", "/versions/production") == 30.0
    missing = await world.a("POST", "/v2/models/m/versions/production/infer", INFER)
    assert missing.status == 404
    split = {"split": {"1": 0.5, "2": 0.5}}
    assert (await world.b("PATCH", "/api/v1/models/m/traffic", split)).status == 200
    one = {await factor(world.b, "m") for _ in range(20)}
    assert len(one) == 1, "one key stays on its version"
    seen = set()
    for number in range(40):
        headers = {"x-sticky-key": f"user-{number}"}
        answer = await world.b("POST", "/v2/models/m/infer", INFER, headers)
        seen.add(answer.json()["outputs"][0]["data"][0])
    assert seen == {3.0, 30.0}
    assert await factor(world.a, "m") == 2.0


async def test_a_pipeline_finds_its_steps_where_its_owner_has_them(
    data: Path, bring_all: Any, open_world: OpenWorld
) -> None:
    """A public one's steps are the operator's, private ones too, whatever the caller has."""
    card = {"task": "pipeline", "steps": [{"model": "moods"}]}
    bring_all()
    for tenant in (OPERATOR, B):
        with bringing(data, tenant) as bringer:
            name = "chain" if tenant == OPERATOR else "own-chain"
            bringer.bring(name, {"model.json": json.dumps(card).encode()})
            if tenant == OPERATOR:
                bringer.bring("moods", moods())
                make_public(bringer, "chain")
    world = await open_world()
    labels = []
    for ask, name in ((world.b, "chain"), (world.b, "own-chain"), (world.a, "chain")):
        body = {"instances": ["good film"]}
        answer = await ask("POST", f"/v1/models/{name}:predict", body)
        assert answer.status == 200, answer.body
        labels.append(answer.json()["predictions"][0]["label"])
    assert labels == ["positive", "negative", "positive"]
    assert (await world.a("GET", "/v1/models/own-chain")).status == 404


async def test_models_are_loaded_and_unloaded_by_their_owner(world: World) -> None:
    path = "/v2/repository/models/{}/{}"
    for ask in (world.a, world.b):
        refused = await ask("POST", path.format("m", "unload"))
        assert refused.status == 409  # the registry says what is loaded
        assert (await ask("POST", path.format("m", "load"))).status == 200
    for name in ("house", "shared", "open", "nothing"):
        assert (await world.b("POST", path.format(name, "load"))).status == 404
        assert (await world.b("POST", path.format(name, "unload"))).status == 200
    assert await factor(world.b, "open") == 10.0
    assert (await world.operator("POST", path.format("open", "unload"))).status == 200
    assert await status(world.b, "open") == 404
    assert await factor(world.a, "open") == 8.0


async def test_what_is_loaded_on_demand_is_ones_own(
    data: Path, bring_all: Any, open_world: OpenWorld
) -> None:
    bring_all()
    world = await open_world(memory_budget_bytes=1 << 30)
    assert [await factor(who, "m") for who in (world.a, world.b)] == [2.0, 3.0]
    assert await factor(world.a, "okapis") == 7.0
    assert [await status(who, "okapis") for who in (world.b, world.operator)] == [404, 404]


async def test_cached_answers_are_of_ones_own(world: World) -> None:
    """An answer that another tenant caused is not told from one that nobody did."""
    config = {"policy": {"config": {"response_cache": {"enable": True}}, "public": True}}
    assert (await world.operator("PATCH", "/api/v1/models/shared", config)).status == 200

    async def hits() -> int:
        (entry,) = (await world.operator("GET", "/v2/models/shared/stats")).json()["model_stats"]
        return int(entry["inference_stats"]["cache_hit"]["count"])

    await factor(world.a, "shared")
    await factor(world.b, "shared")
    assert await hits() == 0
    await factor(world.b, "shared")
    assert await hits() == 1


async def test_what_a_prompt_begins_with_is_not_told_to_others(
    data: Path, tmp_path: Path, bring_all: Any, open_world: OpenWorld
) -> None:
    """How many tokens were known already is in each answer, of a public model too."""
    bring_all()
    with bringing(data, OPERATOR) as bringer:
        bringer.bring("scribe", writer(tmp_path / "scribe"))
        make_public(bringer, "scribe")
    world = await open_world()
    body = {"model": "scribe", "prompt": "abc " * 12, "max_tokens": 2}

    async def known(ask: Asking) -> int:
        answer = await ask("POST", "/v1/completions", body)
        assert answer.status == 200, answer.body
        details = answer.json()["usage"]["prompt_tokens_details"]
        return int(details["cached_tokens"])

    assert [await known(who) for who in (world.a, world.b)] == [0, 0]
    assert await known(world.b) > 0


async def uploaded(ask: Asking, text: str) -> str:
    """The id of a file of these bytes."""
    form = "form"
    body = (
        f'--{form}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{form}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        f"{text}\r\n--{form}--\r\n"
    )
    kind = {"content-type": f"multipart/form-data; boundary={form}"}
    made = await ask("POST", "/v1/files", body.encode(), kind)
    assert made.status == 200, made.body
    return str(made.json()["id"])


async def test_files_are_ones_own(world: World) -> None:
    for ask, text in ((world.a, "of A"), (world.b, "of B")):
        file = await uploaded(ask, text)
        listed = (await ask("GET", "/v1/files")).json()["data"]
        assert [one["id"] for one in listed] == [file]
        content = await ask("GET", f"/v1/files/{file}/content")
        assert content.body == text.encode()


async def test_a_deployed_version_serves_its_own_tenant(world: World, onnx_models: Any) -> None:
    """The same name and the same bytes as another's; what another has sent is sent again."""
    content = onnx_models.scale(7.0)  # of A's `okapis`
    file = {
        "name": "model.onnx",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    answer = await world.b("POST", "/api/v1/models/okapis/drafts", {"files": [file]})
    assert answer.status == 201, answer.body
    draft = answer.json()
    assert [(one["name"], one["received"]) for one in draft["files"]] == [("model.onnx", 0)]
    place = f"/api/v1/models/okapis/drafts/{draft['id']}"
    kind = {"content-type": "application/octet-stream"}
    sent = await world.b("PUT", f"{place}/files/model.onnx", content, kind)
    assert sent.status == 200, sent.body
    done = await world.b("POST", f"{place}/commit")
    assert (done.status, done.json()["loaded"]) == (201, True), done.body
    assert await factor(world.b, "okapis") == 7.0
    erased = await world.b("DELETE", "/api/v1/models/okapis?force=true")
    assert erased.status == 200, erased.body
    assert [await status(world.b, "okapis"), await factor(world.a, "okapis")] == [404, 7.0]


async def test_other_processes_follow_each_tenant(
    data: Path, bring_all: Any, open_world: OpenWorld, onnx_models: SimpleNamespace
) -> None:
    bring_all()
    one, other = await open_world(), await open_world()
    with bringing(data, B) as bringer:
        bringer.bring("m", onnx_models.scale(30.0))
    put = await one.b("PUT", "/api/v1/models/m/aliases/production", {"version": 2})
    assert put.status == 200, put.body

    def followed() -> bool:
        return bool(other.app.pool.ready_versions(f"{B}/m") == [2])

    await until(followed)
    assert [await factor(other.a, "m"), await factor(other.b, "m")] == [2.0, 30.0]


async def test_which_models_run_apart(data: Path, bring_all: Any, open_world: OpenWorld) -> None:
    bring_all()
    world = await open_world()
    repository = world.app._platform.repository
    assert not repository.find(f"{A}/m").isolated
    found = {s: [_is_isolated(s, t) for t in (A, OPERATOR)] for s in ("none", "tenants", "all")}
    assert found == {"none": [False, False], "tenants": [True, False], "all": [True, True]}


def test_on_the_hot_lane_each_gets_its_own(
    data: Path, beside: Path, bring_all: Any, keys: Keys
) -> None:
    """The connection itself answers; two keys may share one."""
    import json

    bring_all()
    app = create_app(Settings(data=data, models=beside, tenants=True, sandbox="none"))
    read_only = Tenants(data).key(A, ["models:read"])
    with serving(app) as server:
        connection = HTTPConnection(server.address)
        for _ in range(3):
            for key, wanted in ((keys.a, 2.0), (keys.b, 3.0)):
                headers = {"authorization": f"Bearer {key}"}
                connection.request("POST", "/v2/models/m/infer", json.dumps(INFER), headers)
                answer = connection.getresponse()
                assert json.loads(answer.read())["outputs"][0]["data"][0] == wanted
        for path, body in (
            ("/v2/models/m/infer", INFER),
            ("/v1/models/moods:predict", {"instances": ["good"]}),
            ("/predict", {"text": "good"}),
        ):
            headers = {
                "authorization": f"Bearer {read_only}",
                "content-type": "application/json",
            }
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            assert (answer.status, "'infer'" in answer.read().decode()) == (403, True), path
        connection.close()
        with Client(server.url, api_key=keys.b) as client:
            found = client.model("m").infer(x=np.ones((1, 4), np.float32))
            assert found["y"].tolist() == [[3.0] * 4]


@pytest.mark.parametrize("name", ["okapi", "okapiss", "hous", "houses"])
async def test_a_misspelt_name_tells_no_other(world: World, name: str) -> None:
    for ask, told in ((world.a, "okapis"), (world.operator, "house")):
        text = (await ask("POST", f"/v2/models/{name}/infer", INFER)).json()["error"]
        assert ("did you mean" in text) is (told[:4] == name[:4])
    text = (await world.b("POST", f"/v2/models/{name}/infer", INFER)).json()["error"]
    assert text.endswith(f"'{name}' is not found")


def vectors(factor: float) -> dict[str, bytes]:
    """A bundle of text embeddings; with -1 they point the other way."""
    meanings = np.asarray(MEANINGS, np.float32) * factor
    return {
        "model.onnx": table_model(meanings, PARTS, pooled=False),
        "model.json": json.dumps(VECTOR_CARD).encode(),
        "tokenizer.json": tokenizer(),
    }


@pytest.mark.slow
async def test_batches_are_answered_by_ones_own_model(
    data: Path, bring_all: Any, open_world: OpenWorld
) -> None:
    """The same file of calls, by the same name of a model: each gets its own model's answers."""
    bring_all()
    for tenant, factor in ((A, 1.0), (B, -1.0)):
        with bringing(data, tenant) as bringer:
            bringer.bring("vectors", vectors(factor), card=VECTOR_CARD)
    world = await open_world(jobs=1, disk_reserve_bytes=0)
    made = {}
    for ask in (world.a, world.b):
        body = {"model": "vectors", "input": "good tea"}
        live = await ask("POST", "/v1/embeddings", body)
        assert live.status == 200, live.body
        line = {"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": body}
        file = await uploaded(ask, json.dumps(line))
        batch = await ask(
            "POST",
            "/v1/batches",
            {"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"},
        )
        assert batch.status == 200, batch.body
        made[ask] = batch.json()["id"], live.json()["data"][0]["embedding"]
    assert made[world.a][1] != made[world.b][1]
    for ask, (batch_id, wanted) in made.items():
        output = ""
        async with asyncio.timeout(180):
            while not output:
                told = (await ask("GET", f"/v1/batches/{batch_id}")).json()
                assert told["status"] in ("validating", "in_progress", "finalizing", "completed")
                output = told["output_file_id"] or ""
                await asyncio.sleep(0.2)
        (line,) = (await ask("GET", f"/v1/files/{output}/content")).body.splitlines()
        answered = json.loads(line)["response"]["body"]["data"][0]["embedding"]
        assert answered == pytest.approx(wanted)
        other = world.b if ask is world.a else world.a
        assert (await other("GET", f"/v1/files/{output}/content")).status == 404
        jobs = (await ask("GET", "/api/v1/jobs")).json()["items"]
        assert [f"batch_{job['id']}" for job in jobs] == [batch_id]


@pytest.mark.slow
async def test_shadows_and_guards_are_of_ones_own(
    world: World, data: Path, onnx_models: Any
) -> None:
    """Both tenants have versions 1 and 2 of `m`; what one tries and copies is its own alone."""
    for tenant in (A, B):
        with bringing(data, tenant) as bringer:
            bringer.bring("m", onnx_models.scale(30.0))
    for ask in (world.a, world.b):
        path = "/api/v1/models/m/aliases/production"
        assert (await ask("PUT", path, {"version": 1})).status == 200
    shadow = {"shadow": {"version": 2, "share": 1.0}}
    assert (await world.a("PATCH", "/api/v1/models/m/traffic", shadow)).status == 200
    guard = {"steps": [0.5, 1.0], "window": 1.0, "min_requests": 10}
    tried = await world.b("PUT", path, {"version": 2, "guard": guard})
    assert tried.status == 200, tried.body

    async def production(ask: Asking) -> int:
        found = (await ask("GET", "/api/v1/models/m/traffic")).json()
        return int(found["aliases"]["production"])

    async with asyncio.timeout(120):
        number = 0
        while await production(world.b) != 2:
            number += 1
            for ask in (world.a, world.b):
                headers = {"x-sticky-key": f"user-{number}"}
                answer = await ask("POST", "/v2/models/m/infer", INFER, headers)
                assert answer.status == 200, answer.body
            await asyncio.sleep(0.01)
    assert await production(world.a) == 1
    assert [await factor(who, "m") for who in (world.a, world.b)] == [2.0, 30.0]
    told = (await world.a("GET", "/api/v1/models/m/monitoring")).json()
    assert told["shadows"][0]["compared"] > 0
    told = (await world.b("GET", "/api/v1/models/m/monitoring")).json()
    assert told["shadows"] == []
