"""What type checkers tell the SDK's callers is what the files here say."""

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
@pytest.mark.parametrize("file", ["public_api.py", "predictions.py"])
def test_the_public_api_type_checks(command, file):
    arguments = [sys.executable, "-m", *command, str(HERE / file)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
