"""Generated wrappers compile, pass the strict type checker, and call their model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from aiaas_client import AsyncClient, Client
from aiaas_client._cli.stubs import generate
from aiaas_client.protocol.messages import ModelMetadata
from aiaas_client.testing import FakeServer, tensor

ROOT = Path(__file__).parents[3]

ODD = ModelMetadata(
    name="résumé-2/odd model",
    inputs=[
        tensor("class", "FP32", [-1, 2]),
        tensor("input.1", "BYTES", [-1, 1]),
        tensor("input:1", "INT64", [-1]),
        tensor("self", "BF16", [-1]),
        tensor("1st", "BOOL", [-1]),
    ],
    outputs=[tensor("result", "UINT8", [-1]), tensor('""" + x', "FP16", [-1])],
)
PLAIN = ModelMetadata(
    name="double", inputs=[tensor("x", "FP32", [-1, 2])], outputs=[tensor("y", "FP32", [-1, 2])]
)
EMPTY = ModelMetadata(name="42")


def load(source):
    module = ModuleType("generated")
    sys.modules["generated"] = module  # dataclasses look their module up
    exec(compile(source, "generated.py", "exec"), vars(module))
    return module


@pytest.fixture
def module():
    yield load(generate(PLAIN))
    del sys.modules["generated"]


@pytest.mark.parametrize("metadata", [ODD, PLAIN, EMPTY], ids=["odd names", "plain", "empty"])
def test_any_signature_gives_a_module_that_compiles(metadata):
    compile(generate(metadata), "generated.py", "exec")


@pytest.mark.slow
def test_generated_modules_pass_the_strict_type_checker(tmp_path):
    files = []
    for number, metadata in enumerate((ODD, PLAIN, EMPTY)):
        files.append(tmp_path / f"generated_{number}.py")
        files[-1].write_text(generate(metadata), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        *map(str, files),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def server():
    with FakeServer() as server:
        server.add(
            "double",
            lambda x: {"y": x * 2},
            inputs=PLAIN.inputs,
            outputs=PLAIN.outputs,
            max_batch_size=8,
        )
        yield server


def test_a_wrapper_calls_its_model(server, module):
    with Client(server.url) as client:
        model = module.Double(client)
        answer = model.infer(x=[[1, 2]])
        assert answer.y.tolist() == [[2, 4]]
        assert answer.result.model_name == "double"
        assert model.infer_one(x=[1, 2], deadline=5.0).y.tolist() == [2, 4]


async def test_an_asynchronous_wrapper_calls_its_model(server, module):
    async with AsyncClient(server.url) as client:
        model = module.AsyncDouble(client)
        assert (await model.infer(x=[[1, 2]])).y.tolist() == [[2, 4]]
        assert (await model.infer_one(x=[1, 2])).y.tolist() == [2, 4]
