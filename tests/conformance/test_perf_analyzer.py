"""`perf_analyzer`, where it is installed: protocol 15 and 17, item 3."""

from __future__ import annotations

import platform
import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

TOOL = shutil.which("perf_analyzer")
_GLIBC = tuple(int(part) for part in (platform.libc_ver()[1] or "0.0").split(".")[:2])

pytestmark = [
    pytest.mark.skipif(
        _GLIBC < (2, 38), reason="perf_analyzer needs glibc 2.38, this system has an older one"
    ),
    pytest.mark.skipif(TOOL is None, reason="perf_analyzer is not installed"),
]


@pytest.mark.parametrize(
    "options",
    [
        ["--sync"],
        ["--async"],
        ["-b", "4"],
        ["--input-tensor-format", "json"],
        ["-x", "1"],
        ["--concurrency-range", "4"],
    ],
    ids=" ".join,
)
def test_it_finishes_and_reports_the_servers_own_times(
    serve: Any, make_repository: Any, onnx_models: SimpleNamespace, options: list[str]
) -> None:
    server = serve(make_repository({"scale": onnx_models.scale()}))
    command = [str(TOOL), "-i", "http", "-u", server.address, "-m", "scale"]
    done = subprocess.run(
        [*command, "--request-count", "50", *options],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Server:" in done.stdout
