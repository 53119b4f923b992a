"""System shared memory: registered, read, written and refused as the protocol says."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.inference import SharedMemory
from aiaas_client.protocol.tensors import pack_bytes
from aiaas_server.http.oip.regions import Regions

SYSTEM = "/v2/systemsharedmemory"
CUDA = "/v2/cudasharedmemory"
SIZE = 64

MakeObject = Callable[..., shared_memory.SharedMemory]


@pytest.fixture
def make_object() -> Iterator[MakeObject]:
    """Makes a shared-memory object: zeros, or the bytes given; removed afterwards."""
    made: list[shared_memory.SharedMemory] = []

    def make(content: bytes = bytes(SIZE)) -> shared_memory.SharedMemory:
        # The system may round the size up; what lies on it is exactly as long as asked for.
        memory = shared_memory.SharedMemory(f"aiaas-{uuid.uuid4().hex}", True, len(content))
        memory.buf[: len(content)] = content
        made.append(memory)
        return memory

    yield make
    for memory in made:
        memory.close()
        memory.unlink()


@pytest.fixture
def models(make_repository: Any, onnx_models: SimpleNamespace) -> Path:
    """Models of numbers, of texts and of booleans."""
    repository: Path = make_repository(
        {
            "add": onnx_models.add(),
            "texts": onnx_models.identity("BYTES"),
            "flags": onnx_models.identity("BOOL"),
        }
    )
    return repository


@pytest.fixture(params=["bare", "lane"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Both ways to the one function that answers."""
    return request.param


@pytest.fixture
def opened(open_app: Any, models: Path) -> Any:
    """An application on which shared memory is on."""

    async def make(**settings: Any) -> Any:
        return await open_app(models, shared_memory=True, **settings)

    return make


async def register(call: Any, name: str, memory: Any, **more: Any) -> Any:
    body = {"key": memory.name, "offset": 0, "byte_size": SIZE} | more
    return await call("POST", f"{SYSTEM}/region/{name}/register", body)


def placed(name: str, datatype: str, shape: list[int], size: int, **more: Any) -> dict[str, Any]:
    """An input of a request that lies in region `r`."""
    place = {"shared_memory_region": "r", "shared_memory_byte_size": size} | more
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": place}


def output(name: str, size: int, **more: Any) -> dict[str, Any]:
    place = {"shared_memory_region": "r", "shared_memory_byte_size": size} | more
    return {"name": name, "parameters": place}


A = np.arange(4, dtype=np.float32)
FOUR = [1.0, 1.0, 1.0, 1.0]
B = {"name": "b", "datatype": "FP32", "shape": [1, 4], "data": FOUR}
INFER = "/v2/models/add/infer"


async def test_inputs_come_from_a_region_and_outputs_go_to_it(
    opened: Any, make_object: MakeObject
) -> None:
    call, memory = await opened(), make_object()
    memory.buf[8:24] = A.tobytes()
    assert (await register(call, "r", memory)).status == 200
    request = {
        "id": "7",
        "inputs": [placed("a", "FP32", [1, 4], 16, shared_memory_offset=8), B],
        "outputs": [output("sum", 16, shared_memory_offset=32, binary_data=False)],
    }
    for _ in range(2):
        answer = await call("POST", INFER, request)
        assert answer.status == 200, answer.body
        assert answer.json() == {
            "id": "7",
            "model_name": "add",
            "model_version": "1",
            "outputs": [{"name": "sum", "datatype": "FP32", "shape": [1, 4]}],
        }
        assert np.array_equal(np.frombuffer(memory.buf[32:48], np.float32), A + 1)
        memory.buf[32:48] = bytes(16)


async def test_the_offset_of_a_region_counts_from_the_start_of_the_object(
    opened: Any, make_object: MakeObject
) -> None:
    call, memory = await opened(), make_object()
    memory.buf[13:29] = A.tobytes()
    assert (await register(call, "r", memory, offset=5, byte_size=40)).status == 200
    inputs = [placed("a", "FP32", [1, 4], 16, shared_memory_offset=8), B]
    answer = await call("POST", INFER, {"inputs": inputs})
    assert answer.json()["outputs"][0]["data"] == (A + 1).tolist()


async def test_texts_lie_in_a_region_as_on_the_wire(opened: Any, make_object: MakeObject) -> None:
    texts = np.array([["a", "é", ""]], dtype=object)
    content = pack_bytes(texts)
    call, memory = await opened(), make_object()
    memory.buf[: len(content)] = content
    assert (await register(call, "r", memory)).status == 200
    request = {
        "inputs": [placed("x", "BYTES", [1, 3], len(content))],
        "outputs": [output("y", 32, shared_memory_offset=32)],
    }
    answer = await call("POST", "/v2/models/texts/infer", request)
    assert answer.status == 200, answer.body
    assert bytes(memory.buf[32 : 32 + len(content)]) == content


async def test_an_ordinary_request_of_the_same_outputs_still_gets_its_data(
    opened: Any, make_object: MakeObject
) -> None:
    call, memory = await opened(), make_object()
    assert (await register(call, "r", memory)).status == 200
    a = {**B, "name": "a"}
    in_binary = {"binary_data_output": True}
    plain = {"inputs": [a, B], "outputs": [{"name": "sum"}], "parameters": in_binary}
    shared = {**plain, "outputs": [output("sum", 16)]}
    for request, described in ((plain, 1), (shared, 0), (plain, 1), (shared, 0)):
        answer = await call("POST", INFER, request)
        assert answer.status == 200
        assert ("inference-header-content-length" in answer.headers) == bool(described)


async def test_status_lists_what_is_registered_and_unregister_forgets(
    opened: Any, make_object: MakeObject
) -> None:
    call, memory = await opened(), make_object()
    key = "/" + memory.name
    assert (await register(call, "one", memory, key=key, offset=4, byte_size=8)).status == 200
    assert (await register(call, "two", memory)).status == 200
    one = {"name": "one", "key": key, "offset": 4, "byte_size": 8}
    two = {"name": "two", "key": memory.name, "offset": 0, "byte_size": SIZE}
    assert (await call("GET", f"{SYSTEM}/status")).json() == [one, two]
    assert (await call("GET", f"{SYSTEM}/region/one/status")).json() == [one]
    for _ in range(2):  # also when it is not known
        assert (await call("POST", f"{SYSTEM}/region/one/unregister")).status == 200
        assert (await call("GET", f"{SYSTEM}/status")).json() == [two]
        assert (await call("GET", f"{SYSTEM}/region/one/status")).status == 404
    assert (await call("POST", f"{SYSTEM}/unregister")).status == 200
    assert (await call("GET", f"{SYSTEM}/status")).json() == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"byte_size": SIZE * 1024}, id="larger than the object"),
        pytest.param({"offset": SIZE * 1024}, id="offset behind the object"),
        pytest.param({"byte_size": 0}, id="nothing"),
        pytest.param({"byte_size": -1}, id="negative"),
        pytest.param({"byte_size": 2**63}, id="beyond 64 bits"),
        pytest.param({"byte_size": True}, id="boolean size"),
        pytest.param({"byte_size": "64"}, id="size as text"),
        pytest.param({"offset": 1.5}, id="fractional offset"),
        pytest.param({"key": None}, id="no key"),
        pytest.param({"key": 5}, id="key as number"),
        pytest.param({"key": ""}, id="empty key"),
        pytest.param({"key": "/"}, id="only a slash"),
        pytest.param({"key": "//x"}, id="two slashes"),
        pytest.param({"key": "a/b"}, id="slash inside"),
        pytest.param({"key": ".."}, id="parent"),
        pytest.param({"key": "a..b"}, id="two dots"),
        pytest.param({"key": "."}, id="the directory"),
        pytest.param({"key": "a\x00b"}, id="zero byte"),
        pytest.param({"key": "x" * 256}, id="too long"),
        pytest.param({"key": "triton_python_backend_shm_region_1"}, id="reserved"),
        pytest.param({"key": "/triton_python_backend_shm_region_1"}, id="reserved with slash"),
        pytest.param({"key": "aiaas-there-is-no-such-object"}, id="no such object"),
    ],
)
async def test_a_region_that_cannot_be_is_refused(
    opened: Any, make_object: MakeObject, change: dict[str, Any]
) -> None:
    call, memory = await opened(), make_object()
    answer = await register(call, "r", memory, **change)
    assert answer.status == 400, answer.body
    assert answer.json()["code"] == "invalid_request"
    assert (await call("GET", f"{SYSTEM}/status")).json() == []


async def test_a_name_is_registered_once(opened: Any, make_object: MakeObject) -> None:
    call, memory = await opened(), make_object()
    assert (await register(call, "r", memory)).status == 200
    answer = await register(call, "r", memory, byte_size=8)
    assert answer.status == 400
    assert "already registered" in answer.json()["error"]


async def test_a_link_to_a_file_elsewhere_is_no_shared_memory(opened: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(SIZE))
    link = Path("/dev/shm") / f"aiaas-{uuid.uuid4().hex}"
    link.symlink_to(secret)
    try:
        answer = await register(await opened(), "r", SimpleNamespace(name=link.name))
        assert answer.status == 400
    finally:
        link.unlink()


GOOD = placed("a", "FP32", [1, 4], 16)


@pytest.mark.parametrize(
    ("inputs", "outputs", "status"),
    [
        pytest.param(
            [placed("a", "FP32", [1, 4], 16, shared_memory_region="s"), B], [], 404, id="unknown"
        ),
        pytest.param(
            [GOOD, B], [output("sum", 16, shared_memory_region="s")], 404, id="unknown output"
        ),
        pytest.param(
            [placed("a", "FP32", [1, 4], 16, shared_memory_offset=SIZE), B], [], 400, id="offset"
        ),
        pytest.param(
            [placed("a", "FP32", [1, 4], 16, shared_memory_offset=SIZE - 8), B], [], 400, id="end"
        ),
        pytest.param(
            [placed("a", "FP32", [1, 4], 2**62, shared_memory_offset=2**62), B], [], 413, id="huge"
        ),
        pytest.param([placed("a", "FP32", [1, 4], 20), B], [], 400, id="more than the shape"),
        pytest.param([placed("a", "FP32", [1, 4], 12), B], [], 400, id="less than the shape"),
        pytest.param(
            [{**GOOD, "data": FOUR}, B], [], 400, id="data too"
        ),
        pytest.param(
            [placed("a", "FP32", [1, 4], 16, binary_data_size=16), B], [], 400, id="binary too"
        ),
        pytest.param(
            [placed("a", "FP32", [1, 4], 16, shared_memory_offset=-1), B], [], 400, id="negative"
        ),
        pytest.param([GOOD, B], [output("sum", 15)], 400, id="output does not fit"),
        pytest.param(
            [GOOD, B], [output("sum", 16, shared_memory_offset=56)], 400, id="output end"
        ),
        pytest.param([GOOD, B], [output("sum", 16, binary_data=True)], 400, id="output binary"),
        pytest.param([GOOD, B], [output("sum", 16, classification=2)], 400, id="classification"),
    ],
)  # fmt: skip
async def test_a_tensor_outside_of_its_region_is_refused(
    opened: Any, make_object: MakeObject, inputs: Any, outputs: Any, status: int
) -> None:
    call, memory = await opened(), make_object()
    assert (await register(call, "r", memory)).status == 200
    answer = await call("POST", INFER, {"inputs": inputs, "outputs": outputs})
    assert answer.status == status, answer.body
    assert bytes(memory.buf[:SIZE]) == bytes(SIZE)


async def test_values_in_a_region_are_checked_like_those_on_the_wire(
    opened: Any, make_object: MakeObject
) -> None:
    call, memory = await opened(), make_object(b"\x02" * SIZE)
    assert (await register(call, "r", memory)).status == 200
    for model, datatype in (("flags", "BOOL"), ("texts", "BYTES")):
        request = {"inputs": [placed("x", datatype, [1, 4], 4)]}
        answer = await call("POST", f"/v2/models/{model}/infer", request)
        assert answer.status == 400, answer.body


async def test_an_object_that_shrinks_is_an_error_and_not_the_end(
    opened: Any, make_object: MakeObject
) -> None:
    call, memory = await opened(), make_object(bytes(8192))
    assert (await register(call, "r", memory, byte_size=8192)).status == 200
    path = Path("/dev/shm") / memory.name
    os.truncate(path, 4)
    inputs = [placed("a", "FP32", [1, 4], 16, shared_memory_offset=4096), B]
    assert (await call("POST", INFER, {"inputs": inputs})).status == 400
    there = output("sum", 16, shared_memory_offset=4096)
    request = {"inputs": [{**B, "name": "a"}, B], "outputs": [there]}
    assert (await call("POST", INFER, request)).status == 400
    assert path.stat().st_size == 4
    os.truncate(path, 8192)


def test_a_region_in_use_outlives_its_registration(make_object: MakeObject) -> None:
    memory = make_object()
    regions = Regions()
    before = open_files(memory.name)
    regions.register("r", key=memory.name, offset=0, byte_size=SIZE)
    held = regions.find("r")
    regions.unregister("r")
    held.write(SharedMemory("r", 4), b"kept")
    assert bytes(memory.buf[:4]) == b"kept"
    assert open_files(memory.name) == before + 1
    del held
    assert open_files(memory.name) == before


def open_files(name: str) -> int:
    """How often this process has a shared-memory object open."""
    links = list(Path("/proc/self/fd").iterdir())
    return sum(link.is_symlink() and link.readlink().name == name for link in links)


async def test_only_clients_on_this_machine_may_use_it(
    opened: Any, make_object: MakeObject
) -> None:
    call, memory = await opened(), make_object()
    body = {"key": memory.name, "byte_size": SIZE}
    path = f"{SYSTEM}/region/r/register"
    far = "192.0.2.7"
    assert (await call("POST", path, body, client=far)).status == 501
    assert (await call("POST", path, body, client="::1")).status == 200
    assert (await call("GET", f"{SYSTEM}/status", client=far)).json() == []
    assert (await call("GET", f"{SYSTEM}/region/r/status", client=far)).status == 404
    assert (await call("POST", f"{SYSTEM}/unregister", client=far)).status == 200
    assert len((await call("GET", f"{SYSTEM}/status")).json()) == 1
    assert (await call("POST", INFER, {"inputs": [GOOD, B]}, client=far)).status == 501


async def test_it_is_off_unless_switched_on(
    open_app: Any, models: Path, make_object: MakeObject
) -> None:
    call = await open_app(models)
    assert "system_shared_memory" not in (await call("GET", "/v2")).json()["extensions"]
    assert (await register(call, "r", make_object())).status == 501
    assert (await call("GET", f"{SYSTEM}/status")).json() == []
    assert (await call("POST", f"{SYSTEM}/unregister")).status == 200
    assert (await call("POST", INFER, {"inputs": [GOOD, B]})).status == 501


async def test_it_is_told_when_on_and_cuda_memory_never_is(opened: Any) -> None:
    call = await opened()
    extensions = (await call("GET", "/v2")).json()["extensions"]
    assert "system_shared_memory" in extensions
    assert "cuda_shared_memory" not in extensions
    body = {"raw_handle": {"b64": ""}, "device_id": 0, "byte_size": 8}
    assert (await call("POST", f"{CUDA}/region/r/register", body)).status == 501
    assert (await call("GET", f"{CUDA}/status")).json() == []
    assert (await call("GET", f"{CUDA}/region/r/status")).status == 404
    assert (await call("POST", f"{CUDA}/region/r/unregister")).status == 200
    assert (await call("POST", f"{CUDA}/unregister")).status == 200
