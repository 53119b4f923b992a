"""The lines of a file of OpenAI calls: read one by one, each a call or what is wrong with it.

{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", ...}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

LONGEST: Final = 16 << 20
"""Bytes of a line; a longer one is skipped, and told as an error."""
_LONGEST_ID: Final = 512


class Line(NamedTuple):
    """One line that is not blank.

    Attributes:
        number: Of the line in its file, from 1.
        custom_id: None where it has none.
        body: Of the call.
        wrong: What is wrong with it: a code and a message; then there is no call.
    """

    number: int
    custom_id: str | None
    body: Mapping[str, Any] = MappingProxyType({})
    wrong: tuple[str, str] | None = None


def read_lines(path: Path, endpoint: str) -> Iterator[Line]:
    """All lines in order; an id that comes again is an error of the line that has it again."""
    seen: set[str] = set()
    for number, raw in raw_lines(path):
        line = read_line(number, raw, endpoint)
        custom = line.custom_id
        if custom in seen and line.wrong is None:
            text = f"line {number}: custom_id '{custom}' was used before"
            line = line._replace(wrong=("duplicate_custom_id", text))
        if custom is not None:
            seen.add(custom)
        yield line


def raw_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Number and bytes of the lines that are not blank; None in place of one that is too long."""
    number = 0
    with path.open("rb") as file:
        while raw := file.readline(LONGEST + 1):
            number += 1
            too_long = len(raw) > LONGEST
            while len(raw) > LONGEST and not raw.endswith(b"\n"):  # the rest of it
                raw = file.readline(LONGEST + 1)
            if too_long:
                yield number, None
            elif raw.strip():
                yield number, raw


def read_line(number: int, raw: bytes | None, endpoint: str) -> Line:
    """One line, by itself."""
    if raw is None:
        text = f"line {number}: expected at most {LONGEST} bytes"
        return Line(number, None, wrong=("line_too_long", text))
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return Line(number, None, wrong=("invalid_json_line", f"line {number} is no JSON"))
    if not isinstance(found, dict):
        text = f"line {number}: expected a JSON object"
        return Line(number, None, wrong=("invalid_json_line", text))
    custom = found.get("custom_id")
    if not isinstance(custom, str) or not 0 < len(custom) <= _LONGEST_ID:
        text = f"line {number}: 'custom_id': expected a text of 1 to {_LONGEST_ID} characters"
        return Line(number, None, wrong=("missing_custom_id", text))
    if found.get("method") != "POST" or found.get("url") != endpoint:
        text = f"line {number}: expected POST {endpoint}, as the batch"
        return Line(number, custom, wrong=("mismatched_url", text))
    body = found.get("body")
    if not isinstance(body, dict):
        text = f"line {number}: 'body': expected a JSON object"
        return Line(number, custom, wrong=("missing_body", text))
    return Line(number, custom, body)
