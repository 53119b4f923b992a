"""What onnxruntime says of a model or of a failed run, in words of our own.

Its messages hold source files, paths and whatever else it pleases, so of a failed run none of them
reaches a caller. Those that tell a caller something are recognised, and what they name is said
again: the node, the sizes, the limits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_Say = Callable[[re.Match[str]], str]
ELEMENTS: Final = b"aiaas_elements_"
"""How a node's name begins that fails where a tensor has no elements."""
_MAX_REASON: Final = 300
_MAX_NAME: Final = 64

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
    (
        re.compile(r"Dimension mismatch, W: \{([\d,]{1,64})\} K: (\d+) N:(\d+)"),
        lambda m: f"a matrix of shape [{m[1]}] does not fit {m[2]} columns and {m[3]} results",
    ),
    (
        re.compile(r"MatMul dimension mismatch"),
        lambda _: "the inner dimensions of two matrices differ",
    ),
    (
        re.compile(r"channels C is not equal to kernel channels \* group\. C: (\d+) "
                   r"kernel channels: (\d+) group: (\d+)"),
        lambda m: f"expected {int(m[2]) * int(m[3])} channels, got {m[1]}",
    ),
    (
        re.compile(r"Invalid input shape: \{([\d,]{1,128})\}"),
        lambda m: f"an input of shape [{m[1]}] is too small for it",
    ),
    (
        re.compile(r"cannot be split evenly on selected axis\. Input shape=\{([\d,]{1,128})\} "
                   r"Axis=(-?\d+) NumOutputs=(\d+)"),
        lambda m: f"a tensor of shape [{m[1]}] cannot be split into {m[3]} along axis {m[2]}",
    ),
    (
        re.compile(r"axis (-?\d+) is not in valid range \[(-?\d+),(-?\d+)\]"),
        lambda m: f"an axis: expected {m[2]} to {m[3]}, got {m[1]}",
    ),
    (
        re.compile(ELEMENTS.decode()),
        lambda _: "it needs at least one element, and what it gets here has none",
    ),
    (
        re.compile(r"Integer division by zero"),
        lambda _: "a whole number is divided by zero",
    ),
    (
        re.compile(r"invalid expand shape"),
        lambda _: "a tensor cannot be expanded to the shape asked for",
    ),
)  # fmt: skip
_NODE: Final = re.compile(r"while running (\w{1,64}) node\. Name:'([^']{0,256})'")
_ADDED: Final = re.compile(f"{ELEMENTS.decode()}[0-9]+_")
# A source place, and the signature of the C++ function there, which is most of such a message.
_SOURCE: Final = re.compile(
    r"\S+\.(?:cc|h|cpp|cu):\d+ (?:.{0,2000}?\)(?: \[with [^\]]{0,4000}\])? (?=[A-Za-z]))?"
)
# What CUDA's failures end in: the device, the machine's name, the file, the expression.
_MACHINE: Final = re.compile(r" ?; GPU=-?\d+ ; hostname=.*")
_PATH: Final = re.compile(r"(?<![\w.])(?:[A-Za-z]:\\|\.{0,2}/)[^\s\"':,)]+")


def explain(text: str) -> str:
    """Say what was expected and what came; "" where the runtime's message is not known."""
    for form, say in _FORMS:
        found = form.search(text)
        if found is not None:
            return say(found)
    return ""


def where(text: str) -> str:
    """The node that a run failed at, as the graph names it; "" where it is not told."""
    found = _NODE.search(text)
    if found is None:
        return ""
    kind, name = found[1], _ADDED.sub("", found[2].replace("\\", "/"))
    shown = "".join(sign for sign in name[-_MAX_NAME:] if sign.isprintable())
    return f" at node '{shown}' ({kind})" if shown else ""


def clean(text: str) -> str:
    """A runtime message fit for a caller: one line, no paths, no source places, not long.

    A long one keeps its last sentence, which says what is expected.
    """
    line = " ".join(text.split())
    line = re.sub(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )", "", line)
    line = re.sub(r"Load model from \S+ failed: ?", "", line)
    line = _MACHINE.sub("", line)
    line = _SOURCE.sub("", line)
    line = _PATH.sub("<path>", line)
    last = line.rsplit(". ", 1)[-1]
    if len(line) > _MAX_REASON and len(last) < _MAX_REASON // 2:
        line = f"{line[: _MAX_REASON - len(last) - 5].rstrip()} ... {last}"
    return line[:_MAX_REASON] or "the runtime gave no reason"
