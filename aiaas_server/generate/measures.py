"""What models that write add to the metrics page.

Three families have OpenTelemetry's names for generative models, as Prometheus spells them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from aiaas_server.core.generation import Generator
from aiaas_server.core.measures import Family, FamilyKind, Sample
from aiaas_server.generate.accounts import Counts, Times


class Writes(Protocol):
    """A loaded version, which may have a generator."""

    @property
    def full(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def generator(self) -> Generator | None: ...


@runtime_checkable
class Counted(Protocol):
    """A generator that counts."""

    @property
    def counts(self) -> Counts: ...


Labels = Mapping[str, str]
Row = tuple[str, str, Callable[[Counts], float]]
"""Name, meaning, and where it is found."""

_TIMES: tuple[tuple[str, str, Callable[[Counts], Times]], ...] = (
    (
        "gen_ai_server_request_duration_seconds",
        "Time from acceptance to the end of complete answers",
        lambda c: c.requests,
    ),
    (
        "gen_ai_server_time_to_first_token_seconds",
        "Time from acceptance to an answer's first token",
        lambda c: c.first_token,
    ),
    (
        "gen_ai_server_time_per_output_token_seconds",
        "Time of each further token, averaged over an answer",
        lambda c: c.each_token,
    ),
)
_COUNTERS: tuple[Row, ...] = (
    ("aiaas_generation_prompt_tokens_total", "Tokens of prompts", lambda c: c.tokens_in),
    ("aiaas_generation_output_tokens_total", "Tokens of answers", lambda c: c.tokens_out),
    (
        "aiaas_generation_cached_tokens_total",
        "Tokens of prompts that the cache had",
        lambda c: c.tokens_cached,
    ),
    (
        "aiaas_generation_prefix_hit_tokens_total",
        "Tokens that the prefix cache was asked for and had",
        lambda c: c.network.get("prefix_hit_tokens", 0),
    ),
    (
        "aiaas_generation_prefix_lookup_tokens_total",
        "Tokens that the prefix cache was asked for",
        lambda c: c.network.get("prefix_lookup_tokens", 0),
    ),
    ("aiaas_generation_guessed_tokens_total", "Tokens guessed ahead", lambda c: c.guessed),
    (
        "aiaas_generation_guessed_right_tokens_total",
        "Tokens guessed ahead that were kept",
        lambda c: c.guessed_right,
    ),
    (
        "aiaas_generation_preemptions_total",
        "Answers whose slot was taken for want of memory, to be worked out anew",
        lambda c: c.preemptions,
    ),
)
_AMOUNTS: tuple[Row, ...] = (
    ("aiaas_generation_slots", "Answers that can be written at a time", lambda c: c.slots),
    ("aiaas_generation_running", "Answers that are written now", lambda c: c.running),
    ("aiaas_generation_waiting", "Answers that wait for a slot", lambda c: c.waiting),
    (
        "aiaas_generation_kv_bytes",
        "Keys and values of the answers that are written",
        lambda c: c.network.get("kv_bytes", 0),
    ),
    (
        "aiaas_generation_kv_bytes_limit",
        "What these may take",
        lambda c: c.network.get("kv_bytes_limit", 0),
    ),
    (
        "aiaas_generation_prefix_bytes",
        "Keys and values of earlier prompts",
        lambda c: c.network.get("prefix_bytes", 0),
    ),
)


def families_of(models: Iterable[Writes]) -> list[Family]:
    """The families of all generators among `models`; none where there is none."""
    counted: list[tuple[Labels, Counts]] = []
    for model in models:
        counts = _counts_of(model.generator)
        if counts is not None:
            counted.append(({"model": model.full, "version": str(model.version)}, counts))
    if not counted:
        return []
    families = [
        Family(name, "histogram", text, [s for at, c in counted for s in _samples(at, read(c))])
        for name, text, read in _TIMES
    ]
    tables: tuple[tuple[FamilyKind, tuple[Row, ...]], ...] = (
        ("counter", _COUNTERS),
        ("amount", _AMOUNTS),
    )
    for kind, table in tables:
        families += [
            Family(name, kind, text, [("", at, float(read(c))) for at, c in counted])
            for name, text, read in table
        ]
    return families


def _counts_of(generator: object) -> Counts | None:
    return generator.counts if isinstance(generator, Counted) else None


def _samples(labels: Labels, times: Times) -> Iterator[Sample]:
    running = 0
    for bound, count in zip([*times.bounds, None], list(times.counts), strict=True):
        running += count
        edge = "+Inf" if bound is None else f"{bound:.12g}"
        yield "_bucket", {**labels, "le": edge}, running
    yield "_sum", labels, times.total
    yield "_count", labels, running
