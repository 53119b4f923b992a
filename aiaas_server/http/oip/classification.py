"""The classification extension: an output as its k largest values, with their labels.

Protocol 10: the answer is a BYTES tensor of `value:index` or `value:index:label`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aiaas_client.protocol.tensors import Array, datatype_of, element_count, object_array
from aiaas_server.core.errors import InvalidInput

_REFUSED = frozenset({"BYTES", "BOOL", "FP16", "BF16"})


def classify(array: Array, k: int, labels: Sequence[str], *, batched: bool, name: str) -> Array:
    """Turn an output into its top `k` entries, greatest value first, ties by index.

    Args:
        array: The output; `(batch, ...)` when `batched`.
        k: Entries kept of each item, at least 1.
        labels: One label an index; may be shorter than the output or empty.
        batched: Whether the first dimension is the batch.
        name: The output's name, for messages.
    Returns:
        `(batch, min(k, n))` or `(min(k, n),)` object array of `bytes`, n elements an item.
    Raises:
        InvalidInput: The output is of a datatype that has no order or no text form.
    """
    datatype = datatype_of(array)
    if datatype in _REFUSED:
        raise InvalidInput(f"output {name!r}: classification is not possible for {datatype}")
    if batched and array.ndim == 0:
        raise InvalidInput(f"output {name!r}: classification needs a batch dimension")
    rows = array.shape[0] if batched else 1
    width = element_count(array.shape[1:] if batched else array.shape)
    items = array.reshape(rows, width)
    width = min(k, width)
    texts = [text for row in items for text in _top(row, width, labels)]
    return object_array(texts).reshape((rows, width) if batched else (width,))


def _top(row: Array, k: int, labels: Sequence[str]) -> list[bytes]:
    form = "%f:%d" if row.dtype.kind == "f" else "%d:%d"
    texts = []
    for index in _order(row)[:k].tolist():
        text = form % (row[index], index)
        texts.append(f"{text}:{labels[index]}".encode() if index < len(labels) else text.encode())
    return texts


def _order(row: Array) -> Array:
    """Indices by value descending; stable, NaN last."""
    keys = np.where(np.isnan(row), -np.inf, row) if row.dtype.kind == "f" else row
    # Reversing twice around a stable ascending sort keeps equal values in their first order.
    return row.size - 1 - np.argsort(keys[::-1], kind="stable")[::-1]
