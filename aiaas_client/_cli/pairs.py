"""Options of the form `name=value`, given again and again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from aiaas_client._cli.server import UseError


def pairs(option: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Names and values; a value is JSON where it reads as that, else a text.

    Raises:
        UseError: One has no name or no value.
    """
    found: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            raise UseError(f"{option}: expected name=value, got {argument!r}")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found
