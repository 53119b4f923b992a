"""The measures of a network of the Llama family, and what a checkpoint is refused for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class UnusableCheckpoint(ValueError):
    """A checkpoint that cannot become a bundle; the message names what, expected and found."""


def number_of(name: str, found: object, default: float | None = None) -> float:
    """A number of a checkpoint's settings.

    Args:
        name: What it is called there, for the error.
        found: What is there; None where nothing is.
    Raises:
        UnusableCheckpoint: It is missing and has no default, or is no number.
    """
    if found is None and default is not None:
        return default
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise UnusableCheckpoint(f"{name}: expected a number, got {found!r:.40}")
    return found


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The measures of one network.

    Attributes:
        vocabulary: Tokens that it knows.
        width: Of the stream between the layers.
        inner: Of the feed-forward part.
        heads: That ask; `kv_heads`, that are asked, divide them.
        head: Numbers of one head.
        context: Most tokens, prompt and answer together.
        theta: Base of the rotary positions.
        epsilon: Of the norms.
        slower: Divides each of the `head / 2` rotary frequencies, where a model was stretched to a
            longer context; empty leaves them.
    """

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    context: int = 2048
    theta: float = 10_000.0
    epsilon: float = 1e-5
    slower: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "inner", "layers", "heads", "kv_heads", "context"):
            if getattr(self, name) < 1:
                raise UnusableCheckpoint(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise UnusableCheckpoint(
                f"heads: expected a multiple of the {self.kv_heads} that are asked, "
                f"got {self.heads}"
            )
        if self.head < 2 or self.head % 2:
            raise UnusableCheckpoint(f"head: expected an even size, got {self.head}")
        if len(self.slower) not in (0, self.head // 2):
            raise UnusableCheckpoint(
                f"rotary factors: expected {self.head // 2}, got {len(self.slower)}"
            )

    def bytes_per_token(self) -> int:
        """Of keys and values, float32, all layers together."""
        return 2 * self.layers * self.kv_heads * self.head * 4


def rotary(config: LlamaConfig) -> tuple[Floats, Floats]:
    """Cosines and sines, `(context, head / 2)` each."""
    half = config.head // 2
    turns = config.theta ** (-np.arange(half, dtype=np.float64) / half)
    if config.slower:
        turns = turns / np.asarray(config.slower, np.float64)
    angles = np.arange(config.context)[:, None] * turns
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def llama3_slower(
    config: LlamaConfig, factor: float, low: float, high: float, original: int
) -> tuple[float, ...]:
    """How Llama 3 divides its frequencies: short waves not at all, long ones by `factor`.

    Args:
        low, high: Waves of which the original context has fewer than `low` are long, more than
            `high` short; between them the division is blended.
        original: The context that the model was first trained for, in tokens.
    Source: Llama 3.1's reference code, `apply_scaling`.
    """
    half = config.head // 2
    turns = config.theta ** (-np.arange(half, dtype=np.float64) / half)
    waves = original * turns / (2 * np.pi)  # in the original context
    share = np.clip((waves - low) / (high - low), 0, 1)
    return tuple(1 / ((1 - share) / factor + share))
