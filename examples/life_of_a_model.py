"""From a table to a better model, on a real server: `python examples/life_of_a_model.py`.

Tissue samples are uploaded as a data set. A tree and a network learn from them, each a job on the
server, and are compared on rows that neither has seen. The better one is made faster, takes over
from the other under a guard, while callers send samples, and says why it answers as it does. Then
one step back, and an erasure of everything.

It needs the extras `server`, `platform` and `torch`, which brings `train`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table
from serving import serve
from sklearn.datasets import load_breast_cancer

from aiaas_client import Client, ConflictError, Guard

NAME = "tissue"
LATER = 119  # samples that come as traffic; the others are learned from
AT_ONCE = 3  # samples of a caller's request
GUARD = Guard(min_accuracy=0.85, window=1.0, steps=[0.3, 1.0], min_requests=20)
# More of the time goes into starting processes than into learning.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "decision-tree-classifier": {},
    "mlp-classifier": {"hidden": [64, 32], "epochs": 20},
}

console = Console(highlight=False, width=100)


def main() -> None:
    """Do it all; ends with the exit code of the server."""
    began = time.perf_counter()
    learned, later = samples()
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory()))
        server = stack.enter_context(serve(data=place / "data", jobs=1))
        client = stack.enter_context(Client(server.url))
        upload(client, learned)
        tree, network = train(client)
        compare(client, tree, network)
        faster = optimise(client, network)
        callers = traffic(client, later)
        promote(client, tree, faster, callers)
        explain(client, later)
        go_back(client, callers)
        show_history(client)
        erase(client)
        code = server.stop()
    seconds = time.perf_counter() - began
    console.print(f"server stopped with exit code {code}; {seconds:.1f} s in all")
    if code != 0:
        raise SystemExit(code)


def samples() -> tuple[Any, Any]:
    """Frames of 30 measurements and a diagnosis: one to learn from, one that comes later."""
    data: Any = load_breast_cancer(as_frame=True)
    frame = data.frame.drop(columns="target")
    frame["diagnosis"] = data.target.map(dict(enumerate(data.target_names)))
    mixed = frame.sample(frac=1.0, random_state=0)
    return mixed[LATER:], mixed[:LATER]


def upload(client: Client, frame: Any) -> None:
    """The server reads the rows, and says what it found; the same rows again are the same."""
    data = client.datasets.upload(NAME, frame, note="Wisconsin, 1995")
    again = client.datasets.upload(NAME, frame)
    assert again.ref == data.ref
    assert again.created_now is False
    title = f"{data.ref}: {data.rows} rows"
    table = Table("column", "kind", "least", "most", "classes", title=title)
    for column in (*data.columns[:2], data.column("diagnosis")):
        ends = [] if column.kind == "category" else [column.minimum, column.maximum]
        classes = ", ".join(f"{one.value} {one.rows}" for one in column.classes)
        low, high = (f"{end:.4g}" for end in ends) if ends else ("", "")
        table.add_row(column.name, column.kind, low, high, classes)
    console.print(table)


def train(client: Client) -> tuple[str, str]:
    """Two recipes on the same rows; each job gives a verified version."""
    titles = {one.name: one.title for one in client.jobs.recipes()}
    jobs = [
        client.jobs.train(
            NAME, recipe=recipe, params=params, dataset=NAME, target="diagnosis", split=0.3
        )
        for recipe, params in RECIPES.items()
    ]
    metrics = ("accuracy", "precision", "recall", "f1", "log_loss")
    table = Table("version", "recipe", *metrics, title="on held-out rows")
    for job in jobs:  # the second one waits for the first one's place
        job.wait(300)
        cells = (f"{job.metrics[name]:.3f}" for name in metrics)
        table.add_row(job.version, titles[job.spec["recipe"]], *cells)
    console.print(table)
    tree, network = (str(job.version) for job in jobs)
    client.models.promote(NAME, number(tree), note="the first one")
    return tree, network


def compare(client: Client, old: str, new: str) -> None:
    """Both answer the same rows; the bootstrap tells chance from difference."""
    job = client.jobs.compare(old, new, dataset=NAME, held_out=True).wait(300)
    table = Table("metric", old, new, "difference", "with 95 % between", "better", title="compare")
    for row in job.table:
        sides = {"a": old, "b": new, None: "may be chance"}
        shown = [f"{row[key]:.3f}" for key in ("a", "b", "difference", "low", "high")]
        between = f"{shown[3]} and {shown[4]}"
        table.add_row(row["metric"], *shown[:3], between, sides[row["better"]])
    console.print(table)
    assert job.result is not None
    found = job.result.details
    console.print(
        f"of {found['rows']} rows {found['fixed']['rows']} are right now that were wrong, "
        f"{found['broken']['rows']} wrong that were right\n"
    )


def optimise(client: Client, version: str) -> str:
    """Smaller and faster ones, each measured; gives the fastest that loses no accuracy."""
    job = client.jobs.optimise(version, dataset=NAME, held_out=True, max_drop=0.01).wait(300)
    table = Table("candidate", "accuracy", "bytes", "one row", "outcome", title="optimise")
    for row in job.table:
        if row["outcome"] == "none":
            table.add_row(row["candidate"], "", "", "", row["reason"])
            continue
        told = row["reason"] or row["outcome"]
        speed = f"{1e3 * row['p50_ms']:.1f} µs"
        size = f"{row['size_bytes']:,}"
        table.add_row(row["candidate"], f"{row['accuracy']:.3f}", size, speed, told)
    console.print(table)
    made = {row["candidate"]: row for row in job.table if row["outcome"] == "version"}
    fastest = min(made, key=lambda name: made[name]["p50_ms"])
    of_candidate = {
        client.models.version(NAME, number(one)).lineage["optimisation"]: one
        for one in job.versions
    }
    return of_candidate[fastest]


def traffic(client: Client, later: Any) -> Iterator[float]:
    """Callers send samples, and tell the diagnosis afterwards; gives the share that was right."""
    endless = cycle(later.to_dict("records"))
    model = client.model(NAME)
    while True:
        rows = list(islice(endless, AT_ONCE))
        found = model.predict([measurements(row) for row in rows])
        told = [(one, row["diagnosis"]) for one, row in zip(found, rows, strict=True)]
        client.feedback_many(told)
        yield sum(one.label == truth for one, truth in told) / len(told)


def promote(client: Client, old: str, new: str, callers: Iterator[float]) -> None:
    """The new version gets the traffic step by step, as long as it is right often enough."""
    model = client.models.promote(NAME, number(new), guard=GUARD, note="faster")
    console.print(f"{new} takes over from {old}: first {shares(model.shares)}")
    right: list[float] = []
    while model.serving.rollout is not None:
        right += islice(callers, 10)
        model = client.models.about(NAME)
    assert model.production == number(new), client.models.history(NAME, limit=1)[0].reason
    console.print(
        f"then {shares(model.shares)}: {len(right) * AT_ONCE} samples answered meanwhile, "
        f"{sum(right) / len(right):.1%} rightly\n"
    )


def explain(client: Client, later: Any) -> None:
    """What the answer for one sample stands on."""
    (row,) = later.head(1).to_dict("records")
    found = client.model(NAME).explain(measurements(row))
    table = Table("measurement", "is", "adds", "±", title=f"why {found.output}?")
    for one in found.top(5):
        added = f"{one.contribution:+.3f}"
        table.add_row(one.feature, f"{one.value:.4g}", added, f"{one.error:.3f}")
    console.print(table)
    others = len(found.contributions) - 5
    rest = sum(one.contribution for one in found.contributions)
    rest -= sum(one.contribution for one in found.top(5))
    console.print(
        f"{found.base:.3f} on average, these 5, and {rest:+.3f} by the {others} others: "
        f"{found.prediction:.3f}\n"
    )


def go_back(client: Client, callers: Iterator[float]) -> None:
    """One call, and the version before answers again."""
    back = client.models.rollback(NAME, note="to see that it works")
    next(callers)
    console.print(f"rolled back: {shares(back.shares)}")
    made = client.models.version(NAME, "production")
    lineage = made.lineage
    console.print(
        f"version {made.version} is a {lineage['recipe']} of {lineage['dataset']}, seed "
        f"{lineage['seed']}, with scikit-learn {lineage['libraries']['scikit-learn']}\n"
    )


def show_history(client: Client) -> None:
    """Who answered when, and why."""
    table = Table("what", "version", "why", title="history")
    for entry in reversed(client.models.history(NAME)):
        table.add_row(entry.kind, str(entry.version or ""), entry.reason)
    console.print(table)


def erase(client: Client) -> None:
    """What serves is not erased by mistake; then the versions go, and the rows they came from."""
    try:
        client.models.delete(NAME, "production")
    except ConflictError as error:
        console.print(f"refused: {error}")
    proof = client.models.delete(NAME, force=True)
    assert proof.verified
    rows = client.datasets.delete(NAME, all=True)
    files = len(proof.artefacts) + sum(len(one.gone) for one in rows)
    versions = ", ".join(map(str, sorted(proof.versions)))
    left = [f"{one.ref} {one.state}" for one in client.datasets.versions(NAME)]
    console.print(
        f"erased: versions {versions} and the rows, {files} files removed; "
        f"remembered: {', '.join(left)}, {len(client.jobs.list())} jobs"
    )


def measurements(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller knows of a sample."""
    return {name: value for name, value in row.items() if name != "diagnosis"}


def number(version: str) -> int:
    """3 of `tissue@3`."""
    return int(version.rpartition("@")[2])


def shares(found: Mapping[int, float]) -> str:
    """Who gets the calls that name no version."""
    return ", ".join(f"version {one} {share:.0%}" for one, share in found.items())


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    main()
