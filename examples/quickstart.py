"""The main job on real models: `make demo`, or `python examples/quickstart.py`.

Fetches three small models, serves them with `aiaas serve`, and calls them through the SDK:
photographs are classified, sentences ranked by meaning, ten thousand digits read in bulk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from serving import serve
from zoo import digits, efficientnet, minilm, photographs, repository

from aiaas_client import Client

ROWS = 10_000
QUERY = "How can I get my money back?"
SENTENCES = [
    "Refunds are paid within ten days of a return.",
    "Our shop opens at nine in the morning.",
    "The warranty covers faults in material for two years.",
    "You can cancel an order until it has been shipped.",
    "A cat sits on the mat.",
]

console = Console(highlight=False)


class Step(NamedTuple):
    """What one part did: rows through a model in so many seconds, and what came out."""

    model: str
    rows: int
    seconds: float
    outcome: str


def main() -> None:
    began = time.perf_counter()
    models = repository.prepare(report=lambda line: console.print(f"  {line}"))
    console.print(f"models ready in {time.perf_counter() - began:.1f} s")
    with serve(models) as server, Client(server.url) as client:
        info = client.metadata()
        console.print(f"{info.name} {info.version} listens on {server.url}\n")
        steps = [classify(client), rank(client), read_digits(client)]
        show(client, steps)
        code = server.stop()
    console.print(
        f"server stopped with exit code {code}; {time.perf_counter() - began:.1f} s in all"
    )
    if code != 0:
        raise SystemExit(code)


def classify(client: Client) -> Step:
    """Name what is on five photographs; the server turns class numbers into labels."""
    pictures = [file.path for file in photographs.FILES]
    batch = np.stack([efficientnet.preprocess(path) for path in pictures])  # (5, 3, 224, 224)
    with stopwatch() as seconds:
        result = client.model("efficientnet-lite0").infer(image=batch, classification=3)
    table = Table("photograph", "first", "second", "third", title="What is on it?")
    best = [[label(text) for text in row] for row in result["probabilities"]]
    for path, row in zip(pictures, best, strict=True):
        table.add_row(path.name, *row)
    console.print(table)
    return Step("efficientnet-lite0", len(batch), seconds(), f"{pictures[0].name}: {best[0][0]}")


def label(text: bytes) -> str:
    """`0.951:967:espresso, ...` as the server writes it, for people."""
    score, _, name = text.decode().split(":", 2)
    return f"{name.split(',')[0]} {float(score):.3f}"


def rank(client: Client) -> Step:
    """Order sentences by how near they are to a question in meaning, not in words."""
    inputs = minilm.encode(minilm.tokenizer(), [QUERY, *SENTENCES])
    with stopwatch() as seconds:
        result = client.model("minilm").infer(inputs)
    vectors = minilm.pool(result["last_hidden_state"], inputs["attention_mask"])  # (6, 384)
    similarity = vectors[1:] @ vectors[0]
    table = Table("similarity", "sentence", title=f"“{QUERY}”")
    for i in np.argsort(-similarity):
        table.add_row(f"{similarity[i]:.3f}", SENTENCES[i])
    console.print(table)
    best = SENTENCES[int(similarity.argmax())].partition(" ")[0]
    return Step("minilm", len(vectors), seconds(), f"{best}: {similarity.max():.3f}")


def read_digits(client: Client) -> Step:
    """Score many rows: any iterable goes in, results come out one by one and in order."""
    _, held_out = digits.load()
    images, truth = digits.shifted(held_out, ROWS, np.random.default_rng(0))
    with stopwatch() as seconds:
        results = client.model("digits").infer_many(images, progress=True)
        read = np.array([result["logits"].argmax() for result in results])
    right = f"{(read == truth).mean():.1%} right"
    return Step("digits", ROWS, seconds(), right)


def show(client: Client, steps: list[Step]) -> None:
    table = Table(title="What was done")
    for name in ("model", "rows", "seconds", "rows/s", "mean batch", "outcome"):
        right = name in {"rows", "seconds", "rows/s", "mean batch"}
        table.add_column(name, justify="right" if right else "left")
    for step in steps:
        (told,) = client.model(step.model).statistics()
        table.add_row(
            step.model,
            f"{step.rows:,}",
            f"{step.seconds:.3f}",
            f"{step.rows / step.seconds:,.0f}",
            f"{told.mean_batch_size:.1f}",
            step.outcome,
        )
    console.print(table)


class Seconds:
    """Seconds since it was made, until it is stopped."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.total: float | None = None

    def __call__(self) -> float:
        return time.perf_counter() - self.began if self.total is None else self.total


@contextmanager
def stopwatch() -> Iterator[Seconds]:
    seconds = Seconds()
    yield seconds
    seconds.total = seconds()


if __name__ == "__main__":
    main()
