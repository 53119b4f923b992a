"""What the throw-away process is asked, and what it may answer: lines of JSON, each bounded."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from aiaas_client.protocol.management import Report, TensorSpec

Phase = Literal["start", "read", "check", "load", "run", "task", "golden"]

DOING: Final[dict[Phase, str]] = {
    "start": "before its file was opened",
    "read": "while its file was read",
    "check": "while ONNX's checker looked at it",
    "load": "while it was loaded",
    "run": "while it was run on made-up input",
    "task": "while the task of its card was opened and tried",
    "golden": "while its golden set was run",
}
"""Where a process was that ended without a verdict."""
_CPU: Final = frozenset({"cpu", "CPUExecutionProvider"})


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Order(_Line):
    """What is to be verified, and within which limits.

    Attributes:
        directory: Where the bundle lies; `name` is the model's.
        digests: SHA-256 of its files, of those that are known already.
        memory_bytes: What the process may take beyond what it has before it opens a file.
        cpu_seconds: Processor time.
    """

    directory: str
    name: str
    digests: dict[str, str]
    memory_bytes: int
    cpu_seconds: int
    providers: tuple[str, ...]
    threads: int

    @property
    def on_cpu(self) -> bool:
        """Whether nothing but the processor is used."""
        return _CPU.issuperset(self.providers)


class Verified(_Line):
    """What was found of a bundle that is fit to be served.

    Attributes:
        inputs: As it will be served: with the batch dimension first where it batches.
        card: `model.json` as it was brought; None where there is none.
        metrics: The card's, and that of the golden set as `golden_<metric>`.
        profile: The reference that its golden set makes, as `monitor.profile` reads it; None where
            it has too few rows for one.
    """

    report: Report
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    card: dict[str, Any] | None = None
    metrics: dict[str, Any] = {}
    profile: dict[str, Any] | None = None


class Line(_Line):
    """One line of the process: where it is, or how it ends.

    Attributes:
        rejected: Why the bundle is refused.
        failed: The process itself did, by an exception of this name.
    """

    phase: Phase | None = None
    verified: Verified | None = None
    rejected: str | None = None
    failed: str | None = None


def no_room(memory_bytes: int, phase: Phase) -> str:
    """The reason of a refusal for memory."""
    return (
        f"the model needs more than the {memory_bytes} bytes of memory it may take {DOING[phase]}"
    )
