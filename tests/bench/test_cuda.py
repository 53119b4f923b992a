"""The script for machines with a GPU: every step of it on the CPU, and what it says of a card."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

BENCH = Path(__file__).parent
GROUPS = {"answers", "sizes", "ways", "served", "mixed", "memory", "deadline", "room"}
CARD = {"card": "NVIDIA H200", "driver": "580.1", "memory": "143,771 MiB"}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH / "cuda.py"), *arguments],
        capture_output=True, text=True, timeout=400, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is carried to the machine."""
    folder = tmp_path_factory.mktemp("kit")
    done = run("--pack", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_step_runs_on_the_cpu_and_passes(kit: Path, tmp_path: Path) -> None:
    file = tmp_path / "cuda.json"
    done = run("--provider", "cpu", "--quick", "--kit", str(kit), "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(file.read_text("utf-8"))
    assert told["passed"]
    assert told["failed"] == []
    assert told["about"] == {"provider": "cpu"}
    assert told["versions"]["onnxruntime module"]
    assert all(isinstance(row["value"], float | int) for row in told["rows"])
    measured = {line.split()[1] for line in done.stderr.splitlines() if "measuring" in line}
    assert measured == GROUPS
    assert "provider cpu" in done.stdout
    assert "passed, took" in done.stdout


@pytest.mark.slow
def test_a_check_that_fails_is_named_and_fails_the_run(kit: Path, tmp_path: Path) -> None:
    """A model that answers at once, where one is expected that runs for ever."""
    broken = tmp_path / "kit"
    shutil.copytree(kit, broken)
    shutil.copy(broken / "shaped.onnx", broken / "busy.onnx")
    arguments = ("--provider", "cpu", "--quick", "--only", "deadline", "--kit", str(broken))
    done = run(*arguments, "--json", str(tmp_path / "cuda.json"))
    assert done.returncode == 1
    assert "missed: deadline and cancel: a run past its deadline is answered 504" in done.stdout
    assert "FAILED, took" in done.stdout
    assert not json.loads((tmp_path / "cuda.json").read_text("utf-8"))["passed"]


@pytest.mark.slow
def test_without_a_card_or_with_half_a_kit_it_says_what_to_do(kit: Path, tmp_path: Path) -> None:
    done = run("--kit", str(kit), PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("no card 0 was found")
    shutil.copy(kit / "inputs.npz", tmp_path)
    done = run("--provider", "cpu", "--kit", str(tmp_path))
    assert done.returncode == 1
    assert "efficientnet.onnx is missing; --pack makes such a folder" in done.stderr


@pytest.mark.slow
def test_an_unknown_group_is_refused_by_name() -> None:
    done = run("--only", "deadlien")
    assert done.returncode == 2
    assert "deadlien" in done.stderr


@pytest.fixture
def cuda_card(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    import cuda_card

    found: ModuleType = cuda_card
    return found


def test_a_card_is_read_by_nvidia_smi(
    cuda_card: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        "*memory.used*--id=1*) echo 812;;\n"
        "*name,driver_version,memory.total*--id=1*) echo 'NVIDIA H200, 580.1, 143771';;\n"
        "*) exit 6;;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert cuda_card.describe(1) == CARD
    assert cuda_card.used_memory(1)() == 812 << 20
    with pytest.raises(RuntimeError, match="no card 2 was found"):
        cuda_card.describe(2)


def test_a_card_is_read_by_the_drivers_library(
    cuda_card: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(total=143_771 << 20, used=812 << 20)
    library = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetName=lambda handle: b"NVIDIA H200",
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlDeviceGetMemoryInfo=lambda handle: memory,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert cuda_card.describe(0) == CARD
    assert cuda_card.used_memory(0)() == 812 << 20
