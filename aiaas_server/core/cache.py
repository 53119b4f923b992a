"""Answers kept for requests that come again: opt-in per model, bounded by bytes, least used out.

The key is a digest of the loaded version itself, of the outputs asked for, and of every input's
name, datatype, shape and bytes: equal keys are equal requests to the same files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from aiaas_client.protocol.tensors import Array, pack_bytes
from aiaas_server.core.signature import total_bytes

_OVERHEAD = 512


class ResponseCache:
    """Outputs by digest, shared by all models of a server; used on the event loop only.

    Args:
        max_bytes: Of the arrays and what keeping them costs; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[bytes, tuple[object, int, dict[str, Array]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> dict[str, Array] | None:
        """Outputs of an equal request, in arrays of their own; None when there are none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return {name: array.copy() for name, array in entry[2].items()}

    def put(self, key: bytes, owner: object, outputs: Mapping[str, Array]) -> None:
        """Keep a copy of `outputs`, unless it is larger than the whole cache.

        Args:
            owner: What `forget` is called with when the answer can never be asked for again.
        """
        size = _OVERHEAD + total_bytes(outputs)
        if size > self.max_bytes:
            return
        self._drop(key)
        while self.bytes + size > self.max_bytes:
            self._drop(next(iter(self._entries)))
        kept = {name: array.copy() for name, array in outputs.items()}
        self._entries[key] = (owner, size, kept)
        self.bytes += size

    def forget(self, owner: object) -> None:
        """Drop everything that was put for `owner`."""
        for key in [key for key, entry in self._entries.items() if entry[0] is owner]:
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry[1]


def digest(identity: bytes, inputs: Mapping[str, Array], outputs: Sequence[str]) -> bytes:
    """The key of a request.

    Args:
        identity: Of the loaded version; another one after every load.
        inputs: By name; their order does not matter.
        outputs: Names in the order wanted.
    """
    key = blake2b(repr((identity, tuple(outputs))).encode(), digest_size=32)
    for name in sorted(inputs):
        array = inputs[name]
        key.update(repr((name, array.dtype.str, array.shape)).encode())
        if array.dtype.kind == "O":
            key.update(pack_bytes(array))
        else:
            key.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return key.digest()
