"""The benchmark runs: every group gives its rows, whatever the figures are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent
GROUPS = ("start", "network", "real", "bulk", "large", "sdk", "many", "memory", "features")

pytestmark = pytest.mark.slow


def run(folder: Path, *arguments: str) -> dict[str, object]:
    file = folder / "bench.json"
    command = [sys.executable, str(BENCH), "--quick", "--json", str(file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(file.read_text("utf-8"))
    return told


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_measures_alone(group: str, tmp_path: Path) -> None:
    rows = run(tmp_path, "--only", group)["rows"]
    assert isinstance(rows, list)
    assert rows
    assert all(isinstance(row["value"], float) for row in rows)
    assert group == "features" or any(row["goal"] for row in rows)


def test_the_curves_are_drawn_from_what_json_wrote(tmp_path: Path) -> None:
    run(tmp_path, "--only", "curves")
    picture = tmp_path / "curves.png"
    command = [sys.executable, str(BENCH / "plot.py"), str(picture), str(tmp_path / "bench.json")]
    subprocess.run(command, check=True, timeout=120)
    assert picture.stat().st_size < 100_000


def test_an_unknown_group_is_refused_by_name() -> None:
    command = [sys.executable, str(BENCH), "--only", "netwrok"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "netwrok" in done.stderr
