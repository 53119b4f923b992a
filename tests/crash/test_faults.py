"""What goes wrong around a server process, and that it serves on meanwhile and recovers after."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import scale
from tests.crash.nursery import Nursery
from tests.crash.server import Answer, Lost, Server
from tests.postgres import Postgres, why_not
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

MODELS = "/api/v1/models"
JSON = {"Content-Type": "application/json"}
INFER = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}

Start = Callable[..., Server]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Of all servers of this module."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def start(nursery: Nursery, tmp_path: Path) -> Iterator[Start]:
    """`start("--option", …, name="one", data=…, setting="value")`."""
    with ExitStack() as stack:

        def make(
            *options: str, name: str = "one", data: Path | None = None, **settings: str
        ) -> Server:
            environment = {f"AIAAS_SERVER_{key.upper()}": text for key, text in settings.items()}
            place = tmp_path / name
            server = Server(nursery, place, data or tmp_path / "data", environment, options)
            stack.callback(server.kill)
            server.start()
            return server

        yield make


def begin(server: Server, name: str, content: bytes) -> str:
    """Open a draft of a model file; gives its path."""
    digest = hashlib.sha256(content).hexdigest()
    entry = {"name": "model.onnx", "size": len(content), "sha256": digest}
    made = server.ask("POST", f"{MODELS}/{name}/drafts", {"files": [entry]})
    assert made.status in (200, 201), made
    return f"{MODELS}/{name}/drafts/{made.body['id']}"


def deploy(server: Server, name: str, content: bytes) -> Answer:
    """Bring a version."""
    draft = begin(server, name, content)
    sent = server.ask("PUT", f"{draft}/files/model.onnx", content)
    if sent.status != 200:
        return sent
    return server.ask("POST", f"{draft}/commit")


def promote(server: Server, name: str, number: int) -> Answer:
    """All calls get this version."""
    return server.ask("PUT", f"{MODELS}/{name}/aliases/production", {"version": number})


def version(server: Server, name: str = "m") -> str:
    """Which version answers, checked by what it computes."""
    answer = server.ask("POST", f"/v2/models/{name}/infer", INFER)
    assert answer.status == 200, answer
    told: str = answer.body["model_version"]
    assert answer.body["outputs"][0]["data"] == [float(told)] * 4
    return told


def bring(server: Server, name: str, *factors: float) -> None:
    """Versions that each multiply by their number."""
    for factor in factors:
        answer = deploy(server, name, scale(factor))
        assert answer.status == 201, answer


def states(server: Server, name: str = "m") -> dict[int, str]:
    """Of all versions."""
    page = server.ask("GET", f"{MODELS}/{name}/versions").body
    return {one["version"]: one["state"] for one in page["items"]}


def stored(data: Path, content: bytes) -> Path:
    """Where the store has bytes."""
    digest = hashlib.sha256(content).hexdigest()
    return data / "artefacts" / "default" / digest[:2] / digest


def damage(path: Path) -> None:
    """Turn one byte over, in the file and all its links."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 0xFF]))


# The disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("reserve", [0, 1 << 20])
def test_on_a_full_disk_it_serves_on_and_writes_again_once_there_is_room(
    reserve: int, small_disk: Path, start: Start
) -> None:
    server = start(data=small_disk / "data", disk_reserve_bytes=str(reserve))
    bring(server, "m", 1.0, 2.0)
    before = begin(server, "m", scale(3.0))
    filler = small_disk / "filler"
    with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    entry = {"name": "model.onnx", "size": 8 << 20, "sha256": "0" * 64}
    refused = server.ask("POST", f"{MODELS}/n/drafts", {"files": [entry]})
    assert (refused.status, refused.body["code"]) == (507, "storage_full"), refused
    refused = server.ask("PUT", f"{before}/files/model.onnx", scale(3.0))
    if reserve:
        assert refused.status == 507
        assert promote(server, "m", 1).status == 507
    assert refused.status in (200, 507)
    assert version(server) in ("1", "2")
    assert server.ask("GET", f"{MODELS}/m/history").status == 200
    filler.unlink()
    assert deploy(server, "m", scale(3.0)).status == 201
    assert promote(server, "m", 3).status == 200
    assert version(server) == "3"
    assert states(server) == dict.fromkeys((1, 2, 3), "verified")
    assert server.stop() == 0


# The database


def test_a_database_that_somebody_locks_holds_up_writes_alone(start: Start, tmp_path: Path) -> None:
    server = start()
    bring(server, "m", 1.0, 2.0)
    with closing(sqlite3.connect(tmp_path / "data" / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = promote(server, "m", 1)
        assert (refused.status, refused.body["code"]) == (503, "state_unavailable"), refused
        assert version(server) == "2"
        assert server.ask("GET", f"{MODELS}/m").body["serving"]["aliases"] == {}
        other.execute("ROLLBACK")
    assert promote(server, "m", 1).status == 200
    assert version(server) == "1"


def test_while_the_database_is_away_what_is_loaded_serves(start: Start) -> None:
    if reason := why_not():
        pytest.skip(reason)
    postgres = Postgres()
    try:
        server = start(database_url=postgres.make_database())
        bring(server, "m", 1.0, 2.0)
        draft = begin(server, "m", scale(3.0))
        postgres.stop()
        asked: list[tuple[str, str, Any]] = [
            ("PUT", f"{MODELS}/m/aliases/production", {"version": 1}),
            ("PATCH", f"{MODELS}/m/traffic", {"split": {"1": 1.0}}),
            ("POST", f"{MODELS}/m/rollback", {}),
            ("DELETE", f"{MODELS}/m/versions/1", None),
            ("DELETE", f"{MODELS}/m?force=true", None),
            ("PUT", f"{draft}/files/model.onnx", scale(3.0)),
            ("POST", f"{draft}/commit", None),
            ("GET", f"{MODELS}/m", None),
            ("GET", f"{MODELS}/m/history", None),
            ("GET", MODELS, None),
            ("GET", f"{MODELS}/m/versions/1/files/model.onnx", None),
            ("GET", f"{MODELS}/m/monitoring", None),
        ]
        for method, path, body in asked:
            refused = server.ask(method, path, body)
            assert refused.status == 503, (method, path, refused)
            assert refused.body["retryable"]
            assert version(server) == "2"
        assert server.ask("GET", "/v2/health/ready").status == 200
        postgres.start()
        wait_until(lambda: promote(server, "m", 1).status == 200)
        assert version(server) == "1"
        assert deploy(server, "m", scale(3.0)).status == 201
        assert server.stop() == 0
    finally:
        postgres.remove()


# Bytes


def test_what_is_damaged_is_corrupt_and_the_rest_untouched(start: Start, tmp_path: Path) -> None:
    server, data = start(), tmp_path / "data"
    bring(server, "m", 1.0, 2.0, 3.0)
    bring(server, "n", 1.0)
    assert promote(server, "m", 1).status == 200
    damage(stored(data, scale(2.0)))
    refused = promote(server, "m", 2)  # while it runs, at the next load
    assert refused.status in (409, 422), refused
    assert "damaged" in refused.body["error"]
    assert states(server) == {1: "verified", 2: "corrupt", 3: "verified"}
    assert version(server) == "1"
    assert "alert: corrupt raised for version 2 of model 'm'" in server.output()
    again = promote(server, "m", 2)
    assert (again.status, "corrupt" in again.body["error"]) == (409, True)
    assert server.stop() == 0
    damage(stored(data, scale(3.0)))
    assert promote_after(server, 1)
    assert server.stop() == 0
    server.start()
    assert promote(server, "m", 3).status in (409, 422)
    assert states(server) == {1: "verified", 2: "corrupt", 3: "corrupt"}
    history = server.ask("GET", f"{MODELS}/m/history?limit=20").body["items"]
    told = [(entry["kind"], entry["version"]) for entry in history]
    assert told[0] == ("damaged", 3)
    assert ("damaged", 2) in told
    assert states(server, "n") == {1: "verified"}
    assert version(server, "n") == "1"
    assert deploy(server, "m", scale(2.0)).status == 200  # the same bytes again
    assert states(server)[2] == "verified"
    assert promote(server, "m", 2).status == 200
    assert version(server) == "2"


def promote_after(server: Server, number: int) -> bool:
    """Whether a server that is started anew serves a version."""
    server.start()
    return version(server) == str(number)


def test_what_serves_is_damaged_while_the_server_is_down(start: Start, tmp_path: Path) -> None:
    """Calls that name no version are refused, never answered by a version nobody chose."""
    server, data = start(), tmp_path / "data"
    bring(server, "m", 1.0, 2.0, 3.0)
    bring(server, "n", 1.0)
    assert promote(server, "m", 2).status == 200
    assert server.stop() == 0
    damage(stored(data, scale(2.0)))
    server.start()
    assert states(server) == {1: "verified", 2: "corrupt", 3: "verified"}
    answer = server.ask("POST", "/v2/models/m/infer", INFER)
    assert answer.status in (404, 503), answer
    assert version(server, "n") == "1"
    assert promote(server, "m", 3).status == 200
    assert version(server) == "3"


def test_the_cache_may_be_removed_at_any_time(start: Start, tmp_path: Path) -> None:
    server, data = start(), tmp_path / "data"
    bring(server, "m", 1.0, 2.0)
    shutil.rmtree(data / "cache")
    for number in (1, 2, 1):
        assert promote(server, "m", number).status == 200
        assert version(server) == str(number)
    shutil.rmtree(data / "cache")
    bring(server, "m", 3.0)
    assert version(server) == "1"
    assert server.stop() == 0
    shutil.rmtree(data / "cache")
    server.start()
    assert version(server) == "1"
    assert states(server) == dict.fromkeys((1, 2, 3), "verified")


# Many at once


def test_many_deploy_at_once(start: Start) -> None:
    server = start(verify_timeout="600")
    with ThreadPoolExecutor(20) as threads:
        same = list(threads.map(lambda _: deploy(server, "same", scale(1.0)), range(20)))
        other = list(threads.map(lambda n: deploy(server, "m", scale(float(n))), range(1, 9)))
    accepted = [answer for answer in same if answer.status in (200, 201)]
    # A draft that another one's commit has ended is gone; who asks again finds the version.
    assert {answer.status for answer in same} <= {200, 201, 404, 409}, same
    assert {answer.body["version"] for answer in accepted} == {1}
    assert sum(answer.status == 201 for answer in same) >= 1
    assert deploy(server, "same", scale(1.0)).status == 200
    assert states(server, "same") == {1: "verified"}
    assert [answer.status for answer in other] == [201] * 8, other
    assert len({answer.body["version"] for answer in other}) == 8


def test_many_watch_and_one_reads_nothing(start: Start) -> None:
    server = start(max_connections_per_address="200", drain_timeout="20")
    bring(server, "m", 1.0, 2.0)
    host, port = server.url.removeprefix("http://").split(":")
    watchers: list[socket.socket] = []
    try:
        for _ in range(100):
            watcher = socket.create_connection((host, int(port)), timeout=60)
            watchers.append(watcher)
            watcher.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: a\r\n\r\n")
        for watcher in watchers[1:]:
            received(watcher, b": changes")
        for number in (1, 2) * 5:
            assert promote(server, "m", number).status == 200
        for watcher in watchers[1:]:
            received(watcher, b'"version":2')
        assert server.stop() == 0
    finally:
        for watcher in watchers:
            watcher.close()


def received(connection: socket.socket, text: bytes) -> bytes:
    """Read until a text has come."""
    held = b""
    while text not in held:
        piece = connection.recv(65536)
        assert piece, f"{text!r} has not come: {held!r}"
        held += piece
    return held


# Ending


def test_it_ends_in_order_whatever_is_under_way(start: Start, tmp_path: Path) -> None:
    server, data = start(drain_timeout="10"), tmp_path / "data"
    bring(server, "m", 1.0)
    host, port = server.url.removeprefix("http://").split(":")
    content = scale(2.0)
    draft = begin(server, "m", content)
    assert server.ask("PUT", f"{draft}/files/model.onnx", content).status == 200
    half = begin(server, "m", scale(3.0))
    outcome: list[Answer | None] = []

    def commit() -> None:
        try:
            outcome.append(server.ask("POST", f"{draft}/commit"))
        except Lost:
            outcome.append(None)

    with ExitStack() as stack:
        watcher, upload = (
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            for _ in range(2)
        )
        watcher.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: a\r\n\r\n")
        received(watcher, b": changes")
        size = len(scale(3.0))
        head = f"PUT {half}/files/model.onnx HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
        upload.sendall(head.encode() + scale(3.0)[:50])
        committing = threading.Thread(target=commit)
        committing.start()
        wait_until(lambda: any((data / "cache" / "default").glob(".*")), "it verifies")
        assert server.stop() == 0, server.output()
        committing.join()
    server.start()
    made = outcome[0] is not None and outcome[0].status == 201
    assert states(server) == ({1: "verified", 2: "verified"} if made else {1: "verified"})
    if not made:
        assert deploy(server, "m", content).status == 201
    found = server.ask("GET", half)
    assert found.status == 200
    sent = found.body["files"][0]["received"]
    rest = server.ask("PUT", f"{half}/files/model.onnx?offset={sent}", scale(3.0)[sent:])
    assert rest.status == 200
    assert rest.body["files"][0]["complete"]
    assert server.ask("POST", f"{half}/commit").status == 201
    assert version(server) == "3"
