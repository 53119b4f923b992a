"""Inputs made up for a model: random and the same at every load, or zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

import numpy as np

from aiaas_client.protocol.tensors import Array, dtype_of, element_count
from aiaas_server.core.signature import TensorSpec

_MAX_ELEMENTS: Final = 16 * 1024 * 1024  # of one input
_WORDS: Final = ("a", "b", "1", "2", "3.5", "red", "good film", "x y z", "0", "10")
# Of whole numbers: bytes, then indexes of smaller and smaller tables.
_BOUNDS: Final = (256, 100, 30, 12, 6, 3, 2)
# Small first: it is cheap, and what a network of pictures needs comes when it refuses them.
_LENGTHS: Final = (4, 1, 16, 64, 224)


class TooLarge(Exception):
    """An input of such a shape would need too much memory."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How inputs are made up.

    Attributes:
        length: Of every variable dimension but the first.
        most: Whole numbers are below it: they may be indexes, and tables are of any length.
        signed: Numbers are drawn around 0; otherwise they lie between 0 and 1.
    """

    length: int
    most: int
    signed: bool


def plans(inputs: Sequence[TensorSpec], *, cautious: bool) -> list[Plan]:
    """What is worth trying, the most telling first.

    Args:
        cautious: Values may be sizes, or counts of repetitions: they are kept small.
    """
    varies = any(-1 in spec.shape[1:] for spec in inputs)
    lengths = (_LENGTHS[:3] if cautious else _LENGTHS) if varies else (1,)
    whole = any(
        np.dtype(dtype_of(s.datatype)).kind in "iu" for s in inputs if s.datatype != "BYTES"
    )
    kinds = [(most, most != _BOUNDS[1]) for most in _BOUNDS] if whole else [(2, True), (2, False)]
    if cautious:
        kinds = [(3, False), (2, False)]
    return [Plan(length, *kind) for length in lengths for kind in kinds]


def sample(
    inputs: Sequence[TensorSpec], plan: Plan, rows: int, words: Sequence[str] = ()
) -> dict[str, Array]:
    """Made-up inputs; a variable first dimension has `rows`.

    Args:
        words: Texts that the model knows, for inputs of text.
    Raises:
        TooLarge: One would have too many elements.
    """
    random = np.random.default_rng(0)
    return {spec.name: _array(spec, plan, rows, words, random) for spec in inputs}


def zeros(name: str, datatype: str, shape: Sequence[int]) -> Array:
    """An input of zeros, or of empty texts.

    Raises:
        TooLarge: It would have too many elements.
    """
    check_elements(name, shape)
    if datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, dtype_of(datatype))


def check_elements(name: str, shape: Sequence[int]) -> None:
    """Return when an input of that shape can be made up.

    Raises:
        TooLarge: It would have too many elements.
    """
    count = element_count(shape)
    if count > _MAX_ELEMENTS:
        raise TooLarge(f"input '{name}' has {count} elements, at most {_MAX_ELEMENTS} are run")


def shape_of(spec: TensorSpec, plan: Plan, rows: int) -> tuple[int, ...]:
    """The shape of a made-up input."""
    first = tuple(rows if size == -1 else size for size in spec.shape[:1])
    return first + tuple(plan.length if size == -1 else size for size in spec.shape[1:])


def _array(
    spec: TensorSpec, plan: Plan, rows: int, words: Sequence[str], random: np.random.Generator
) -> Array:
    shape = shape_of(spec, plan, rows)
    check_elements(spec.name, shape)
    if spec.datatype == "BYTES":
        texts = np.array([word.encode() for word in words or _WORDS], dtype=object)
        return np.asarray(texts[random.integers(0, len(texts), shape)], object)  # of rank 0, too
    dtype = dtype_of(spec.datatype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape) > 0
    if dtype.kind in "iu":
        if "mask" in spec.name.lower():
            return np.ones(shape, dtype)  # nothing hidden: what is hidden tells nothing
        kinds = 2 if "type" in spec.name.lower() else plan.most  # token_type_ids: of two sentences
        return random.integers(0, min(kinds, plan.most), shape).astype(dtype)
    numbers = random.normal(size=shape) if plan.signed else random.random(shape)
    return numbers.astype(dtype)


def rows_of(inputs: Mapping[str, Array], order: Sequence[int]) -> dict[str, Array]:
    """Some rows of made-up inputs, in an order."""
    return {name: np.ascontiguousarray(array[list(order)]) for name, array in inputs.items()}


def groups(count: int, sizes: Sequence[int]) -> Iterator[list[int]]:
    """Rows to run together: the first few, and all of them from the last to the first."""
    for size in sizes:
        rows = list(range(min(size, count)))
        yield rows if size < count else rows[::-1]


def repeated(inputs: Mapping[str, Array], count: int, size: int) -> list[int]:
    """`size` of `count` rows, again and again; fewer where that would be too many elements."""
    item = max((array[:1].size for array in inputs.values()), default=1)
    return [row % count for row in range(min(size, _MAX_ELEMENTS // max(item, 1)))]


def neighbours(
    inputs: Mapping[str, Array],
) -> Iterator[tuple[dict[str, Array], dict[str, Array], slice]]:
    """Pairs of batches of one size that differ in every other row, and the rows that stay."""
    plain = dict(inputs)
    kept, others = slice(None, None, 2), slice(1, None, 2)
    numbers = {name for name, array in inputs.items() if array.dtype.kind == "f"}
    if numbers:
        yield plain, _with(plain, numbers, others, _loud), kept
        yield plain, _with(plain, numbers, others, _low), kept
        yield plain, _with(plain, numbers, kept, _nothing), others  # the first may be what decides
    masks = {name for name in inputs if "mask" in name.lower()} - numbers
    if masks:
        short = _with(plain, masks, slice(None), _half)
        yield short, _with(short, masks, others, np.ones_like), kept
        yield plain, _with(plain, masks, others, _half), kept


def _with(
    inputs: Mapping[str, Array], names: Set[str], rows: slice, change: Callable[[Array], Array]
) -> dict[str, Array]:
    made = dict(inputs)
    for name in names:
        made[name] = inputs[name].copy()
        made[name][rows] = change(inputs[name][rows])
    return made


def _loud(numbers: Array) -> Array:
    return np.abs(numbers) * 100 + 10


def _low(numbers: Array) -> Array:
    return -_loud(numbers)


def _nothing(numbers: Array) -> Array:
    return np.full_like(numbers, np.nan)


def _half(mask: Array) -> Array:
    """A mask that hides the second half of every row."""
    half = np.ones_like(mask)
    half[..., (mask.shape[-1] + 1) // 2 :] = 0
    return half
