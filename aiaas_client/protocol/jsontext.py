"""JSON text: the seam through which the server hands in a faster parser.

The protocol needs two things that JSON libraries differ in: `NaN`, `Infinity` and `-Infinity`
are read and written (never turned into `null`), and arrays may stand as values.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any, Protocol

import numpy as np


class JsonText(Protocol):
    """Reads and writes JSON for the codec."""

    def loads(self, data: bytes | bytearray | memoryview) -> Any:
        """Parse one UTF-8 JSON text.

        Raises:
            ValueError: Not JSON, too deep, or bytes left over.
        """
        ...

    def dumps(self, value: Any) -> bytes:
        """Write JSON; numpy arrays become (nested) lists, non-finite numbers their tokens."""
        ...


class PydanticJson:
    """`JsonText` on pydantic-core, which the SDK has anyway."""

    def loads(self, data: bytes | bytearray | memoryview) -> Any:
        """Parse one JSON text of at most about 200 levels."""
        return _core().from_json(bytes(data) if isinstance(data, memoryview) else data)

    def dumps(self, value: Any) -> bytes:
        """Write JSON text."""
        text: bytes = _core().to_json(value, inf_nan_mode="constants", fallback=_plain)
        return text


@cache
def _core() -> ModuleType:
    """Load the library with the first text, not with the program."""
    import pydantic_core

    return pydantic_core


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


PYDANTIC_JSON: JsonText = PydanticJson()
