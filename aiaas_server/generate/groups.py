"""Keys and values as arrays that a run takes and gives back longer: rows joined to one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aiaas_client.protocol.tensors import Array


@dataclass(slots=True)
class Group:
    """Slots that run together; each row's own tokens are the last ones, zeros stand before.

    Attributes:
        lengths: Tokens by row.
        caches: `(rows, heads, longest, head)` each, of what grows.
        fixed: `(rows, heads, any, head)` each, of what an encoder made.
        constants: `(rows, ...)`, what came with the requests.
    """

    slots: tuple[int, ...]
    lengths: list[int]
    caches: list[Array]
    fixed: list[Array] = field(default_factory=list)
    constants: Mapping[str, Array] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        return int(self.caches[0].shape[2])

    @property
    def nbytes(self) -> int:
        """Memory of keys and values."""
        return sum(array.nbytes for array in (*self.caches, *self.fixed))

    def alone(self, slot: int) -> Group:
        """One of the rows, without what stands before its tokens."""
        if len(self.slots) == 1:
            return self
        row = self.slots.index(slot)
        begin = self.longest - self.lengths[row]
        return Group(
            (slot,),
            [self.lengths[row]],
            [array[row : row + 1, :, begin:].copy() for array in self.caches],
            [array[row : row + 1].copy() for array in self.fixed],
            {name: array[row : row + 1] for name, array in self.constants.items()},
        )

    def cut(self, length: int) -> Group:
        """The first tokens of a slot that is alone."""
        caches = [array[:, :, :length] for array in self.caches]
        return Group(self.slots, [length], caches, self.fixed, self.constants)

    def read(self, begin: int, end: int) -> list[Array]:
        """Copies of some tokens of a slot that is alone, `(heads, tokens, head)` each."""
        return [array[0, :, begin:end].copy() for array in self.caches]

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """What must be alike for rows to be joined."""
        return tuple(array.shape[1:] for array in (*self.fixed, *self.constants.values()))


def joined(groups: Sequence[Group], slots: Sequence[int]) -> Group:
    """A row of each slot, in their order; `groups` has one for each, maybe the same."""
    rows = [group.slots.index(slot) for group, slot in zip(groups, slots, strict=True)]
    lengths = [group.lengths[row] for group, row in zip(groups, rows, strict=True)]
    longest = max(lengths)
    first = groups[0]
    caches = []
    for number, like in enumerate(first.caches):
        _, heads, _, head = like.shape
        array = np.zeros((len(slots), heads, longest, head), like.dtype)
        for place, (group, row, length) in enumerate(zip(groups, rows, lengths, strict=True)):
            array[place, :, longest - length :] = group.caches[number][
                row, :, group.longest - length :
            ]
        caches.append(array)
    places = list(zip(groups, rows, strict=True))
    fixed = [
        np.stack([group.fixed[number][row] for group, row in places])
        for number in range(len(first.fixed))
    ]
    constants = {
        name: np.stack([group.constants[name][row] for group, row in places])
        for name in first.constants
    }
    return Group(tuple(slots), lengths, caches, fixed, constants)
