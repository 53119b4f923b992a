"""What a decoder's graph takes and gives, by the names that exporters use."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from aiaas_client.protocol.tensors import Array, dtype_of
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.session import Described
from aiaas_server.core.signature import TensorSpec

IDS: Final = "input_ids"
MASK: Final = "attention_mask"
POSITIONS: Final = "position_ids"
KEEP: Final = "num_logits_to_keep"
BRANCH: Final = "use_cache_branch"
LOGITS: Final = "logits"
_PAST: Final = "past_key_values."
_PRESENT: Final = ("present.", "present_key_values.")
_ENCODER: Final = ".encoder."
_FLOATS: Final = ("FP32", "FP16")
_WHOLE: Final = ("INT64", "INT32")
_MOST_NAMES: Final = 8  # of a refusal


class Kept(Protocol):
    """What a card says of its graph's tensors; the fields of its `generation` part."""

    @property
    def context(self) -> int: ...
    @property
    def cache(self) -> str: ...
    @property
    def with_past(self) -> str: ...
    @property
    def constants(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class CacheTensor:
    """Keys or values of one layer: `(batch, heads, tokens, head)`.

    Attributes:
        past: The input that takes them.
        present: The output that gives them, longer by the tokens of the run; "" where no run but
            the first gives them, since an encoder made them.
    """

    past: str
    present: str
    heads: int
    head: int
    dtype: np.dtype[np.generic]

    @property
    def token_bytes(self) -> int:
        return self.heads * self.head * self.dtype.itemsize

    def empty(self, batch: int, tokens: int = 0) -> Array:
        return np.zeros((batch, self.heads, tokens, self.head), self.dtype)


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of one graph.

    Attributes:
        caches: That grow with each token.
        fixed: That an encoder made, in the form that the first run gives them.
        constants: Inputs that come with each request.
        vocabulary: Width of the logits.
        one_token: Takes no more than one token a run.
        keep_rank: Of `num_logits_to_keep`; None where all logits are given.
    """

    ids: np.dtype[np.generic]
    mask: np.dtype[np.generic] | None
    positions: np.dtype[np.generic] | None
    keep_rank: int | None
    branches: bool
    caches: tuple[CacheTensor, ...]
    fixed: tuple[CacheTensor, ...]
    constants: tuple[TensorSpec, ...]
    vocabulary: int
    logits: np.dtype[np.generic]
    one_token: bool

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token."""
        return sum(cache.token_bytes for cache in self.caches)


def read_tensors(
    graph: Described, constants: Sequence[str] = (), *, begins: bool = True
) -> Tensors:
    """Find the tensors of a decoder that takes keys and values of the tokens before.

    Args:
        begins: Whether it runs without tokens before too, and gives what an encoder made.
    Raises:
        LoadFailed: An input or output is missing, unknown, or not of the form that it must have.
    """
    inputs = {spec.name: spec for spec in graph.inputs}
    outputs = {spec.name: spec for spec in graph.outputs}
    caches = tuple(_caches(inputs, outputs, constants))
    if not caches:
        raise LoadFailed(f"it has no input '{_PAST}0.key'; got {_listed(inputs)}")
    known = {IDS, MASK, POSITIONS, KEEP, BRANCH, *(cache.past for cache in caches), *constants}
    _refuse_unknown(inputs, known)
    growing = tuple(cache for cache in caches if cache.present)
    fixed = tuple(cache for cache in caches if not cache.present)
    if begins:
        for cache in fixed:
            _one(outputs, first_name(cache), "output")
    if not growing:
        raise LoadFailed(f"it has no output 'present.0.key'; got {_listed(outputs)}")
    given = tuple(_one(inputs, name, "input") for name in constants)
    found = _tensors(inputs, outputs, growing, fixed, given)
    return replace(found, branches=BRANCH in inputs, one_token=inputs[IDS].shape[1] == 1)


def read_first(graph: Described, later: Tensors, constants: Sequence[str]) -> Tensors:
    """Find the tensors of the graph that begins, where another one goes on.

    Raises:
        LoadFailed: As `read_tensors`, or it does not give what the other one takes.
    """
    inputs = {spec.name: spec for spec in graph.inputs}
    outputs = {spec.name: spec for spec in graph.outputs}
    given = tuple(inputs[name] for name in constants if name in inputs)
    _refuse_unknown(inputs, {IDS, MASK, POSITIONS, KEEP, *constants})
    for cache in later.caches:
        _one(outputs, cache.present, "output")
    for cache in later.fixed:
        _one(outputs, first_name(cache), "output")
    return _tensors(inputs, outputs, later.caches, later.fixed, given)


def check_constants(specs: Sequence[TensorSpec], given: Mapping[str, Array]) -> None:
    """See that a request brings what the graph takes with each request.

    Raises:
        InvalidInput: A tensor is missing, unknown, or of another datatype or shape.
    """
    names = [spec.name for spec in specs]
    for name in given:
        if name not in names:
            raise InvalidInput(f"constant '{name}': expected {_listed(names) or 'none'}")
    for spec in specs:
        if spec.name not in given:
            raise InvalidInput(f"constant '{spec.name}': missing; got {_listed(given) or 'none'}")
        array, shape = given[spec.name], spec.shape[1:]
        fits = len(shape) == array.ndim and all(
            size in (-1, got) for size, got in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype != dtype_of(spec.datatype):
            raise InvalidInput(
                f"constant '{spec.name}': expected {spec.datatype} of shape {shape}, "
                f"got {array.dtype} of shape {array.shape}"
            )


def first_name(cache: CacheTensor) -> str:
    """The output under which the first run gives what no later one does."""
    return _PRESENT[0] + cache.past.removeprefix(_PAST)


def _tensors(
    inputs: dict[str, TensorSpec],
    outputs: dict[str, TensorSpec],
    caches: tuple[CacheTensor, ...],
    fixed: tuple[CacheTensor, ...],
    constants: tuple[TensorSpec, ...],
) -> Tensors:
    """What a graph that begins a prompt has, and every other one too."""
    return Tensors(
        ids=_whole(_one(inputs, IDS, "input"), 2),
        mask=_whole(inputs[MASK], 2) if MASK in inputs else None,
        positions=_whole(inputs[POSITIONS], 2) if POSITIONS in inputs else None,
        keep_rank=_keep_rank(inputs.get(KEEP)),
        branches=False,
        caches=caches,
        fixed=fixed,
        constants=constants,
        vocabulary=_vocabulary(_one(outputs, LOGITS, "output")),
        logits=dtype_of(outputs[LOGITS].datatype),
        one_token=False,
    )


def _caches(
    inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec], constants: Sequence[str]
) -> Iterator[CacheTensor]:
    for name, spec in inputs.items():
        if not name.startswith(_PAST) or name in constants:
            continue
        rest = name.removeprefix(_PAST)
        found = [prefix + rest for prefix in _PRESENT if prefix + rest in outputs]
        if not found and _ENCODER not in name:
            raise LoadFailed(f"it has no output '{_PRESENT[0]}{rest}'; got {_listed(outputs)}")
        if spec.datatype not in _FLOATS or len(spec.shape) != 4 or min(spec.shape[1::2]) < 1:
            raise LoadFailed(
                f"input '{name}': expected FP32 or FP16 of shape (-1, heads, -1, head), "
                f"got {spec.datatype} of shape {spec.shape}"
            )
        # A merged export gives an encoder's keys again, but of use in the first run alone.
        present = "" if _ENCODER in name else found[0]
        _, heads, _, head = spec.shape
        yield CacheTensor(name, present, heads, head, dtype_of(spec.datatype))


def _one(specs: dict[str, TensorSpec], name: str, kind: str) -> TensorSpec:
    if name not in specs:
        raise LoadFailed(f"it has no {kind} '{name}'; got {_listed(specs)}")
    return specs[name]


def _refuse_unknown(inputs: dict[str, TensorSpec], known: set[str]) -> None:
    for name, spec in inputs.items():
        if name not in known and not spec.optional:
            raise LoadFailed(
                f"input '{name}': nothing to give it; expected "
                f"'generation.constants' to name it, or one of {_listed(sorted(known))}"
            )


def _whole(spec: TensorSpec, rank: int) -> np.dtype[np.generic]:
    if spec.datatype not in _WHOLE or len(spec.shape) != rank:
        raise LoadFailed(
            f"input '{spec.name}': expected INT64 of rank {rank}, "
            f"got {spec.datatype} of shape {spec.shape}"
        )
    return dtype_of(spec.datatype)


def _keep_rank(spec: TensorSpec | None) -> int | None:
    if spec is None:
        return None
    if spec.datatype != "INT64" or spec.shape not in ((), (1,), (-1,)):
        raise LoadFailed(
            f"input '{KEEP}': expected INT64 of shape (), got {spec.datatype} of shape {spec.shape}"
        )
    return len(spec.shape)


def _vocabulary(spec: TensorSpec) -> int:
    if spec.datatype not in _FLOATS or len(spec.shape) != 3 or spec.shape[2] < 1:
        raise LoadFailed(
            f"output '{LOGITS}': expected FP32 or FP16 of shape (-1, -1, vocabulary), "
            f"got {spec.datatype} of shape {spec.shape}"
        )
    return spec.shape[2]


def _listed(names: Collection[str]) -> str:
    first = [f"'{name}'" for name in list(names)[:_MOST_NAMES]]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
