"""The commands `aiaas models`, `aiaas infer`, `aiaas stubs`: what they print and how they end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from aiaas_client._cli.commands import register
from aiaas_client.testing import FakeServer, tensor


@pytest.fixture
def server():
    with FakeServer(api_key="secret") as server:
        server.add(
            "double",
            lambda x: {"y": x * 2, "file": x},
            inputs=[tensor("x", "FP32", [-1, 2])],
            outputs=[tensor("y", "FP32", [-1, 2]), tensor("file", "FP32", [-1, 2])],
        )
        server.add(
            "shout",
            lambda text: {"loud": np.array([t.upper() for t in text.flat], object)},
            inputs=[tensor("text", "BYTES", [-1])],
            outputs=[tensor("loud", "BYTES", [-1])],
        )
        yield server


@pytest.fixture
def aiaas(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    app = typer.Typer()
    register(app)

    def run(*arguments, url=server.url):
        options = ["--url", url, "--api-key-env", "MY_KEY", "--timeout", "5"]
        return CliRunner().invoke(app, [*arguments, *options])

    return run


def outputs(done):
    assert done.exit_code == 0, done.output
    return {name: entry["data"] for name, entry in json.loads(done.stdout)["outputs"].items()}


def test_models_are_listed(aiaas):
    done = aiaas("models")
    assert done.exit_code == 0
    assert "double" in done.stdout
    assert "READY" in done.stdout
    entries = json.loads(aiaas("models", "--json").stdout)
    assert [entry["name"] for entry in entries] == ["double", "shout"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[[1, 2]]", [[2, 4]]),
        ("1,2", [[2, 4]]),
        ("1,2,3,4", [[2, 4], [6, 8]]),
    ],
)
def test_values_from_the_command_line(aiaas, value, expected):
    assert outputs(aiaas("infer", "double", f"x={value}", "--json"))["y"] == expected


@pytest.mark.parametrize("value", ["hello", "é, ü", '["hello", "you"]'])
def test_text_from_the_command_line(aiaas, value):
    texts = json.loads(value) if value.startswith("[") else [value]
    expected = [text.encode().upper().decode() for text in texts]
    assert outputs(aiaas("infer", "shout", f"text={value}", "--json"))["loud"] == expected


def test_values_from_files(aiaas, tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, 2]], np.float32))
    np.save(tmp_path / "item.npy", np.array([1, 2], np.float32))
    (tmp_path / "x.json").write_text("[[1, 2]]")
    (tmp_path / "x.txt").write_text("hello")
    for name in ("x.npy", "item.npy", "x.json"):
        done = aiaas("infer", "double", f"x=@{tmp_path / name}", "--json")
        assert outputs(done)["y"] == [[2, 4]]
    done = aiaas("infer", "shout", f"text=@{tmp_path / 'x.txt'}", "--json")
    assert outputs(done)["loud"] == ["HELLO"]


def test_a_table_is_printed_and_outputs_are_saved(aiaas, tmp_path):
    path = tmp_path / "out.npz"
    done = aiaas("infer", "double", "x=1,2", "--output", str(path))
    assert done.exit_code == 0, done.output
    assert "FP32" in done.stdout
    with np.load(path, allow_pickle=False) as saved:
        assert {name: saved[name].tolist() for name in saved} == {"y": [[2, 4]], "file": [[1, 2]]}
    done = aiaas("infer", "shout", "text=hello", "--output", str(path))
    assert done.exit_code == 0, done.output
    with np.load(path, allow_pickle=False) as saved:
        assert saved["loud"].tolist() == [b"HELLO"]


def test_a_pickled_file_is_never_loaded(aiaas, tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    done = aiaas("infer", "double", f"x=@{tmp_path / 'x.npy'}")
    assert done.exit_code == 2
    assert "allow_pickle=False" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        pytest.param(["infer", "nothing", "x=1"], 1, "nothing", id="unknown model"),
        pytest.param(["infer", "double"], 2, "missing input 'x'", id="missing input"),
        pytest.param(["infer", "double", "x"], 2, "expected NAME=VALUE", id="no value"),
        pytest.param(["infer", "double", "x=1,2", "x=1,2"], 2, "given twice", id="twice"),
        pytest.param(["infer", "double", "x=1,2,3"], 2, "input 'x': expected shape", id="shape"),
        pytest.param(["infer", "double", "x=a"], 2, "input 'x': expected", id="text"),
        pytest.param(
            ["infer", "double", "x=[[1, 2"],
            2,
            "such as [[1, 2], [3, 4]], or @FILE, got '[[1, 2'",
            id="half a list",
        ),
        pytest.param(["infer", "double", "x=1;2"], 2, "numbers such as 1,2,3", id="semicolon"),
        pytest.param(
            ["infer", "shout", 'text=["a"'], 2, "input 'text': expected", id="half a text"
        ),
        pytest.param(["infer", "double", "x=@no.npy"], 2, "no file 'no.npy'", id="no file"),
        pytest.param(["infer", "double", f"x=@{__file__}"], 2, "expected a file of", id="suffix"),
        pytest.param(["stubs", "nothing"], 1, "nothing", id="stubs of nothing"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(aiaas, arguments, code, text):
    done = aiaas(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith("aiaas: ")
    assert text in done.stderr


def test_a_broken_json_file_is_told(aiaas, tmp_path):
    (tmp_path / "x.json").write_text("[1,")
    done = aiaas("infer", "double", f"x=@{tmp_path / 'x.json'}")
    assert done.exit_code == 2
    assert "input 'x': x.json:" in done.stderr


def test_a_missing_server_has_its_own_exit_code(aiaas):
    with FakeServer() as gone:
        url = gone.url
    done = aiaas("models", url=url)
    assert done.exit_code == 3
    assert done.stderr.startswith("aiaas: ")


@pytest.mark.parametrize(("value", "is_what"), [(None, "not set"), ("", "empty")])
def test_a_key_that_is_not_in_the_variable_that_was_named_is_told(
    aiaas, monkeypatch, value, is_what
):
    monkeypatch.delenv("MY_KEY")
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    done = aiaas("models")
    assert done.exit_code == 2
    assert "--api-key-env: expected the name of a variable that holds the key" in done.stderr
    assert f"'MY_KEY' is {is_what}" in done.stderr


def test_stubs_are_printed_or_written(aiaas, tmp_path):
    printed = aiaas("stubs", "double")
    assert "class Double:" in printed.stdout
    path = tmp_path / "double.py"
    assert aiaas("stubs", "double", "-o", str(path)).stdout == ""
    assert path.read_text() == printed.stdout
