"""Runs a decoder that takes keys and values as inputs and gives longer ones as outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InferenceFailed, InvalidInput, OutOfMemory
from aiaas_server.core.session import Session, StopToken
from aiaas_server.core.signature import TensorSpec
from aiaas_server.generate.feeds import fed, past
from aiaas_server.generate.groups import Group, joined, narrowed
from aiaas_server.generate.prefix import BLOCK, PrefixCache
from aiaas_server.generate.tensor_names import LOGITS, Tensors, check_constants, first_name

Pads = Literal["never", "before", "behind"]


@dataclass(slots=True)
class _Slot:
    tokens: list[int]
    prompt: int  # its length
    group: Group
    whose: str = ""


@dataclass(frozen=True, slots=True)
class _Graph:
    session: Session
    tensors: Tensors


class SeparateNetwork:
    """A `Network` by plain runs; see `generate.network.Network`.

    Slots that run together are joined to one batch, shorter ones beside zeros that the mask hides,
    and stay so until a step is asked of others. A run needs the memory of its group twice.

    Args:
        session: Of the graph that goes on behind tokens before; of both where there is no `first`.
        tensors: What it takes and gives.
        first: The graph that begins.
        pads: Where shorter rows may have zeros that the mask hides; with "never" only rows of equal
            length are joined.
        slots: Most answers at a time.
        context: Most tokens of one.
        cache_bytes: Most memory of keys and values.
        prefix_bytes: Most memory of prompts that may come again.
    """

    batches_lookahead = False

    def __init__(
        self,
        session: Session,
        tensors: Tensors,
        *,
        first: tuple[Session, Tensors] | None = None,
        pads: Pads,
        slots: int,
        context: int,
        cache_bytes: int,
        prefix_bytes: int,
    ) -> None:
        self.slots = slots
        self.context = context
        self.vocabulary = tensors.vocabulary
        self._later = _Graph(session, tensors)
        self._first = self._later if first is None else _Graph(*first)
        self._pads = pads
        self._limit = cache_bytes
        repeats = not tensors.constants and not tensors.fixed  # equal tokens, equal keys
        self._prefix = PrefixCache(prefix_bytes if repeats else 0)
        self._of: dict[int, _Slot] = {}

    # Slots

    def room(self, lengths: Sequence[int]) -> bool:
        """Whether these lengths fit side by side."""
        longest = max(lengths, default=0)
        if len(lengths) > self.slots or longest > self.context:
            return False
        tokens = len(lengths) * longest if self._pads != "never" else sum(lengths)
        return tokens * self._later.tensors.token_bytes <= self._limit

    def open(
        self,
        slot: int,
        tokens: Sequence[int],
        constants: Mapping[str, Array],
        whose: str = "",
    ) -> int:
        """Take a free slot; gives how many first tokens are there already."""
        if slot in self._of or len(self._of) >= self.slots:
            raise ValueError(f"slot {slot}: expected a free one of {self.slots}")
        tensors = self._later.tensors
        check_constants(self._specs(), constants)
        blocks = self._prefix.find(tokens, whose)
        free = self._limit - self._bytes()
        blocks = blocks[: max(free, 0) // (BLOCK * tensors.token_bytes)]
        if blocks:
            caches = [np.concatenate(parts, axis=1)[None] for parts in zip(*blocks, strict=True)]
        else:
            caches = [cache.empty(1) for cache in tensors.caches]
        count = len(blocks) * BLOCK
        rows = {name: constants[name][None] for name in constants}
        group = Group((slot,), [count], caches, constants=rows, ends=self._pads != "behind")
        self._of[slot] = _Slot(list(tokens[:count]), len(tokens), group, whose)
        return count

    def length(self, slot: int) -> int:
        """Tokens that a slot holds."""
        return len(self._of[slot].tokens)

    def truncate(self, slot: int, length: int) -> None:
        """Forget the last tokens of a slot."""
        state = self._of[slot]
        if not 0 <= length <= len(state.tokens):
            raise ValueError(
                f"slot {slot}: expected a length up to {len(state.tokens)}, got {length}"
            )
        if length < len(state.tokens):
            state.group = state.group.alone(slot).cut(length)
            del state.tokens[length:]

    def close(self, slot: int, *, remember: int) -> None:
        """Free a slot, and keep its first tokens for prompts that begin alike."""
        self._remember(slot, 0, remember)
        del self._of[slot]

    def measures(self) -> Mapping[str, float]:
        """Memory, and what the cache of prompts saved."""
        return {
            "kv_bytes": self._bytes(),
            "kv_bytes_limit": self._limit,
            "prefix_bytes": self._prefix.bytes,
            "prefix_hit_tokens": self._prefix.hits,
            "prefix_lookup_tokens": self._prefix.looked_up,
        }

    def release(self) -> None:
        """Let go of all memory; the network is of no use afterwards."""
        self._of.clear()
        self._prefix.clear()
        if self._first is not self._later:
            self._later.session.close()  # it was opened for this network

    # Runs

    def extend(
        self, slot: int, tokens: Sequence[int], keep: int, stop: StopToken | None = None
    ) -> Array:
        """Run further tokens of one slot."""
        state = self._of[slot]
        begin, end = len(state.tokens), len(state.tokens) + len(tokens)
        state.group = state.group.alone(slot)
        self._reserve([state.group], len(tokens))
        ids = np.array([tokens])  # (1, S)
        if begin and self._later.tensors.one_token:
            logits, group = self._one_by_one(state.group, ids, stop)
        else:
            logits, group = self._run(state.group, ids, max(keep, 1), stop)
        if logits.shape[1] < keep:
            raise InferenceFailed(f"logits: expected {keep} tokens, got {logits.shape[1]}")
        state.group = group
        state.tokens.extend(tokens)
        if end <= state.prompt and begin // BLOCK != end // BLOCK:
            self._remember(slot, begin, end)
        return logits[0, logits.shape[1] - keep :]

    def step(
        self, slots: Sequence[int], tokens: Sequence[int], stop: StopToken | None = None
    ) -> Array:
        """Run one token of each of several slots."""
        given = dict(zip(slots, tokens, strict=True))
        groups = [self._together(part) for part in self._parts(slots)]
        self._reserve(groups, 1)
        found = np.empty((len(slots), self.vocabulary), np.float32)
        place = {slot: number for number, slot in enumerate(slots)}
        after = []
        for group in groups:
            ids = np.array([[given[slot]] for slot in group.slots])  # (rows, 1)
            logits, longer = self._run(group, ids, 1, stop)
            found[[place[slot] for slot in group.slots]] = logits[:, -1]
            after.append(longer)
        for group in after:  # only now: a part that fails leaves all as they were
            for slot in group.slots:
                self._of[slot].group = group
                self._of[slot].tokens.append(given[slot])
        return found

    def _one_by_one(self, group: Group, ids: Array, stop: StopToken | None) -> tuple[Array, Group]:
        found = []
        for column in range(ids.shape[1]):
            logits, group = self._run(group, ids[:, column : column + 1], 1, stop)
            found.append(logits)
        return np.concatenate(found, axis=1), group

    def _run(
        self, group: Group, ids: Array, keep: int, stop: StopToken | None
    ) -> tuple[Array, Group]:
        """Run `ids`, `(rows, S)`: logits `(rows, >= keep, V)` float32, and the longer group."""
        begins = not group.longest
        graph = self._first if begins else self._later
        tensors = graph.tensors
        fixed = [first_name(cache) for cache in tensors.fixed] if begins else []
        outputs = [LOGITS, *(cache.present for cache in tensors.caches), *fixed]
        inputs = fed(tensors, group, ids, keep)
        if not begins or graph is self._later:  # a graph that only begins takes no past
            inputs |= past(tensors, group)
        try:
            logits, *arrays = graph.session.run(inputs, outputs, stop)
        except InvalidInput as error:  # no caller chose these shapes
            raise InferenceFailed(error.message) from error
        count = len(tensors.caches)
        longer = replace(
            group,
            lengths=[length + ids.shape[1] for length in group.lengths],
            caches=arrays[:count],
            fixed=arrays[count:] if begins else group.fixed,
        )
        return logits.astype(np.float32, copy=False), longer

    # Groups

    def _parts(self, slots: Sequence[int]) -> list[list[int]]:
        """Slots that may run together."""
        parts: dict[object, list[int]] = {}
        for slot in slots:
            state = self._of[slot]
            length = len(state.tokens)
            # One that begins may need another graph, so it does not run with those that go on.
            key = (length if self._pads == "never" else bool(length), state.group.shapes())
            parts.setdefault(key, []).append(slot)
        return list(parts.values())

    def _together(self, slots: Sequence[int]) -> Group:
        """A group of just these slots, the one there is or a new one."""
        groups = [self._of[slot].group for slot in slots]
        group = groups[0]
        is_one = all(other is group for other in groups)
        if not is_one or len(group.slots) != len(slots):
            rest = [self._of[s].group for s in group.slots if s in self._of and s not in slots]
            if is_one and all(other is not group for other in rest):
                group = narrowed(group, slots)
            else:
                group = joined(groups, slots)
            for slot in slots:
                self._of[slot].group = group
        return group

    def _specs(self) -> list[TensorSpec]:
        both = (*self._first.tensors.constants, *self._later.tensors.constants)
        return list({spec.name: spec for spec in both}.values())

    def _groups(self) -> list[Group]:
        return list({id(state.group): state.group for state in self._of.values()}.values())

    def _bytes(self) -> int:
        return sum(group.nbytes for group in self._groups())

    def _reserve(self, growing: Sequence[Group], count: int) -> None:
        """See that these groups can grow by `count` tokens."""
        for group in growing:
            if max(group.lengths) + count > self.context:
                longest = max(group.lengths) + count
                raise ValueError(f"expected up to {self.context} tokens, got {longest}")
        rows = sum(len(group.slots) for group in growing)
        after = self._bytes() + rows * count * self._later.tensors.token_bytes
        if after > self._limit:
            raise OutOfMemory(f"keys and values: expected up to {self._limit} bytes, got {after}")

    def _remember(self, slot: int, begin: int, end: int) -> None:
        """Keep the blocks that end behind `begin`, up to `end`, if the cache has room."""
        state = self._of[slot]
        if end - begin + begin % BLOCK < BLOCK or not self._prefix.limit:
            return
        group = state.group.alone(slot)
        self._prefix.keep(state.tokens[:end], group.read, begin, state.whose)
