"""Which servers of a machine live, and which of several processes runs the jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from aiaas_server.jobs.holders import Holders

DIES = """
import os, sys
from pathlib import Path
from aiaas_server.jobs.holders import Holders
Holders(Path(sys.argv[1])).begin("killed")
os.kill(os.getpid(), 9)
"""


def test_one_process_at_a_time_has_the_turn(tmp_path: Path) -> None:
    """When it ends, another takes it; without a name, as of a server alone, everybody has one."""
    first, second = Holders(tmp_path), Holders(tmp_path)
    assert first.take_turn("s")
    assert first.take_turn("s")
    assert not second.take_turn("s")
    assert second.take_turn("other")
    assert second.take_turn("")
    first.end()
    assert second.take_turn("s")
    second.end()


def test_a_holder_that_was_killed_is_known_to_be_gone(tmp_path: Path) -> None:
    """One that lives is not, nor one of which this machine knows nothing."""
    living = Holders(tmp_path)
    living.begin("living")
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False)
    known = {"living", "killed", "elsewhere"}
    assert Holders(tmp_path).gone(known) == {"killed"}
    assert Holders(tmp_path).gone(known) == set()
    living.end()
