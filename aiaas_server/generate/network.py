"""The seam between scheduling and running: a decoder with the keys and values of its slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.session import StopToken


class Network(Protocol):
    """A decoder; used by one thread. A slot holds the tokens of one answer, prompt included.

    Attributes:
        slots: Most answers at a time.
        context: Most tokens of one.
        vocabulary: Width of the logits.
        batches_lookahead: Whether `extend` with several tokens is one run for all slots; where it
            is not, guessing ahead pays for a slot alone.
    """

    slots: int
    context: int
    vocabulary: int
    batches_lookahead: bool

    def room(self, lengths: Sequence[int]) -> bool:
        """Whether answers of these lengths, prompt included, fit the memory side by side."""
        ...

    def open(
        self,
        slot: int,
        tokens: Sequence[int],
        constants: Mapping[str, Array],
        whose: str = "",
    ) -> int:
        """Take a free slot for a prompt.

        Args:
            whose: Whose prompt it is: nobody finds in the cache what others have asked.
        Returns:
            How many of its first tokens need not be run, since the cache has them; always fewer
            than all.
        """
        ...

    def extend(
        self, slot: int, tokens: Sequence[int], keep: int, stop: StopToken | None = None
    ) -> Array:
        """Run further tokens of one slot: a piece of its prompt, or guesses to be checked.

        Returns:
            `(keep, vocabulary)` float32, logits behind each of the last `keep` tokens; not the
            caller's to keep: the next run may write them anew.
        Raises:
            OutOfMemory: No room to grow; nothing has changed, and another slot may be closed.
            InferenceFailed, DeadlineExceeded: The run; the slot is as it was.
        """
        ...

    def step(
        self, slots: Sequence[int], tokens: Sequence[int], stop: StopToken | None = None
    ) -> Array:
        """Run one token of each of several slots together.

        Returns:
            `(len(slots), vocabulary)` float32, in the order of `slots`; as `extend` besides.
        """
        ...

    def length(self, slot: int) -> int:
        """Tokens that a slot holds."""
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget the last tokens of a slot: guesses that were wrong."""
        ...

    def close(self, slot: int, *, remember: int) -> None:
        """Free a slot.

        Args:
            remember: Its first tokens that the prefix cache should keep, if it has room.
        """
        ...

    def measures(self) -> Mapping[str, float]:
        """`kv_bytes` in use, `kv_bytes_limit`, `prefix_bytes`, `prefix_hit_tokens` and
        `prefix_lookup_tokens` since start."""
        ...

    def release(self) -> None:
        """Let go of all memory."""
        ...
