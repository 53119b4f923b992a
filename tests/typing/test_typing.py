"""What type checkers tell the SDK's callers is what the files here say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.slow
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
    files = [
        str(HERE / name)
        for name in ("public_api.py", "predictions.py", "registry.py", "work.py", "writing.py")
    ]
    arguments = [sys.executable, "-m", *command, *files]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
