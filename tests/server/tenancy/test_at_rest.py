"""Encryption at rest, seen from outside: nothing plain is on the disk, whatever the server does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from aiaas_server.state.artefacts.artefacts import open_artefacts
from aiaas_server.state.artefacts.data_keys import DataKeys
from aiaas_server.state.artefacts.master_keys import MasterKeys
from aiaas_server.state.artefacts.memory import place_of
from aiaas_server.state.database import Database
from aiaas_server.state.prepare import DataRefused
from aiaas_server.state.tables import JOBS
from aiaas_server.state.tenant_tables import DATA_KEYS
from tests.conftest import mlp
from tests.server.http.serving import AsgiCaller
from tests.server.plain_bytes import Known
from tests.server.workshop.test_whole_way import table

KEY = os.urandom(32).hex()
OpenSealed = Callable[..., Awaitable[AsgiCaller]]

pytestmark = pytest.mark.asyncio


class Sealed:
    """A data directory with a master key, and what is known to be in it."""

    def __init__(self, root: Path) -> None:
        self.data = root / "data"
        self.models = root / "models"
        self.models.mkdir()
        self.known = Known()

    def settings(self, **more: Any) -> Settings:
        given = {"master_key": KEY, "disk_reserve_bytes": 0, "models": self.models, **more}
        return Settings(data=self.data, **given)

    def check(self) -> None:
        """Nothing of what is known is on the disk, nor a key that would open it."""
        assert len(self.known)
        keys = Known(*self.data_keys(), bytes.fromhex(KEY), KEY.encode())
        for known in (self.known, keys):
            assert not known.found_below(self.data)

    def data_keys(self) -> list[bytes]:
        database = Database(f"sqlite:///{self.data / 'state.db'}")
        try:
            masters = MasterKeys.of(None, KEY)
            assert masters is not None
            rows = database.read_now(lambda c: c.execute(DATA_KEYS.select()).all())
            return [masters.unwrap(row.wrapped, row.master) for row in rows]
        finally:
            database.close()

    def artefact(self, digest: str) -> bytes:
        """The plain bytes of one that is there."""
        database = Database(f"sqlite:///{self.data / 'state.db'}")
        try:
            masters = MasterKeys.of(None, KEY)
            assert masters is not None
            artefacts = open_artefacts("", self.data, DataKeys(database, masters))
            return b"".join(artefacts.pieces("default", digest))
        finally:
            database.close()

    def checkpoint(self) -> dict[str, Any] | None:
        """Of the job that runs."""
        database = Database(f"sqlite:///{self.data / 'state.db'}")
        try:
            found: dict[str, Any] | None = database.read_now(
                lambda c: c.execute(JOBS.select()).one().checkpoint
            )
            return found
        finally:
            database.close()


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    return Sealed(tmp_path)


@pytest_asyncio.fixture
async def open_sealed(sealed: Sealed) -> AsyncIterator[OpenSealed]:
    async with AsyncExitStack() as stack:

        async def make(**more: Any) -> AsgiCaller:
            app = create_app(sealed.settings(**more))
            return AsgiCaller(await stack.enter_async_context(app))

        yield make


async def draft(call: AsgiCaller, path: str, file: str, content: bytes) -> str:
    """A draft of one file; gives where it is."""
    digest = hashlib.sha256(content).hexdigest()
    files = [{"name": file, "size": len(content), "sha256": digest}]
    made = await call("POST", f"{path}/drafts", {"files": files})
    assert made.status == 201, made.body
    return f"{path}/drafts/{made.json()['id']}"


async def bring(call: AsgiCaller, path: str, file: str, content: bytes) -> dict[str, Any]:
    where = await draft(call, path, file, content)
    sent = await call("PUT", f"{where}/files/{file}", content)
    assert sent.status == 200, sent.body
    done = await call("POST", f"{where}/commit")
    assert done.status == 201, done.body
    found: dict[str, Any] = done.json()
    return found


async def test_a_model_is_never_on_the_disk_in_plain(
    sealed: Sealed, open_sealed: OpenSealed
) -> None:
    """While it is sent, kept, verified, served, fetched and erased; and a restart finds it."""
    model = mlp(seed=7)
    sealed.known.add(model)
    call = await open_sealed()
    where = await draft(call, "/api/v1/models/digits", "model.onnx", model)
    half = len(model) // 2
    headers = {"content-range": f"bytes 0-{half - 1}/{len(model)}"}
    sent = await call("PUT", f"{where}/files/model.onnx?offset=0", model[:half], headers)
    assert sent.status == 200, sent.body
    (received,) = [file["received"] for file in (await call("GET", where)).json()["files"]]
    assert received == half
    sealed.check()
    rest = await call("PUT", f"{where}/files/model.onnx?offset={half}", model[half:])
    assert rest.status == 200, rest.body
    assert (await call("POST", f"{where}/commit")).status == 201
    sealed.check()
    image = np.zeros((1, 784), np.float32).tolist()
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 784], "data": image}
    answer = await call("POST", "/v2/models/digits/infer", {"inputs": [tensor]})
    assert answer.status == 200, answer.body
    sealed.check()
    got = await call("GET", "/api/v1/models/digits/versions/1/files/model.onnx")
    assert got.body == model
    gone = await call("DELETE", "/api/v1/models/digits?force=true")
    assert gone.json()["verified"] is True
    assert sealed.data_keys() == []
    sealed.check()


async def test_a_restart_opens_what_is_kept(sealed: Sealed) -> None:
    model = mlp(seed=8)
    sealed.known.add(model)
    async with create_app(sealed.settings()) as app:
        await bring(AsgiCaller(app), "/api/v1/models/digits", "model.onnx", model)
        assert sealed.known.found_below(place_of(sealed.data))  # what it is opened from
    assert not sealed.known.found_below(place_of(sealed.data))  # nothing is left behind
    sealed.check()
    async with create_app(sealed.settings()) as app:
        call = AsgiCaller(app)
        assert (await call("GET", "/v2/models/digits/ready")).status == 200


@pytest.mark.parametrize("plain", [False, True], ids=["sealed", "plain"])
async def test_an_upload_that_a_restart_broke_off_goes_on(sealed: Sealed, plain: bool) -> None:
    """Of what came before there was a master key nothing stays: it is sent anew."""
    model = mlp(seed=10)
    half = len(model) // 2
    first = sealed.settings(master_key=None) if plain else sealed.settings()
    async with create_app(first) as app:
        call = AsgiCaller(app)
        where = await draft(call, "/api/v1/models/digits", "model.onnx", model)
        sent = await call("PUT", f"{where}/files/model.onnx?offset=0", model[:half])
        assert sent.status == 200, sent.body
    sealed.known.add(model)
    async with create_app(sealed.settings()) as app:
        call = AsgiCaller(app)
        assert not sealed.known.found_below(sealed.data)
        (file,) = (await call("GET", where)).json()["files"]
        came = 0 if plain else half
        assert file["received"] == came
        sent = await call("PUT", f"{where}/files/model.onnx?offset={came}", model[came:])
        assert sent.status == 200, sent.body
        done = await call("POST", f"{where}/commit")
        assert done.status == 201, done.body
        got = await call("GET", "/api/v1/models/digits/versions/1/files/model.onnx")
        assert got.body == model
        sealed.check()


async def test_a_server_does_not_start_with_another_key_or_none(sealed: Sealed) -> None:
    async with create_app(sealed.settings()) as app:
        await bring(AsgiCaller(app), "/api/v1/models/digits", "model.onnx", mlp(seed=9))
    for key in (os.urandom(32).hex(), None):
        with pytest.raises(DataRefused, match="1 artefacts cannot be opened, such as default/"):
            create_app(sealed.settings(master_key=key))
    with pytest.raises(DataRefused, match="64 hexadecimal digits"):
        create_app(sealed.settings(master_key="secret"))


async def test_it_does_not_start_with_a_directory_on_a_disk(sealed: Sealed, tmp_path: Path) -> None:
    here = tmp_path / "memory"
    here.mkdir(mode=0o700)
    with pytest.raises(DataRefused, match="expected a directory in memory"):
        create_app(sealed.settings(memory_dir=here))


@pytest.mark.slow
async def test_rows_and_checkpoints_are_never_on_the_disk_in_plain(
    sealed: Sealed, open_sealed: OpenSealed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A data set's CSV and Parquet, a job's checkpoint while it runs, and what a client uploads."""
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    rows = table(20_000)
    sealed.known.add(rows)
    call = await open_sealed(jobs=1)
    await bring(call, "/api/v1/datasets/points", "rows.csv", rows)
    sealed.check()
    got = await call("GET", "/api/v1/datasets/points/versions/1/data")
    sealed.known.add(got.body)
    sealed.check()
    await upload_file(call, sealed)
    params = {"epochs": 500, "patience": 500}
    spec = {"kind": "train", "model": "sign", "dataset": "points", "recipe": "mlp-classifier"}
    asked = await call("POST", "/api/v1/jobs", {"spec": {**spec, "params": params}})
    assert asked.status == 202, asked.body
    job = f"/api/v1/jobs/{asked.json()['id']}"
    async with asyncio.timeout(300):
        while (checkpoint := await asyncio.to_thread(sealed.checkpoint)) is None:
            state = (await call("GET", job)).json()
            assert state["state"] in ("queued", "running"), state
            await asyncio.sleep(0.1)
    sealed.known.add(sealed.artefact(checkpoint["sha256"]))
    sealed.check()
    assert sealed.known.found_below(place_of(sealed.data))  # it works on something
    assert (await call("POST", f"{job}/cancel")).status in (200, 202)
    async with asyncio.timeout(300):
        await call("GET", f"{job}/events")
    sealed.check()
    model = mlp(seed=11)
    sealed.known.add(model)
    file = {"file:1/model.onnx": base64.b64encode(model).decode(), "config": "{}"}
    loaded = await call("POST", "/v2/repository/models/given/load", {"parameters": file})
    assert loaded.status == 200, loaded.body
    assert not sealed.known.found_below(elsewhere)
    assert (await call("DELETE", "/api/v1/datasets/points")).status == 200
    sealed.check()


async def upload_file(call: AsgiCaller, sealed: Sealed) -> None:
    lines = "\n".join(f'{{"custom_id": "{os.urandom(40).hex()}"}}' for _ in range(50)).encode()
    sealed.known.add(lines)
    parts = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f.jsonl"\r\n\r\n'
    )
    body = parts + lines + b"\r\n--b--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    made = await call("POST", "/v1/files", body, headers)
    assert made.status == 200, made.body
    sealed.check()
    got = await call("GET", f"/v1/files/{made.json()['id']}/content")
    assert got.body == lines
