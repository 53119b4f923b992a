"""Bringing versions and fetching them back: what breaks goes on, what is wrong leaves nothing."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiaas_client import (
    APIConnectionError,
    AsyncClient,
    Client,
    InputError,
    MissingFileError,
    ProtocolError,
    RetryPolicy,
    ServiceUnavailableError,
)
from aiaas_client._bundles.bundle import gathered
from aiaas_client._bundles.flows import Wishes, deploy
from aiaas_client._send.work import acarry_out, carry_out
from aiaas_client.testing import FakeServer

CONTENT = bytes(range(256)) * 40  # 10,240 bytes
Run = Callable[[FakeServer, Wishes], Any]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def run_threads(server: FakeServer, wishes: Wishes, clock: Any) -> Any:
    retry = RetryPolicy(max_retries=0, clock=clock)
    with Client(server.url, retry=retry, breaker=None) as client:
        return carry_out(deploy("m", partial(gathered, CONTENT), wishes), client._sender)


def run_tasks(server: FakeServer, wishes: Wishes, clock: Any) -> Any:
    async def run() -> Any:
        retry = RetryPolicy(max_retries=0, clock=clock)
        async with AsyncClient(server.url, retry=retry, breaker=None) as client:
            return await acarry_out(deploy("m", partial(gathered, CONTENT), wishes), client._sender)

    return asyncio.run(run())


@pytest.fixture(params=[run_threads, run_tasks], ids=["threads", "tasks"])
def run(request: pytest.FixtureRequest, fake_clock: Any) -> Run:
    """Deploys in small pieces, with waits that take no time."""
    return partial(request.param, clock=fake_clock.clock())


def sent(server: FakeServer) -> list[tuple[int, int]]:
    """Offset and size of each piece that arrived."""
    return [
        (int(one.query["offset"]), len(one.body)) for one in server.requests if one.method == "PUT"
    ]


def test_a_file_is_sent_in_pieces(run: Run, server: FakeServer) -> None:
    version = run(server, Wishes({}, piece=4096))
    assert sent(server) == [(0, 4096), (4096, 4096), (8192, 2048)]
    assert server.registry.file("m", version.version, "model.onnx") == CONTENT


def test_a_piece_that_was_lost_is_sent_again(run: Run, server: FakeServer) -> None:
    server.drop(path="/files/")
    run(server, Wishes({}, piece=4096))
    assert sent(server) == [(0, 4096), (0, 4096), (4096, 4096), (8192, 2048)]


def test_a_piece_whose_answer_was_lost_is_not_sent_again(run: Run, server: FakeServer) -> None:
    server.truncate(0, path="/files/")
    run(server, Wishes({}, piece=4096))
    assert sent(server) == [(0, 4096), (4096, 4096), (8192, 2048)]


def test_a_server_that_is_busy_for_a_while_is_waited_for(
    run: Run, server: FakeServer, fake_clock: Any
) -> None:
    server.fail(503, "busy", times=3, path="/files/")
    run(server, Wishes({}, piece=4096))
    assert fake_clock.slept == [0.2, 0.4, 0.8]


def test_what_gets_no_further_ends(run: Run, server: FakeServer) -> None:
    server.fail(503, "busy", times=99, path="/files/")
    with pytest.raises(ServiceUnavailableError, match="busy"):
        run(server, Wishes({}, piece=4096))
    assert len(sent(server)) == 5


def test_the_next_deployment_goes_on_where_the_last_one_broke(run: Run, server: FakeServer) -> None:
    server.alter(lambda body: body, path="/files/")  # the first piece is fine
    server.drop(path="/files/", times=99)
    with pytest.raises(APIConnectionError):
        run(server, Wishes({}, piece=4096))
    server.clear()
    told: list[tuple[int, int | None]] = []
    run(server, Wishes({}, lambda done, total: told.append((done, total)), piece=4096))
    assert sent(server) == [(4096, 4096), (8192, 2048)]
    assert told == [(4096, 10240), (8192, 10240), (10240, 10240)]


def test_a_server_that_takes_nothing_in_is_not_asked_for_ever(run: Run, server: FakeServer) -> None:
    files = [{"name": "model.onnx", "size": 10240, "sha256": "0" * 64}]
    body = json.dumps({"id": "d", "model": "m", "files": files}).encode()
    server.alter(lambda _: body, path="/files/")
    with pytest.raises(ProtocolError, match="the server still has 0"):
        run(server, Wishes({}, piece=4096))
    server.alter(lambda _: b'{"id": "d", "model": "m"}', path="/files/")
    with pytest.raises(ProtocolError, match="no longer a file of it"):
        run(server, Wishes({}, piece=4096))


def test_an_empty_asset_is_a_file_too(server: FakeServer) -> None:
    with Client(server.url) as client:
        client.models.deploy("m", b"m", assets={"empty.txt": b""})
    assert server.registry.file("m", 1, "empty.txt") == b""


def test_what_is_wrong_with_the_files_is_told_before_anything_is_sent(
    either: Any, server: FakeServer, tmp_path: Path
) -> None:
    caller = either(server.url)
    models = caller.client.models
    for call, told in (
        (lambda: models.deploy("m", tmp_path / "no.onnx"), "no file or directory"),
        (lambda: models.deploy("m", tmp_path), "it is empty"),
        (lambda: models.deploy("a b", b"m"), "model name"),
        (lambda: models.deploy("m", b"m", alias="3"), "alias: "),
        (lambda: models.deploy("m", b"m", version=-1), "version: "),
        (lambda: models.deploy("m", b"m", note="n" * 1025), "note: "),
        (lambda: models.deploy("m", b"m", assets={"a/b": b""}), "file 'a/b'"),
        (lambda: models.import_(tmp_path), "no bundle.json"),
    ):
        with pytest.raises(InputError, match=told):
            caller.run(call())
    assert server.requests == []


def test_a_bar_tells_of_all_phases(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Client(server.url) as client:
        client.models.deploy("m", CONTENT, progress=True)
    for phase in ("reading", "sending", "verifying"):
        assert f"m: {phase}" in terminal.getvalue()


# Export and import


@pytest.fixture
def deployed(either: Any, server: FakeServer) -> Any:
    caller = either(server.url)
    given = {"metrics": {"accuracy": 0.9}, "note": "first", "lineage": {"parent": 2}}
    caller.run(caller.client.models.deploy("m", CONTENT, assets={"labels.txt": b"a"}, **given))
    return caller


def test_a_version_is_exported_byte_for_byte(deployed: Any, tmp_path: Path) -> None:
    place = deployed.run(deployed.client.models.export("m", tmp_path / "deep" / "m.bundle"))
    assert place == tmp_path / "deep" / "m.bundle"
    assert {one.name for one in place.iterdir()} == {"bundle.json", "labels.txt", "model.onnx"}
    assert (place / "model.onnx").read_bytes() == CONTENT
    told = json.loads((place / "bundle.json").read_bytes())
    assert (told["name"], told["version"], told["note"]) == ("m", 1, "first")
    assert told["metrics"] == {"accuracy": 0.9}
    assert [one.name for one in place.parent.iterdir()] == ["m.bundle"], "nothing is left beside it"


def test_what_was_exported_is_imported_with_the_same_digest(deployed: Any, tmp_path: Path) -> None:
    models = deployed.client.models
    place = deployed.run(models.export("m", tmp_path / "m.bundle", "latest"))
    same = deployed.run(models.import_(place))
    assert same.version == 1
    other = deployed.run(models.import_(place, "other", alias="canary", note="moved"))
    assert (other.model, other.digest, other.aliases) == ("other", same.digest, ["canary"])
    assert (other.metrics, other.note) == ({"accuracy": 0.9}, "moved")


def test_the_same_bundle_may_be_there_and_another_is_not_lost(
    deployed: Any, tmp_path: Path, server: FakeServer
) -> None:
    models, place = deployed.client.models, tmp_path / "m.bundle"
    place.mkdir()  # an empty directory is nothing that could be lost
    deployed.run(models.export("m", place))
    server.clear()
    deployed.run(models.export("m", place))
    assert len(server.requests) == 1, "no file was fetched"
    deployed.run(models.deploy("m", b"two"))
    with pytest.raises(InputError, match="with other files"):
        deployed.run(models.export("m", place))
    deployed.run(models.export("m", place, overwrite=True))
    assert (place / "model.onnx").read_bytes() == b"two"
    assert not (place / "labels.txt").exists()
    (place / "model.onnx").write_bytes(b"changed")
    with pytest.raises(InputError, match="its files were changed"):
        deployed.run(models.import_(place))


def test_what_is_no_bundle_is_never_overwritten(deployed: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_bytes(b"years")
    for place in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(InputError, match="no exported bundle"):
            deployed.run(deployed.client.models.export("m", place, overwrite=True))
    assert (tmp_path / "thesis.txt").read_bytes() == b"years"


def test_bytes_that_are_not_the_versions_are_refused_and_leave_nothing(
    deployed: Any, tmp_path: Path, server: FakeServer
) -> None:
    for change in (lambda body: body[:-1] + b"?", lambda body: body * 2):
        server.alter(change, path="/files/model.onnx", times=9)
        with pytest.raises((ProtocolError, APIConnectionError)):
            deployed.run(deployed.client.models.export("m", tmp_path / "out"))
        server.clear()
        assert list(tmp_path.iterdir()) == []


def test_a_download_that_breaks_off_begins_anew(
    deployed: Any, tmp_path: Path, server: FakeServer
) -> None:
    server.truncate(5000, path="/files/model.onnx", times=2)
    place = deployed.run(deployed.client.models.export("m", tmp_path / "out"))
    assert (place / "model.onnx").read_bytes() == CONTENT
    server.truncate(5000, path="/files/model.onnx", times=3)
    with pytest.raises(APIConnectionError):
        deployed.run(deployed.client.models.export("m", tmp_path / "other"))
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_a_server_names_no_files_outside(
    either: Any, wire: Any, steps: Any, tmp_path: Path
) -> None:
    files = [{"name": "a", "size": 0, "sha256": hashlib.sha256().hexdigest()}]
    for name, told in (("../evil", "String should match"), ("bundle.json", "must not call one")):
        files[0]["name"] = name
        text = f"{files[0]['sha256']}  {name}\n"
        digest = hashlib.sha256(text.encode()).hexdigest()
        version = {"model": "m", "version": 1, "digest": digest, "files": files}
        caller = either(wire(default=steps.answer(body=version)).url)
        with pytest.raises(ProtocolError, match=told):
            caller.run(caller.client.models.export("m", tmp_path / "out"))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"name": "m"}', '{"name": 1, "digest": "", "metrics": {}, "lineage": {}}'],
)
def test_what_says_nothing_of_a_bundle_is_not_imported(
    either: Any, server: FakeServer, tmp_path: Path, text: str
) -> None:
    caller = either(server.url)
    (tmp_path / "model.onnx").write_bytes(b"m")
    with pytest.raises(MissingFileError):
        caller.run(caller.client.models.import_(tmp_path))
    (tmp_path / "bundle.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"bundle\.json"):
        caller.run(caller.client.models.import_(tmp_path))


def test_more_than_an_answer_may_have_is_downloaded(server: FakeServer, tmp_path: Path) -> None:
    with Client(server.url, max_answer_bytes=5000) as client:
        client.models.deploy("m", CONTENT)
        place = client.models.export("m", tmp_path / "out")
    assert (place / "model.onnx").stat().st_size == len(CONTENT)
