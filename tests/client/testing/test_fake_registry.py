"""The registry of a fake server keeps the rules of a real one that callers meet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from aiaas_client import APIStatusError, Client, NotFoundError
from aiaas_client.testing import FakeError, FakeServer

SHA = hashlib.sha256(b"onnx").hexdigest()
FILE = {"name": "model.onnx", "size": 4, "sha256": SHA}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(api_key="secret") as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.url, api_key="secret") as client:
        yield client


def ask(client: Client, method: str, path: str, body: Any = None, **headers: str) -> Any:
    return client.request(method, f"/api/v1/models/m{path}", json=body, headers=headers)


def draft(client: Client, *files: Any) -> str:
    made: str = ask(client, "POST", "/drafts", {"files": files or [FILE]}).json()["id"]
    return made


def test_what_was_deployed_can_be_looked_at(client: Client, server: FakeServer) -> None:
    client.models.deploy("m", b"onnx", alias="production", assets={"a.txt": b"a"})
    client.models.deploy("m", b"other")
    (model,) = server.registry.models()
    assert (model.name, model.latest, model.production) == ("m", 2, 1)
    assert [one.version for one in server.registry.versions("m")] == [2, 1]
    assert server.registry.file("m", "production", "a.txt") == b"a"
    assert server.registry.choose("m") == 1
    for wrong in (lambda: server.registry.versions("n"), lambda: server.registry.file("m", 2, "b")):
        with pytest.raises(FakeError):
            wrong()


def test_without_a_registry_there_is_nothing_to_look_at() -> None:
    with FakeServer(registry=False) as server, pytest.raises(ValueError, match="registry=False"):
        server.registry  # noqa: B018


def test_the_routes_want_the_key(server: FakeServer) -> None:
    with Client(server.url) as client, pytest.raises(APIStatusError) as raised:
        client.models.registered()
    assert raised.value.status_code == 401


def test_an_open_draft_of_the_same_files_is_given_again(client: Client) -> None:
    first = draft(client)
    ask(client, "PUT", f"/drafts/{first}/files/model.onnx?offset=0")
    assert draft(client) == first
    assert ask(client, "DELETE", f"/drafts/{first}").status == 204
    assert draft(client) != first


def test_offsets_and_digests_are_checked(client: Client) -> None:
    place = f"/api/v1/models/m/drafts/{draft(client)}"
    with pytest.raises(APIStatusError, match="received are 0") as raised:
        client.request("PUT", f"{place}/files/model.onnx?offset=2", content=b"nx")
    assert raised.value.status_code == 409
    with pytest.raises(APIStatusError, match="more than its 4 bytes"):
        client.request("PUT", f"{place}/files/model.onnx?offset=0", content=b"onnxx")
    with pytest.raises(APIStatusError, match="another digest"):
        client.request("PUT", f"{place}/files/model.onnx?offset=0", content=b"ONNX")
    with pytest.raises(NotFoundError, match="no file 'other'"):
        client.request("PUT", f"{place}/files/other?offset=0", content=b"")
    with pytest.raises(APIStatusError, match=r"lacks model\.onnx"):
        client.request("POST", f"{place}/commit")
    told = client.request("PUT", f"{place}/files/model.onnx?offset=0", content=b"on").json()
    assert (told["files"][0]["received"], told["files"][0]["complete"]) == (2, False)
    told = client.request("PUT", f"{place}/files/model.onnx?offset=2", content=b"nx").json()
    assert told["files"][0]["complete"]


def test_bodies_are_checked_and_unknown_members_refused(client: Client) -> None:
    for body, told in (
        ({"files": []}, "files: "),
        ({"files": [FILE], "alais": "a"}, "alais: "),
        ({"files": [{**FILE, "name": "a.txt"}]}, "expected model.onnx"),
    ):
        with pytest.raises(APIStatusError, match=told) as raised:
            ask(client, "POST", "/drafts", body)
        assert raised.value.status_code == 400


def test_a_repeated_post_is_carried_out_once(client: Client, server: FakeServer) -> None:
    client.models.deploy("m", b"one")
    client.models.promote("m", 1)
    for _ in range(3):
        ask(client, "POST", "/rollback", {}, **{"Idempotency-Key": "k"})
    kinds = [entry.kind for entry in client.models.history("m")]
    assert kinds == ["rolled_back", "promoted", "deployed"]


def test_erased_bytes_are_gone_and_shared_ones_kept(client: Client, server: FakeServer) -> None:
    client.models.deploy("m", b"one", assets={"a.txt": b"a"})
    client.models.deploy("m", b"two", assets={"a.txt": b"a"})
    proof = client.models.delete("m", 1)
    assert (len(proof.artefacts), len(proof.kept)) == (1, 1)
    with pytest.raises(FakeError):
        server.registry.file("m", 1, "model.onnx")
    assert server.registry.file("m", 2, "a.txt") == b"a"
    again = client.models.deploy("m", b"one", assets={"a.txt": b"a"})
    assert again.version == 3
    with pytest.raises(NotFoundError):
        client.models.delete("m", 1)


def test_a_split_or_shadow_ends_with_its_version(client: Client) -> None:
    for content in (b"one", b"two"):
        client.models.deploy("m", content)
    client.models.split("m", {1: 0.5, 2: 0.5})
    client.models.shadow("m", 1)
    client.models.pin("m", 1)
    client.models.delete("m", 1, force=True)
    serving = client.models.about("m").serving
    assert (serving.split, serving.shadow, serving.pins) == ({}, None, [])


def test_a_shadow_and_pins_are_no_steps_back(client: Client) -> None:
    for content in (b"one", b"two", b"three"):
        client.models.deploy("m", content, alias="production")
    client.models.shadow("m", 1)
    client.models.unshadow("m")
    client.models.pin("m", 1)
    serving = client.models.rollback("m").serving
    assert (serving.aliases, serving.pins) == ({"production": 2}, [1])
    client.models.shadow("m", 3)
    serving = client.models.rollback("m").serving
    assert (serving.aliases, serving.pins) == ({"production": 1}, [1])
    assert serving.shadow is not None


def test_unknown_routes_and_methods_are_refused(client: Client) -> None:
    client.models.deploy("m", b"one")
    for method, path, status in (
        ("POST", "", 405),
        ("PUT", "/versions/1", 405),
        ("POST", "/drafts/d/files", 405),
        ("GET", "/nothing", 404),
    ):
        with pytest.raises(APIStatusError) as raised:
            ask(client, method, path, {})
        assert raised.value.status_code == status
    with pytest.raises(NotFoundError):
        client.request("GET", "/api/v1/nothing")


def test_what_arrived_is_recorded_with_its_query(client: Client, server: FakeServer) -> None:
    client.models.deploy("m", b"onnx")
    put = next(one for one in server.requests if one.method == "PUT")
    assert (put.query, put.body) == ({"offset": "0"}, b"onnx")
    post = next(one for one in server.requests if one.path.endswith("/drafts"))
    assert json.loads(post.body) == {"files": [FILE]}
