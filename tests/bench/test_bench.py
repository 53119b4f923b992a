"""The benchmark runs: every group gives its rows, whatever the figures are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent
GROUPS = (
    "start", "network", "predict", "real", "overload", "bulk", "large", "sdk", "many", "memory",
    "features", "lifecycle", "jobs", "generate", "tenants",
)  # fmt: skip

pytestmark = pytest.mark.slow


def perf_works() -> bool:
    if shutil.which("perf") is None:
        return False
    command = ["perf", "stat", "-e", "cpu-clock", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(folder: Path, *arguments: str) -> dict[str, object]:
    file = folder / "bench.json"
    command = [sys.executable, str(BENCH), "--quick", "--json", str(file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(file.read_text("utf-8"))
    return told


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_measures_alone(group: str, tmp_path: Path) -> None:
    rows = run(tmp_path, "--only", group)["rows"]
    assert isinstance(rows, list)
    assert rows
    assert all(isinstance(row["value"], float) for row in rows)
    assert any(row["goal"] for row in rows)


def test_another_client_is_measured_beside_ours(tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.http", reason="needs tritonclient")
    rows = run(tmp_path, "--only", "none", "--peers")["rows"]
    assert isinstance(rows, list)
    beside = [(row["what"].partition(",")[0], row["beside_what"]) for row in rows]
    assert ("Client(backend='urllib3')", "tritonclient") in beside
    assert ("AsyncClient(backend='aiohttp')", "tritonclient, asyncio") in beside


def test_the_curves_are_drawn_from_what_json_wrote(tmp_path: Path) -> None:
    run(tmp_path, "--only", "curves")
    picture = tmp_path / "curves.png"
    command = [sys.executable, str(BENCH / "plot.py"), str(picture), str(tmp_path / "bench.json")]
    subprocess.run(command, check=True, timeout=900)
    assert picture.stat().st_size < 100_000


@pytest.mark.parametrize(
    ("work", "view", "expected"),
    [
        ("binary", "calls", "connection.py"),
        ("JSON", "functions", "connection.py"),
        ("turns", "functions", "connection.py"),
        ("predict", "lines", "aiaas_server/tasks/"),
        ("ids", "native", "libc"),
    ],
)
def test_a_profile_names_what_runs(work: str, view: str, expected: str) -> None:
    if view == "native" and not perf_works():
        pytest.skip("perf is not there, or not allowed")
    command = [sys.executable, str(BENCH / "hotspots.py"), work, "--by", view, "--seconds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert "µs of CPU a request" in done.stdout
    assert expected in done.stdout


def test_an_unknown_group_is_refused_by_name() -> None:
    command = [sys.executable, str(BENCH), "--only", "netwrok"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 2
    assert "netwrok" in done.stderr
