"""What onnxruntime says of a failed run, in words of our own.

Its messages hold node names, source files and whatever else it pleases, so none of them reaches a
caller. Those that tell a caller something are recognised, and what they name is said again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_Say = Callable[[re.Match[str]], str]

_FORMS: Final[tuple[tuple[re.Pattern[str], _Say], ...]] = (
    (
        re.compile(r"Got invalid dimensions for input: (.{1,256}?) for the following indices\s+"
                   r"index: (\d+) Got: (-?\d+) Expected: (-?\d+)"),
        lambda m: f"input {m[1][:64]!r}: axis {m[2]}: expected {m[4]}, got {m[3]}",
    ),
    (
        re.compile(r"Invalid rank for input: (.{1,256}?) Got: (\d+) Expected: (\d+)"),
        lambda m: f"input {m[1][:64]!r}: expected rank {m[3]}, got {m[2]}",
    ),
    (
        re.compile(r"Actual: \(tensor\((\w+)\)\) , expected: \(tensor\((\w+)\)\)"),
        lambda m: f"expected elements of type {m[2]}, got {m[1]}",
    ),
    (
        re.compile(r"idx=(-?\d+) must be within the inclusive range \[(-?\d+),(-?\d+)\]"),
        lambda m: f"an index: expected {m[2]} to {m[3]}, got {m[1]}",
    ),
    (
        re.compile(r"broadcast an axis by a dimension other than 1\. (\d+) by (\d+)"),
        lambda m: f"two dimensions that meet: expected equal ones or 1, got {m[1]} and {m[2]}",
    ),
    (
        re.compile(r"mismatched dimensions of (\d+) and (\d+)"),
        lambda m: f"two dimensions that meet: expected equal ones, got {m[1]} and {m[2]}",
    ),
    (
        re.compile(r"Input shape:\{([\d,]{1,128})\}, requested shape:\{([-\d,]{1,128})\}"),
        lambda m: f"a tensor of shape [{m[1]}] does not fit the shape [{m[2]}]",
    ),
)  # fmt: skip


def explain(text: str) -> str:
    """Say what was expected and what came; "" where the runtime's message is not known."""
    for form, say in _FORMS:
        found = form.search(text)
        if found is not None:
            return say(found)
    return ""
