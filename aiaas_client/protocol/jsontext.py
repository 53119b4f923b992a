"""JSON text: the seam through which the server hands in a faster parser.

The protocol needs two things that JSON libraries differ in: `NaN`, `Infinity` and `-Infinity`
are read and written (never turned into `null`), and arrays may stand as values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Protocol, cast

import numpy as np


class JsonText(Protocol):
    """Reads and writes JSON for the codec."""

    def loads(self, data: bytes | bytearray, /) -> Any:
        """Parse one UTF-8 JSON text.

        Raises:
            ValueError: Not JSON, too deep, or bytes left over.
        """
        ...

    def dumps(self, value: Any, /) -> bytes:
        """Write JSON; numpy arrays become (nested) lists, non-finite numbers their tokens."""
        ...


class PydanticJson:
    """`JsonText` on pydantic-core, which the SDK has anyway.

    Its functions are the library's own, loaded with the first text, not with the program.
    """

    @cached_property
    def loads(self) -> Callable[[bytes | bytearray], Any]:
        """Parse one JSON text of at most about 200 levels."""
        from pydantic_core import from_json

        return from_json

    @cached_property
    def dumps(self) -> Callable[[Any], bytes]:
        """Write JSON text."""
        from pydantic_core import to_json

        return partial(to_json, inf_nan_mode="constants", fallback=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


PYDANTIC_JSON = cast("JsonText", PydanticJson())  # functions that it holds, not methods
