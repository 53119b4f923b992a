"""Whether a new version keeps what its guard promises, decided from counts alone.

That it is *good enough* to go on is said only after the step's whole time, with enough requests,
and where each measure is within its bound. That it is *broken* is said at any moment, and before
`min_requests` too (but for disagreement: to answer otherwise is no failure), but only where chance
does not explain what was counted: a one-sided binomial test at a level so low that a second look
every second, for hours, raises no false alarm. Between the two the step waits.

What is turned away, because there is no room for it or because the runtime blames the input, may
be the callers' fault or the version's. The old version tells which: it gets the same traffic.

The 99th percentile is judged by counting as well: were the new version as quick as allowed, one
request in a hundred would take longer than the old one's 99th percentile times the ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Final, NamedTuple

from aiaas_client.protocol.management import Guard
from aiaas_server.core.histogram import Histogram
from aiaas_server.core.tally import Tally, Verdict
from aiaas_server.monitor.binomial import chance_of_at_least

CHANCE: Final = 1e-5
"""What is less likely than this by chance alone is not chance."""
FEWEST_HITS: Final = 3
"""So many must have failed, or been slow, before a version is called broken."""
FEWEST_TIMES: Final = 200
"""Times of the old version without which its 99th percentile is not known."""
MIRRORED_SHARE: Final = 0.25
"""Of the old version's requests that the new one gets as well where `max_disagreement` is set."""
_TAIL: Final = 0.01
_SIGMAS: Final = 4.0


class Measure(NamedTuple):
    """One bound of a guard against what was counted.

    Attributes:
        text: What was counted, and the bound, in words.
        hits, trials: Bad ones of all; None of them is bad where that is 0.
        allowed: The share of bad ones that is allowed.
        within: Whether what was counted keeps the bound, proven or not.
        needed: Trials without which it says nothing good.
        of: What is counted.
        is_clear: Whether a bad one is a failure beyond doubt, so that fewer than `needed` may prove
            that the bound is broken.
    """

    text: str
    hits: int
    trials: int
    allowed: float
    within: bool
    needed: int
    of: str
    is_clear: bool = True

    @property
    def is_broken(self) -> bool:
        """Whether chance does not explain it."""
        if not self.is_clear and self.trials < self.needed:
            return False
        if self.hits < FEWEST_HITS and self.allowed > 0:
            return False
        return chance_of_at_least(self.hits, self.trials, self.allowed) < CHANCE


def judge(guard: Guard, new: Tally, old: Tally, lasted: float) -> Verdict:
    """What to do with a step.

    Args:
        new: Of the version that is rolled out, in this step.
        old: Of the one it may take the place of; of earlier steps where it gets no traffic now.
        lasted: Seconds since the step began.
    """
    measures = [*_measures(guard, new, old)]
    for measure in measures:
        if measure.is_broken:
            return Verdict("broken", measure.text)
    if lasted < guard.window:
        return Verdict("waits", f"the step lasts {guard.window:g} s, {lasted:.0f} s are over")
    if new.requests < guard.min_requests:
        return Verdict("waits", f"{new.requests} of {guard.min_requests} requests that it takes")
    for measure in measures:
        if measure.trials < measure.needed:
            counted = f"{measure.trials} of {measure.needed} {measure.of} that it takes"
            return Verdict("waits", counted)
        if not measure.within:
            return Verdict("waits", f"more requests will tell: {measure.text}")
    times = f" in {lasted:.0f} s"
    return Verdict("passed", f"{new.requests} requests, {new.failures} failed{times}")


def _measures(guard: Guard, new: Tally, old: Tally) -> Iterator[Measure]:
    if guard.max_error_rate is not None:
        bound, needed = guard.max_error_rate, guard.min_requests
        failed = f"{new.failures} of {new.requests} requests"
        yield _share(new.failures, new.requests, bound, needed, "requests", failed, "failed")
        yield from _turned_away(bound, new, old, needed)
    if guard.max_disagreement is not None:
        measure = _share(
            new.disagreed,
            new.mirrored,
            guard.max_disagreement,
            guard.min_requests,
            "mirrored requests",
            f"{new.disagreed} of {new.mirrored} mirrored requests",
            "were answered differently",
        )
        yield measure._replace(is_clear=False)
    if guard.min_accuracy is not None:
        wrong, bound = new.labelled - new.correct, 1.0 - guard.min_accuracy
        known = f"{new.correct} of {new.labelled} labelled answers"
        at_least = f"the guard asks for at least {_percent(guard.min_accuracy)}"
        share = 0.0 if not new.labelled else new.correct / new.labelled
        text = f"{known} were right ({share:.2%}); {at_least}"
        within = share >= guard.min_accuracy
        yield Measure(
            text, wrong, new.labelled, bound, within, guard.min_requests, "labelled answers"
        )
    if guard.max_p99_ratio is not None and old.latency.count:
        yield _slowness(guard.max_p99_ratio, new.latency, old.latency)
    elif guard.max_p99_ratio is not None:
        yield Measure("", 0, 0, _TAIL, True, FEWEST_TIMES, "answers of the old version")


def _turned_away(bound: float, new: Tally, old: Tally, needed: int) -> Iterator[Measure]:
    """What fails beyond what the old version turns away too; to blame an input takes a witness."""
    turned = new.refused + (new.invalid if old.requests else 0)
    if not turned:
        return
    before = old.refused + old.invalid
    usual = before / old.requests if old.requests else 0.0
    hits = new.failures + turned
    text = (
        f"{hits} of {new.requests} requests failed or were turned away "
        f"({hits / new.requests:.2%}), {before} of {old.requests} by the old version; "
        f"the guard allows at most {_percent(bound)} more"
    )
    allowed = min(bound + _at_most(before, old.requests), 1.0)
    within = hits <= (bound + usual) * new.requests
    yield Measure(text, hits, new.requests, allowed, within, needed, "requests")


def _at_most(hits: int, trials: int) -> float:
    """The share that lies behind so many of so many, four standard deviations up; 0.0 of none.

    Source: Wilson 1927, *Probable Inference, the Law of Succession, and Statistical Inference*.
    """
    if not trials:
        return 0.0
    share, z2n = hits / trials, _SIGMAS**2 / trials
    spread = _SIGMAS * sqrt(share * (1 - share) / trials + z2n / (4 * trials))
    return (share + z2n / 2 + spread) / (1 + z2n)


def _share(
    hits: int, trials: int, bound: float, needed: int, of: str, what: str, verb: str
) -> Measure:
    share = hits / trials if trials else 0.0
    text = f"{what} {verb} ({share:.2%}); the guard allows at most {_percent(bound)}"
    return Measure(text, hits, trials, bound, share <= bound, needed, of)


def _percent(bound: float) -> str:
    return f"{100 * bound:.6g} %"


def _slowness(ratio: float, new: Histogram, old: Histogram) -> Measure:
    if old.count < FEWEST_TIMES:
        return Measure("", 0, old.count, _TAIL, True, FEWEST_TIMES, "answers of the old version")
    usual, most = old.quantile(0.99), _surely_p99(old) * ratio
    found = new.quantile(0.99)
    text = (
        f"the 99th percentile of {new.count} answers is {_shown(found)}, "
        f"{found / usual:.2f} times that of the old version ({_shown(usual)}); "
        f"at most {ratio:g} times are allowed"
    )
    within = found <= usual * ratio
    return Measure(text, new.above(most), new.count, _TAIL, within, 1, "answers")


def _surely_p99(times: Histogram) -> float:
    """Seconds below which the true 99th percentile lies; the longest time where nobody can tell."""
    fraction = 0.99
    spread = _SIGMAS * sqrt(fraction * (1 - fraction) / times.count)
    return times.quantile(min(fraction + spread, 1.0))


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1.0 else f"{seconds * 1e3:.3g} ms"
