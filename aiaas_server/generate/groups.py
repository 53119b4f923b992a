"""Keys and values as arrays that a run takes and gives back longer: rows joined to one batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aiaas_client.protocol.tensors import Array


@dataclass(slots=True)
class Group:
    """Slots that run together; the tokens of shorter rows lie at one end, zeros at the other.

    Attributes:
        ends: Rows end together, so that zeros stand before; else they begin together.
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
    ends: bool = True

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
        one = slice(row, row + 1)
        return Group(
            (slot,),
            [self.lengths[row]],
            [array[one, :, self.own(row)].copy() for array in self.caches],
            [array[one].copy() for array in self.fixed],
            {name: array[one].copy() for name, array in self.constants.items()},
            self.ends,
        )

    def own(self, row: int) -> slice:
        """Where the tokens of a row lie."""
        return _own(self.lengths[row], self.longest, self.ends)

    def seen(self, more: int) -> Array:
        """`(rows, tokens)` bool: which tokens a run of `more` ones in each row shall see."""
        lengths = np.array(self.lengths)[:, None]  # (rows, 1)
        if self.ends:
            return np.arange(self.longest + more) >= self.longest - lengths
        return np.arange(max(self.lengths) + more) < lengths + more

    def cut(self, length: int) -> Group:
        """The first tokens of a slot that is alone."""
        caches = [array[:, :, :length] for array in self.caches]
        return replace(self, lengths=[length], caches=caches)

    def read(self, begin: int, end: int) -> list[Array]:
        """Copies of some tokens of a slot that is alone, `(heads, tokens, head)` each."""
        return [array[0, :, begin:end].copy() for array in self.caches]

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """What must be alike for rows to be joined."""
        return tuple(array.shape[1:] for array in (*self.fixed, *self.constants.values()))


def narrowed(group: Group, slots: Collection[int]) -> Group:
    """Fewer slots of a group, which is of no use afterwards.

    What came with requests may be far larger than keys and values: of it only the rows are moved
    that the others leave a gap for.
    """
    order, count = list(group.slots), len(slots)
    gaps = [row for row in range(count) if order[row] not in slots]
    behind = [row for row in range(count, len(order)) if order[row] in slots]
    for gap, row in zip(gaps, behind, strict=True):
        order[gap] = order[row]
        for array in (*group.fixed, *group.constants.values()):
            array[gap] = array[row]
    caches_alone = replace(group, fixed=[], constants={})
    return replace(
        joined([caches_alone] * count, order[:count]),
        fixed=[array[:count] for array in group.fixed],
        constants={name: array[:count] for name, array in group.constants.items()},
    )


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
            own = group.caches[number][row, :, group.own(row)]
            array[place, :, _own(length, longest, first.ends)] = own
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
    return Group(tuple(slots), lengths, caches, fixed, constants, first.ends)


def _own(length: int, longest: int, ends: bool) -> slice:
    return slice(longest - length, longest) if ends else slice(length)
