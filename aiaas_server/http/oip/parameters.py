"""Request parameters: which are reserved, what they must be, and what they ask of the queue."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from aiaas_server.core.errors import InvalidInput

_MAX_UINT64 = 2**64 - 1
_UNSIGNED = frozenset({"priority", "timeout"})
_BOOLEAN = frozenset({"sequence_start", "sequence_end", "binary_data_output"})


def schedule_of(parameters: Mapping[str, Any]) -> tuple[int, float]:
    """Check the request's parameters and read the schedule policy.

    Returns:
        Priority (0 = the model's default level) and the longest wait in the queue in seconds
        (0.0 = no limit of the request's own).
    Raises:
        InvalidInput: A reserved parameter of the wrong kind, a `triton_` key, or a number that
            is not finite.
    """
    for key, value in parameters.items():
        if key.startswith("triton_"):
            text = "keys that begin with 'triton_' are reserved"
            raise InvalidInput(f"parameter {key[:64]!r}: {text}")
        if isinstance(value, float) and not isfinite(value):
            raise InvalidInput(f"parameter {key[:64]!r}: expected a finite number")
        if key in _UNSIGNED or (key == "sequence_id" and not isinstance(value, str)):
            _check_unsigned(key, value)
        if key in _BOOLEAN and not isinstance(value, bool):
            raise InvalidInput(f"parameter {key!r}: expected a boolean")
    return parameters.get("priority", 0), parameters.get("timeout", 0) / 1e6


def _check_unsigned(key: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value <= _MAX_UINT64:
        raise InvalidInput(f"parameter {key!r}: expected an unsigned integer")
