"""Whether two versions answered the same request alike: whether they decided the same.

A retrained classifier names the same labels with other probabilities: that is no disagreement. So
where an answer holds labels (text, integers, booleans), those decide alone; where it holds scores
of classes, the greatest of each row; only where it has neither, its numbers, within a tolerance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_client.protocol.tensors import Array

RTOL: Final = 1e-3
ATOL: Final = 1e-5
"""Floats that are no farther apart than this are alike, as in a golden set."""
_AT_ONCE: Final = 1 << 18  # elements that are compared at a time: the copies stay small


_SUM: Final = 1e-2  # by which probabilities may miss 1: float16 does
_NUMBERS, _SCORES, _LABELS = 1, 2, 3  # what an output holds; the greatest of an answer decides


class Compared(NamedTuple):
    """How alike two answers are.

    Attributes:
        agrees: They decide the same: the labels are, or the greatest scores name the same, or,
            where there are neither, the numbers are alike. A caller would miss an output that is
            not there, or that has another datatype: that disagrees always.
        within: Everything is the same, floats within the tolerance.
        largest: Difference of two finite floats at the same place.
        labels: Rows whose greatest score names a label.
        same_labels: Those of them where it is the same one.
        text: What differs first, of what decides before the rest, or "".
    """

    agrees: bool
    within: bool
    largest: float
    labels: int
    same_labels: int
    text: str


def compare(
    ours: Mapping[str, Array],
    theirs: Mapping[str, Array],
    scores: Collection[str] = (),
    *,
    rtol: float = RTOL,
    atol: float = ATOL,
) -> Compared:
    """Compare outputs by name.

    Args:
        ours: Those that the caller got; all of these are compared.
        theirs: Those of the version beside it.
        scores: Outputs that hold a score a class, `(..., classes)`: their greatest is the label.
            Others are taken for such where both versions' rows look like probabilities.
    """
    found = [
        _one(name, our, theirs.get(name), name in scores, rtol, atol) for name, our in ours.items()
    ]
    most = max([one.holds for one in found], default=_NUMBERS)
    decide = [one.compared for one in found if one.holds == most or one.breaks]
    every = [one.compared for one in found]
    texts = [one.text for one in (*decide, *every) if one.text]
    return Compared(
        all(one.agrees for one in decide),
        all(one.within for one in every),
        max([one.largest for one in every], default=0.0),
        sum(one.labels for one in every),
        sum(one.same_labels for one in every),
        texts[0] if texts else "",
    )


class _One(NamedTuple):
    """One output.

    Attributes:
        holds: Numbers, scores or labels.
        breaks: Whether callers cannot read the other one as they read this.
    """

    compared: Compared
    holds: int = _NUMBERS
    breaks: bool = False


def _one(
    name: str, our: Array, their: Array | None, is_scores: bool, rtol: float, atol: float
) -> _One:
    if their is None:
        return _One(_unlike(f"output '{name}' is missing"), breaks=True)
    if _is_float(our) != _is_float(their):
        return _One(_unlike(f"output '{name}' has another datatype"), breaks=True)
    if our.shape != their.shape:
        text = f"output '{name}' has shape {list(their.shape)}, not {list(our.shape)}"
        declared = _SCORES if is_scores else _NUMBERS
        return _One(_unlike(text), declared if _is_float(our) else _LABELS)
    if not _is_float(our):
        differ = _count_unequal(our, their)
        text = f"output '{name}' differs in {differ} of {our.size} elements" if differ else ""
        return _One(Compared(not differ, not differ, 0.0, 0, 0, text), _LABELS)
    within, largest = _floats(our, their, rtol, atol)
    text = "" if within else f"output '{name}' differs by up to {largest:.3g}"
    if not _has_classes(our) or not (is_scores or (_are_shares(our) and _are_shares(their))):
        return _One(Compared(within, within, largest, 0, 0, text))
    rows = our.size // our.shape[-1]
    same = _count_same_label(our, their)
    if same < rows:
        text = f"output '{name}' names another label in {rows - same} of {rows} rows"
    return _One(Compared(same == rows, within, largest, rows, same, text), _SCORES)


def _has_classes(scores: Array) -> bool:
    return scores.ndim >= 2 and scores.shape[-1] >= 2


def _are_shares(scores: Array) -> bool:
    """Whether each row looks like the probabilities of classes: none below 0, 1 in all."""
    rows = scores.reshape(-1, scores.shape[-1])
    return bool(len(rows)) and _is_share(rows[:1]) and _is_share(rows)


def _is_share(rows: Array) -> bool:
    values = _numbers(rows)
    return bool((values >= 0).all() and (np.abs(values.sum(1) - 1) <= _SUM).all())


def _count_same_label(our: Array, their: Array) -> int:
    """Rows whose greatest score is that of the same class; a row with NaN names none."""
    ours, others = _numbers(our), _numbers(their)
    same = ours.argmax(-1) == others.argmax(-1)
    same &= np.isnan(ours).any(-1) == np.isnan(others).any(-1)
    return int(same.sum())


def _unlike(text: str) -> Compared:
    return Compared(False, False, 0.0, 0, 0, text)


def _floats(our: Array, their: Array, rtol: float, atol: float) -> tuple[bool, float]:
    """Whether they are within the tolerance, NaN like NaN, and the largest finite difference."""
    a, b = our.reshape(-1), their.reshape(-1)
    within, largest = True, 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, a.size, _AT_ONCE):
            x, y = (_numbers(part[start : start + _AT_ONCE], np.float64) for part in (a, b))
            apart = np.abs(x - y)
            if (apart <= atol + rtol * np.abs(x)).all() and np.isfinite(x).all():
                largest = max(largest, float(apart.max()))
                continue
            within = within and bool(np.isclose(y, x, rtol, atol, equal_nan=True).all())
            found = np.max(apart, where=np.isfinite(apart), initial=0.0)
            largest = max(largest, float(found))
    return within, largest


def _count_unequal(our: Array, their: Array) -> int:
    if our.dtype == object or their.dtype == object:
        pairs = zip(our.reshape(-1).tolist(), their.reshape(-1).tolist(), strict=True)
        return sum([_as_bytes(one) != _as_bytes(other) for one, other in pairs])
    return int((our != their).sum())


def _as_bytes(value: Any) -> Any:
    """Text as the wire has it, since a tensor may hold both."""
    return value.encode() if isinstance(value, str) else value


def _is_float(array: Array) -> bool:
    """Of any width; bfloat16 is none of numpy's own."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _numbers(array: Array, dtype: type[np.generic] = np.float32) -> Array:
    """Floats as numpy calculates with them; double precision stays."""
    if array.dtype == np.float64 and dtype is np.float32:
        return array
    return array.astype(dtype, copy=False)
