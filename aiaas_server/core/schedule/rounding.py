"""Batch sizes that a device has seen before.

A GPU runtime chooses kernels, and allocates, anew for every size it has not run yet, which costs
more than running a batch with a few rows to spare. Where that is so, batches are filled up to one
of a few sizes, each of which is run before the version serves.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import LoadFailed

_WARM_BATCH_SIZES = "warm_batch_sizes"
_GPU = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider", "ROCMExecutionProvider"})


def warm_sizes(config: ModelConfig, providers: Sequence[str]) -> tuple[int, ...]:
    """The sizes to round up to, ascending, the last one `max_batch_size`; empty for none.

    The configuration's parameter `warm_batch_sizes` ("1, 4, 16", or "" for none) stands above
    the default: powers of two on a GPU, none elsewhere.

    Raises:
        LoadFailed: The parameter is not a list of sizes up to `max_batch_size`.
    """
    largest = config.max_batch_size or 0
    given = config.parameters.get(_WARM_BATCH_SIZES)
    if given is not None:
        return _parsed(given.string_value, largest)
    if largest < 1 or not _GPU.intersection(providers):
        return ()
    powers = [1 << shift for shift in range(largest.bit_length()) if 1 << shift < largest]
    return (*powers, largest)


def _parsed(text: str, largest: int) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and 1 <= int(part) <= largest for part in parts):
        raise LoadFailed(
            f"configuration: parameter '{_WARM_BATCH_SIZES}': expected sizes from 1 to {largest} "
            f"with commas between, got {text[:64]!r}"
        )
    return tuple(sorted({*map(int, parts), largest})) if parts else ()


def spare_rows(rows: int, sizes: Sequence[int]) -> int:
    """Rows to add to a batch of `rows` items to make it one of `sizes`; none above the last."""
    if not rows or not sizes or rows > sizes[-1]:
        return 0
    return sizes[bisect_left(sizes, rows)] - rows


def fitted(limit: int, sizes: Sequence[int]) -> int:
    """The size for batches of about `limit` items: that itself where `sizes` is empty."""
    if not sizes:
        return limit
    return max([size for size in sizes if size * 3 <= limit * 4], default=sizes[0])


def filled(inputs: Mapping[str, Array], spare: int) -> dict[str, Array]:
    """`inputs` with their last row `spare` times more: values that the model can surely run."""
    return {
        name: np.concatenate([array, np.repeat(array[-1:], spare, axis=0)])
        for name, array in inputs.items()
    }
