"""tritonclient's own shared-memory helpers, unmodified, against the server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, serialize_byte_tensor
from tritonclient.utils import shared_memory as shm


@pytest.fixture
def client(serve: Any, make_repository: Any, onnx_models: SimpleNamespace) -> Iterator[Any]:
    """A client of a server on which shared memory is on."""
    models = {"simple": onnx_models.simple(), "texts": onnx_models.identity("BYTES")}
    server = serve(make_repository(models), shared_memory=True)
    with triton.InferenceServerClient(server.address) as made:
        yield made


@contextmanager
def region(client: Any, name: str, size: int) -> Iterator[Any]:
    """A region that the client made and registered."""
    key = f"/aiaas-{uuid.uuid4().hex}"
    handle = shm.create_shared_memory_region(name, key, size)
    try:
        client.register_system_shared_memory(name, key, size)
        yield handle
    finally:
        client.unregister_system_shared_memory(name)
        shm.destroy_shared_memory_region(handle)


def test_inputs_and_outputs_in_shared_memory(client: Any) -> None:
    assert "system_shared_memory" in client.get_server_metadata()["extensions"]
    first = np.arange(16, dtype=np.int32).reshape(1, 16)
    second = np.ones((1, 16), np.int32)
    with region(client, "input_data", 128) as inputs, region(client, "output_data", 128) as outputs:
        shm.set_shared_memory_region(inputs, [first, second])
        given = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        given[0].set_shared_memory("input_data", 64)
        given[1].set_shared_memory("input_data", 64, offset=64)
        wanted = [triton.InferRequestedOutput(n, binary_data=True) for n in ("OUTPUT0", "OUTPUT1")]
        wanted[0].set_shared_memory("output_data", 64)
        wanted[1].set_shared_memory("output_data", 64, offset=64)
        result = client.infer("simple", given, outputs=wanted)
        for name, offset, expected in (
            ("OUTPUT0", 0, first + second),
            ("OUTPUT1", 64, first - second),
        ):
            told = result.get_output(name)
            assert set(told) == {"name", "datatype", "shape"}
            got = shm.get_contents_as_numpy(outputs, np.int32, told["shape"], offset=offset)
            np.testing.assert_array_equal(got, expected)
        registered = client.get_system_shared_memory_status()
        assert [entry["name"] for entry in registered] == ["input_data", "output_data"]
        assert client.get_system_shared_memory_status("input_data")[0]["byte_size"] == 128
    assert client.get_system_shared_memory_status() == []


def test_texts_in_shared_memory(client: Any) -> None:
    texts = np.array([[b"one", b"zwei", b""]], dtype=object)
    size = sum(4 + len(text) for text in texts.flat)
    with region(client, "texts", 64) as memory, region(client, "answers", 64) as answers:
        shm.set_shared_memory_region(memory, [serialize_byte_tensor(texts)])
        given = triton.InferInput("x", [1, 3], "BYTES")
        given.set_shared_memory("texts", size)
        wanted = triton.InferRequestedOutput("y", binary_data=False)
        wanted.set_shared_memory("answers", 64)
        client.infer("texts", [given], outputs=[wanted])
        got = shm.get_contents_as_numpy(answers, np.object_, [1, 3])
        assert got.tolist() == texts.tolist()


def test_what_cannot_be_registered_is_the_clients_own_error(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="unable to open"):
        client.register_system_shared_memory("none", "/aiaas-no-such-object", 8)
    refused = pytest.raises(InferenceServerException, match="already registered")
    with region(client, "once", 8) as memory, refused:
        client.register_system_shared_memory("once", memory._shm_key, 8)
    with pytest.raises(InferenceServerException, match="not offered"):
        client.register_cuda_shared_memory("gpu", b"", 0, 8)
    client.unregister_cuda_shared_memory()
    assert client.get_cuda_shared_memory_status() == []
    with pytest.raises(InferenceServerException, match="unable to find"):
        client.get_system_shared_memory_status("nowhere")
