"""`aiaas predict` without a server: the models of a directory, run in its own process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aiaas_client._cli.commands import register
from tests.task_bundles import write_repository

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing answers


@pytest.fixture
def aiaas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIAAS_BASE_URL", raising=False)
    app = typer.Typer()
    register(app)
    return lambda *arguments: CliRunner().invoke(app, ["predict", *arguments])


def label(done: Any) -> str:
    assert done.exit_code == 0, done.output
    return str(json.loads(done.stdout)["label"])


def test_a_pulled_model_needs_no_server(
    aiaas: Callable[..., Any], tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    write_repository(tmp_path / "models", onnx_models)
    assert label(aiaas("moods", "--text", "good film", "--json")) == "positive"


def test_a_directory_can_be_named(
    aiaas: Callable[..., Any], tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    write_repository(tmp_path / "others", onnx_models)
    chosen = ("--models", str(tmp_path / "others"))
    assert label(aiaas("moods", "--text", "bad tea", "--json", *chosen)) == "negative"
    wrong = aiaas("moods", "--text", "", *chosen)
    assert wrong.exit_code == 1
    assert "empty" in wrong.stderr


def test_a_url_that_is_given_is_called(
    aiaas: Callable[..., Any], tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    write_repository(tmp_path / "models", onnx_models)
    lost = aiaas("moods", "--text", "good", "--url", NOBODY, "--timeout", "2")
    assert lost.exit_code == 3
