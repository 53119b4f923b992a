"""The runtime writes nothing of its use below HOME."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = ["aiaas_server.runtimes.onnx", "aiaas_server.runtimes.devices"]


@pytest.mark.parametrize("module", MODULES)
def test_a_server_leaves_nothing_in_the_home_of_its_user(module: str, tmp_path: Path) -> None:
    """Without the switch there are a data base and the id of a device."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    environment = {**kept, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=environment)
    assert list(tmp_path.rglob("*")) == []
