"""The store: what is put is got back whole or not at all, in a directory and in S3."""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aiaas_server.core.errors import ServerError, StateUnavailable
from aiaas_server.state.artefacts.artefacts import Artefacts, Corrupt, open_artefacts
from aiaas_server.state.artefacts.stores import LocalStore, ObjectStore
from aiaas_server.state.database import Database
from tests.server.registry.conftest import OpenDeployment
from tests.server.registry.deploying import ME, deploy, in_pieces, request_for, send, sha

LARGE = os.urandom(1 << 20) * 20 + b"end"  # several parts and ranges


@pytest.fixture(scope="module")
def s3_server() -> Iterator[int]:
    """The port of a server that speaks S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def bucket(s3_server: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty place in it."""
    import boto3

    endpoint = f"http://127.0.0.1:{s3_server}"
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{time.monotonic_ns()}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}/models"


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def artefacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artefacts:
    url = request.getfixturevalue("bucket") if request.param == "s3" else ""
    return open_artefacts(url, tmp_path / "data")


def put(artefacts: Artefacts, content: bytes, tmp_path: Path) -> str:
    path = tmp_path / "part"
    path.write_bytes(content)
    artefacts.put("t", sha(content), path)
    assert not path.exists()
    return sha(content)


@pytest.mark.parametrize("content", [b"", b"x", LARGE], ids=["empty", "small", "large"])
def test_what_is_put_is_got(content: bytes, artefacts: Artefacts, tmp_path: Path) -> None:
    digest = put(artefacts, content, tmp_path)
    assert put(artefacts, content, tmp_path) == digest  # twice is once
    assert artefacts.size("t", digest) == len(content)
    artefacts.get("t", digest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert list(artefacts.sizes()) == [("t", digest, len(content))]
    assert artefacts.size("u", digest) is None


def test_what_is_deleted_is_gone(artefacts: Artefacts, tmp_path: Path) -> None:
    digest = put(artefacts, b"x", tmp_path)
    artefacts.delete("t", digest)
    artefacts.delete("t", digest)
    assert artefacts.size("t", digest) is None
    assert list(artefacts.sizes()) == []
    with pytest.raises(Corrupt, match="is missing in the store"):
        artefacts.get("t", digest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_damaged_bytes_are_never_handed_out_whole(artefacts: Artefacts, tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(LARGE[:-1] + b"!")
    artefacts.put("t", sha(LARGE), path)
    with pytest.raises(Corrupt, match="is damaged: its bytes have digest") as caught:
        artefacts.get("t", sha(LARGE), tmp_path / "copy")
    assert (caught.value.tenant, caught.value.digest) == ("t", sha(LARGE))
    assert not (tmp_path / "copy").exists()
    came = b""
    with pytest.raises(Corrupt):
        for piece in artefacts.pieces("t", sha(LARGE)):
            came += piece
    assert len(came) < len(LARGE)


@pytest.mark.parametrize("tenant", ["", ".", "..", "../x", "a/b", "-", "x" * 65, "ä", "a\n"])
def test_no_tenant_leads_out_of_the_store(tenant: str, tmp_path: Path) -> None:
    artefacts = open_artefacts("", tmp_path)
    with pytest.raises(ValueError, match="no artefact can be named"):
        artefacts.size(tenant, "0" * 64)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "../" + "0" * 61, "G" * 64, "A" * 64])
def test_no_digest_leads_out_of_the_store(digest: str, tmp_path: Path) -> None:
    artefacts = open_artefacts("", tmp_path)
    with pytest.raises(ValueError, match="no artefact can be named"):
        artefacts.size("t", digest)


@pytest.mark.parametrize("url", ["gs://b/p", "s3://", "s3:///p", "s3://B_/p", "/tmp/x", "s3://b/ä"])
def test_a_url_of_another_kind_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected s3://bucket/prefix"):
        open_artefacts(url, tmp_path)


def test_what_a_dead_writer_left_is_removed_and_a_living_one_goes_on(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / "t" / "aa").mkdir(parents=True)
    dead, alive = tmp_path / "t" / "aa" / ".dead", tmp_path / "t" / "aa" / ".alive"
    dead.write_bytes(b"x")
    with alive.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert store.clean() == 1
        assert (dead.exists(), alive.exists()) == (False, True)
    assert list(store.sizes()) == []


def test_a_directory_on_another_file_system_is_copied_to(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    part = elsewhere / f"aiaas-test-{os.getpid()}"
    part.write_bytes(LARGE)
    artefacts = open_artefacts("", tmp_path)
    artefacts.put("t", sha(LARGE), part)
    assert not part.exists()
    assert b"".join(artefacts.pieces("t", sha(LARGE))) == LARGE


def test_a_directory_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    artefacts = open_artefacts("", tmp_path)
    (tmp_path / "artefacts" / "t").write_bytes(b"a file where a directory should be")
    part = tmp_path / "part"
    part.write_bytes(b"x")
    with pytest.raises(StateUnavailable, match="directory of artefacts cannot be used"):
        artefacts.put("t", sha(b"x"), part)


# S3


@contextmanager
def proxy(port: int) -> Iterator[Any]:
    """A TCP proxy in front of a port; `stall()` lets nothing through, `refuse()` cuts all."""
    listener = socket.create_server(("127.0.0.1", 0))
    flowing = threading.Event()
    flowing.set()
    cutting = threading.Event()
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(1 << 16):
                while not flowing.wait(0.05):
                    if stopped.is_set():
                        return
                sink.sendall(piece)
        except OSError:
            pass
        finally:
            for side in (source, sink):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            if cutting.is_set():
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", port))
            opened.extend((near, far))
            for pair in ((near, far), (far, near)):
                thread = threading.Thread(target=pump, args=pair)
                thread.start()
                threads.append(thread)

    class Proxy:
        port = listener.getsockname()[1]

        def stall(self) -> None:
            flowing.clear()

        def refuse(self) -> None:
            cutting.set()
            for side in opened:
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    stopped = threading.Event()
    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield Proxy()
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for side in opened:
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for side in opened:
            side.close()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stall", "refuse"])
def test_a_store_that_does_not_answer_is_told_and_hangs_nobody(
    fault: str, bucket: str, s3_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(Artefacts(ObjectStore(bucket)), LARGE, tmp_path)
    with proxy(s3_server) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{between.port}")
        artefacts = Artefacts(ObjectStore(bucket, timeout=0.5))
        getattr(between, fault)()
        part = tmp_path / "part"
        part.write_bytes(b"other")
        calls = {
            "size": lambda: artefacts.size("t", digest),
            "get": lambda: artefacts.get("t", digest, tmp_path / "copy"),
            "put": lambda: artefacts.put("t", sha(b"other"), part),
            "delete": lambda: artefacts.delete("t", digest),
            "list": lambda: list(artefacts.sizes()),
        }
        for name, call in calls.items():
            with pytest.raises(StateUnavailable, match="does not answer; try again"):
                call()
                pytest.fail(name)
        assert part.exists()  # to be sent again


@pytest.mark.slow
async def test_a_model_lives_in_s3(
    bucket: str, open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    given = {"settings": {"disk_reserve_bytes": 0, "artefacts_url": bucket}}
    deployment = open_here(**given)
    files = {"model.onnx": LARGE, "labels.txt": b"a\n"}
    done = await deploy(deployment, "m", files)
    other = open_here(**given)
    other.cache.drop(ME.tenant, done.version.digest)
    place = other.cache.materialise(done.version, ME.tenant)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == files
    erasure = await deployment.eraser.erase_model(ME, "m", force=True)
    assert (len(erasure.artefacts), erasure.verified) == (2, True)
    assert list(deployment.artefacts.sizes()) == []
    assert not place.exists()


@pytest.mark.slow
async def test_an_upload_waits_on_disk_while_s3_is_away(
    bucket: str,
    s3_server: int,
    database: Database,
    open_here: OpenDeployment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with proxy(s3_server) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{between.port}")
        away = open_here(artefacts=Artefacts(ObjectStore(bucket, timeout=0.5)))
        between.stall()
        draft, _ = await away.drafts.create(ME, "m", request_for({"model.onnx": LARGE}))
        with pytest.raises(StateUnavailable):
            await away.drafts.receive(ME, "m", draft.id, "model.onnx", in_pieces(LARGE), offset=0)
        draft = await away.drafts.get(ME, "m", draft.id)
        assert (draft.files[0].received, draft.files[0].complete) == (len(LARGE), False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_server}")
    there = open_here(artefacts=Artefacts(ObjectStore(bucket)))
    draft = await send(there, draft, {"model.onnx": LARGE})  # nothing but the end of it
    assert draft.missing == []
    assert (await there.commits.commit(ME, "m", draft.id)).created


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_told(bucket: str, tmp_path: Path) -> None:
    artefacts = open_artefacts("s3://no-such-bucket/x", tmp_path)
    part = tmp_path / "part"
    part.write_bytes(b"x")
    with pytest.raises(ServerError):
        artefacts.put("t", sha(b"x"), part)


@pytest.mark.slow
def test_large_artefacts_take_little_memory(tmp_path: Path) -> None:
    """300 MiB pass both ways; the peak of this process grows by far less."""
    part, piece, hashed = tmp_path / "part", os.urandom(1 << 20), hashlib.sha256()
    with part.open("wb") as file:
        for _ in range(300):
            file.write(piece)
            hashed.update(piece)
    artefacts = open_artefacts("", tmp_path / "data")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    artefacts.put("t", hashed.hexdigest(), part)
    artefacts.get("t", hashed.hexdigest(), tmp_path / "copy")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 << 10  # KiB
