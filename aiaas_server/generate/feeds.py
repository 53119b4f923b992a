"""What a run of a group is given."""

from __future__ import annotations

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.generate.groups import Group
from aiaas_server.generate.tensor_names import BRANCH, IDS, KEEP, MASK, POSITIONS, Tensors


def fed(tensors: Tensors, group: Group, ids: Array, keep: int) -> dict[str, Array]:
    """All inputs but keys and values.

    Args:
        ids: `(rows, S)`, tokens behind those of the group.
        keep: Of how many of the last ones logits are wanted.
    """
    count = ids.shape[1]
    inputs: dict[str, Array] = {IDS: ids.astype(tensors.ids, copy=False)}
    if tensors.mask is not None:
        inputs[MASK] = group.seen(count).astype(tensors.mask)
    if tensors.positions is not None:
        lengths = np.array(group.lengths)[:, None]  # (rows, 1)
        inputs[POSITIONS] = (lengths + np.arange(count)).astype(tensors.positions)
    if tensors.keep_rank is not None:
        inputs[KEEP] = np.full((1,) * tensors.keep_rank, keep, np.int64)
    if tensors.branches:
        inputs[BRANCH] = np.array([bool(group.longest)])
    return inputs | {spec.name: group.constants[spec.name] for spec in tensors.constants}


def past(tensors: Tensors, group: Group) -> dict[str, Array]:
    """Keys and values of the tokens before."""
    caches, fixed = group.caches, group.fixed
    if not group.longest and (tensors.branches or tensors.fixed):
        # The branch that begins reads none of them, but they must have elements.
        rows = len(group.slots)
        caches = [cache.empty(rows, 1) for cache in tensors.caches]
        fixed = [cache.empty(rows, 1) for cache in tensors.fixed]
    pairs = (*zip(tensors.caches, caches, strict=True), *zip(tensors.fixed, fixed, strict=True))
    return {cache.past: array for cache, array in pairs}
