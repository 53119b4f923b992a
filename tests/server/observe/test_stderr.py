"""What native code writes to standard error becomes JSON, and nothing of it is lost or hidden."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from aiaas_server.observe.stderr import MAX_MESSAGE, OURS, as_json, pump

WARNING = (
    "\x1b[0;93m2026-11-29 08:54:10.951033278 [W:onnxruntime:, graph.cc:128 MergeShapeInfo] "
    "Error merging shape info.\x1b[m"
)


def test_a_line_of_the_runtime_has_its_level_and_no_colour() -> None:
    found = json.loads(as_json(WARNING) or "")
    assert found["level"] == "warning"
    assert found["logger"] == "aiaas_server.stderr"
    assert found["message"] == (
        "2026-11-29 08:54:10.951033278 [W:onnxruntime:, graph.cc:128 MergeShapeInfo] "
        "Error merging shape info."
    )
    assert found["time"].endswith("Z")


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("[E:onnxruntime:Default, env.cc:227 ThreadMain] failed", "error"),
        ("[I:onnxruntime:, x.cc:1 f] told", "info"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "warning"),
    ],
)
def test_the_level_is_the_runtimes_or_a_warning(line: str, level: str) -> None:
    assert json.loads(as_json(line) or "")["level"] == level


def test_less_severe_and_empty_lines_are_left_out() -> None:
    assert as_json(WARNING, "error") is None
    assert as_json(" \n") is None
    assert as_json("\x1b[m\n") is None


def test_secrets_are_taken_out_and_long_lines_cut() -> None:
    assert "hidden" not in (as_json("Authorization: Bearer hidden") or "")
    assert len(json.loads(as_json("x" * 5000) or "")["message"]) == MAX_MESSAGE


def test_our_own_lines_pass_as_they_are_and_others_become_objects() -> None:
    ours = OURS + b'2026-01-31T12:00:00.123Z", "message": "\xc3\xa4"}\n'
    target = io.BytesIO()
    pump(io.BytesIO(ours + b"\xff raw\n" + ours + b"no end"), target, "debug")
    first, second, third, fourth = target.getvalue().splitlines(keepends=True)
    assert (first, third) == (ours, ours)
    assert json.loads(second)["message"] == "\ufffd raw"
    assert json.loads(fourth)["message"] == "no end"


CRASHING = """
import os, resource
from aiaas_server.observe.stderr import divert
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
divert("info")
os.write(2, b"the last words\\n")
os.abort()
"""


def test_the_last_words_of_a_crash_are_not_lost() -> None:
    found = subprocess.run([sys.executable, "-c", CRASHING], capture_output=True, timeout=900)
    assert found.returncode < 0
    assert json.loads(found.stderr)["message"] == "the last words"


UNDOING = """
import os, sys
from aiaas_server.observe.stderr import divert
undo = divert("info")
print("told", file=sys.stderr)
undo()
os.write(2, b"as it is\\n")
"""


def test_what_was_written_is_there_when_it_is_undone() -> None:
    found = subprocess.run([sys.executable, "-c", UNDOING], capture_output=True, timeout=900)
    assert found.returncode == 0
    diverted, after = found.stderr.splitlines()
    assert json.loads(diverted)["message"] == "told"
    assert after == b"as it is"
