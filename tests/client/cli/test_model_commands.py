"""`aiaas show`, `stats`, `load`, `unload` and `check`, on the real server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aiaas_client._cli.commands import register
from aiaas_server.app import create_app
from aiaas_server.cli import app as whole
from aiaas_server.settings import Settings
from tests.server.http.serving import serving
from tests.task_bundles import write_repository

Aiaas = Callable[..., Any]


@pytest.fixture
def repository(tmp_path: Path, onnx_models: SimpleNamespace) -> Path:
    root = write_repository(tmp_path / "models", onnx_models)
    (root / "plain" / "1").mkdir(parents=True)
    (root / "plain" / "1" / "model.onnx").write_bytes(onnx_models.scale())
    return root


@pytest.fixture
def broken(repository: Path) -> Path:
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    return repository


@pytest.fixture
def url(repository: Path) -> Iterator[str]:
    with serving(create_app(Settings(models=repository))) as server:
        yield server.url


@pytest.fixture
def aiaas(url: str) -> Aiaas:
    app = typer.Typer()
    register(app)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, "--url", url])

    return run


def check(*arguments: str) -> Any:
    return CliRunner().invoke(whole, ["check", *arguments])


def document(done: Any) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_model_is_unloaded_and_loaded(aiaas: Aiaas) -> None:
    (gone,) = document(aiaas("unload", "plain", "--json"))
    assert (gone["name"], gone["state"]) == ("plain", "UNAVAILABLE")
    (back,) = document(aiaas("load", "plain", "--json"))
    assert (back["name"], back["state"]) == ("plain", "READY")
    assert "READY" in aiaas("load", "plain", "--force").stdout


def test_a_bad_model_file_is_told_by_load(
    aiaas: Aiaas, repository: Path, onnx_models: SimpleNamespace
) -> None:
    (repository / "late" / "1").mkdir(parents=True)
    (repository / "late" / "1" / "model.onnx").write_bytes(b"no model")
    done = aiaas("load", "late")
    assert done.exit_code == 1
    assert "failed to load 'late'" in done.stderr
    (repository / "late" / "1" / "model.onnx").write_bytes(onnx_models.scale())
    assert aiaas("load", "late").exit_code == 0


def test_what_a_model_has_done_is_counted(aiaas: Aiaas) -> None:
    assert aiaas("infer", "plain", "x=1,2,3,4").exit_code == 0
    (one,) = document(aiaas("stats", "plain", "--json"))
    assert (one["name"], one["inference_count"]) == ("plain", 1)
    assert "plain" in aiaas("stats").stdout
    assert len(document(aiaas("stats", "--json"))) > 1


def test_everything_about_a_model_is_shown(aiaas: Aiaas) -> None:
    shown = document(aiaas("show", "table", "--json"))
    assert shown["versions"][0]["state"] == "READY"
    assert shown["card"]["task"] == "tabular-regression"
    assert [spec["name"] for spec in shown["inputs"]] == ["x"]
    assert shown["batching"]["max_batch_size"] > 0
    text = aiaas("show", "plain").stdout
    for word in ("READY", "input", "FP32", "any x 4", "max_batch_size", "calls share runs"):
        assert word in text
    assert document(aiaas("show", "plain", "--json"))["card"] is None


def test_which_batches_pay_is_shown(aiaas: Aiaas) -> None:
    curve = document(aiaas("show", "plain", "--json"))["batching"]["curve"]
    assert curve["unit"] == "rows"
    assert curve["cap"] in [point["size"] for point in curve["points"]]
    lines = aiaas("show", "plain").stdout.splitlines()
    (head,) = [number for number, line in enumerate(lines) if "ms each" in line]
    table = [line.split() for line in lines[head + 1 :]]
    assert [int(row[0]) for row in table] == [point["size"] for point in curve["points"]]
    assert [int(row[0]) for row in table if row[-1] == "cap"] == [curve["cap"]]


def test_a_model_that_does_not_serve_is_shown_with_its_reason(aiaas: Aiaas) -> None:
    assert aiaas("unload", "plain").exit_code == 0
    shown = document(aiaas("show", "plain", "--json"))
    assert shown["versions"][0]["state"] == "UNAVAILABLE"


@pytest.mark.parametrize(
    "command", ["show", "stats", "load", "unload", "predict", "infer", "stubs"]
)
def test_a_misspelt_name_is_told_the_nearest_one(aiaas: Aiaas, command: str) -> None:
    given = ["x=1"] if command == "infer" else ["x"] if command == "predict" else []
    done = aiaas(command, "plane", *given)
    assert done.exit_code == 1, done.output
    assert "did you mean 'plain'?" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "did you mean" not in aiaas(command, "entirely-else", *given).stderr


def test_a_good_repository_has_nothing_wrong(repository: Path) -> None:
    done = check(str(repository))
    assert done.exit_code == 0, done.output
    assert "plain" in done.stdout


@pytest.mark.parametrize("part", ["plain", "plain/1", "plain/1/model.onnx"])
def test_one_model_is_checked_alone(broken: Path, part: str) -> None:
    entries = document(check(str(broken / part), "--json"))
    assert [entry["state"] for entry in entries] == ["READY"]


def test_what_is_wrong_is_told_with_an_exit_code(broken: Path) -> None:
    done = check(str(broken), "--json")
    assert done.exit_code == 1
    states = {entry["name"]: entry["state"] for entry in json.loads(done.stdout)}
    assert states["plain"] == "READY"
    assert states["broken"] == "UNAVAILABLE"
    assert "not served: broken" in done.stderr
    assert check(str(broken / "broken")).exit_code == 1


def test_an_older_version_that_is_left_out_is_no_fault(
    repository: Path, onnx_models: SimpleNamespace
) -> None:
    shutil.copytree(repository / "plain" / "1", repository / "plain" / "2")
    assert check(str(repository / "plain")).exit_code == 0


def test_where_nothing_can_be_served_the_layout_is_told(tmp_path: Path) -> None:
    assert "no file or directory" in check(str(tmp_path / "none")).stderr
    done = check(str(tmp_path))
    assert done.exit_code == 2
    assert "expected NAME.onnx, or NAME/1/model.onnx" in done.stderr


def test_the_version_is_an_option_as_well() -> None:
    by_option = CliRunner().invoke(whole, ["--version"])
    assert by_option.exit_code == 0
    assert by_option.stdout == CliRunner().invoke(whole, ["version"]).stdout
