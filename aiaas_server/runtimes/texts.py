"""Inputs and outputs that the runtime does not take or give as the protocol has them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InvalidInput


def as_text(name: str, array: Array) -> Array:
    """A tensor of bytes as the runtime takes it, of strings.

    Raises:
        InvalidInput: An element is not UTF-8.
    """
    text = np.empty(array.size, dtype=object)
    try:
        text[:] = [element.decode() for element in array.reshape(-1).tolist()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"input '{name}': an element is not valid UTF-8") from error
    return text.reshape(array.shape)


def as_bytes(array: Array) -> Array:
    """A tensor of strings as the protocol has it, of bytes."""
    encoded = np.empty(array.size, dtype=object)
    encoded[:] = [element.encode() for element in array.reshape(-1).tolist()]
    return encoded.reshape(array.shape)


def refuse_empty(inputs: Mapping[str, Array]) -> None:
    """Refuse what would end the process.

    Raises:
        InvalidInput: An input has no element.
    """
    for name, array in inputs.items():
        if array.size == 0:
            raise InvalidInput(
                f"input {name[:64]!r}: expected at least one element for a model of this kind, "
                f"got shape {array.shape}"
            )
