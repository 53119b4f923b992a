"""What is built installs alone, is light, and says which extra a feature wants."""

from __future__ import annotations

import email
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("onnxruntime", "starlette", "uvicorn", "httpx", "orjson", "typer", "rich", "pandas")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a clean environment that holds the wheel and its core dependencies."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    command = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, str(wheel)], check=True)
    return interpreter


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_core_needs_four_libraries(project: dict[str, Any]) -> None:
    names = [requirement.partition(">")[0] for requirement in project["dependencies"]]
    assert names == ["httpx2", "numpy", "pydantic", "tenacity"]


def test_the_gpu_extra_differs_in_the_runtime_alone(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    cpu = [r.replace("onnxruntime>", "onnxruntime-gpu>") for r in extras["server"]]
    assert extras["server-gpu"] == cpu


@pytest.mark.slow
def test_the_wheel_holds_both_packages_typed_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata_name,) = [n for n in names if n.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(metadata_name))
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"aiaas_client", "aiaas_server"}
    assert {"aiaas_client/py.typed", "aiaas_server/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    migrations = "aiaas_server/state/migrations"
    assert {f"{migrations}/env.py", f"{migrations}/script.py.mako"} <= set(names)
    assert f"{migrations}/versions/m0001_life_of_a_model.py" in names
    assert metadata["Name"] == "aiaas-client"
    assert metadata["License-Expression"] == "Apache-2.0"
    extras = set(metadata.get_all("Provides-Extra") or [])
    assert {"server", "server-gpu", "cli", "otel", "platform", "postgres", "demo", "dev"} <= extras


@pytest.mark.slow
def test_the_sdk_imports_alone_and_stays_light(python: Path, tmp_path: Path) -> None:
    code = "import sys, aiaas_client; print(*[m for m in sys.argv[1:] if m in sys.modules])"
    done = run(python, "-c", code, *HEAVY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.slow
def test_every_public_name_can_be_had_without_extras(python: Path, tmp_path: Path) -> None:
    code = "import aiaas_client as a; print(len([getattr(a, n) for n in a.__all__]))"
    done = run(python, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "extra"),
    [
        pytest.param(
            ["-c", "from aiaas_client import Client; Client.local('models')"],
            "aiaas-client[server]",
            id="Client.local",
        ),
        pytest.param(
            ["-m", "aiaas_server", "serve", "--models", "models"],
            "aiaas-client[server]",
            id="aiaas serve",
        ),
    ],
)
def test_a_feature_without_its_extra_names_it(
    python: Path, tmp_path: Path, command: list[str], extra: str
) -> None:
    (tmp_path / "models").mkdir()
    done = run(python, *command, cwd=tmp_path)
    assert done.returncode != 0
    assert extra in done.stderr
