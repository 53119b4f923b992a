"""How a process of this package is started that is to look at what somebody brought."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_PACKAGES: Final = Path(__file__).parents[3]
# Isolated, so that neither the environment nor a current directory adds to what is imported; the
# place of this package comes last, for one that runs from where it was unpacked.
_START: Final = """
import sys
sys.path.append(sys.argv[1])
from {module} import main
main(*map(int, sys.argv[2:]))
"""
_PASSED_ON: Final = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
# The runtime would keep a data base of its use below HOME, and send it.
_QUIET: Final = {
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_ARENA_MAX": "2",
    "HF_HUB_OFFLINE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}


def command(module: str, *numbers: int) -> list[str]:
    """The arguments of a Python that calls `main(*numbers)` of a module of this package."""
    start = _START.format(module=module)
    # It could not write what it compiles.
    return [sys.executable, "-I", "-B", "-c", start, str(_PACKAGES), *map(str, numbers)]


def environment(home: Path) -> dict[str, str]:
    """All of its environment: how text is written, where libraries lie, and its own directory."""
    kept = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    return {**kept, **_QUIET, "HOME": str(home), "TMPDIR": str(home)}
