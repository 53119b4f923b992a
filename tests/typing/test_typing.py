"""What type checkers tell the SDK's callers is what `public_api.py` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            ["mypy", "--strict", "--warn-unused-ignores", "--follow-imports=silent"], id="mypy"
        ),
        pytest.param(["pyright"], id="pyright"),
    ],
)
def test_the_public_api_type_checks(command):
    arguments = [sys.executable, "-m", *command, str(HERE / "public_api.py")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
