"""Real models served, beside the same rows through `session.run` in process.

The load generator shares the cores with the server, so CPU a row is the figure to trust.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import inprocess
import numpy as np
import processes
import wire
from table import Row
from zoo import efficientnet, minilm, photographs

MILLI = 1e3
Inputs = Mapping[str, np.ndarray[Any, np.dtype[Any]]]

SENTENCES = [
    "Good morning.",
    "Where is the nearest train station?",
    "The committee will meet again on Thursday afternoon.",
    "A cat sits on the mat while the rain falls quietly on the roof of the old house.",
    "Prices rose by three percent in the second quarter, faster than economists had expected.",
    "She opened the letter, read the first line twice, folded it again and put it on the table "
    "without a word, because there was nothing left that anyone in the room could have said.",
    "Please send the invoice to the new address.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen; it happens in "
    "the green parts of plants, in algae and in some bacteria, and nearly all life depends on it.",
]


def rows(models: Path, seconds: float, rounds: int) -> Iterator[Row]:
    with processes.aiaas(models) as server:
        tokenizer = minilm.tokenizer()
        sentences = [dict(minilm.encode(tokenizer, [s])) for s in SENTENCES]
        yield from _served("minilm", server, models, sentences, 32, seconds, rounds)
        pictures = [{"image": efficientnet.preprocess(f.path)[None]} for f in photographs.FILES]
        yield from _served("efficientnet-lite0", server, models, pictures, 16, seconds, rounds)
        yield Row("three models", "resident memory after the load", server.rss() / 1e6, "MB")


def _served(
    model: str,
    server: processes.Target,
    models: Path,
    inputs: Sequence[Inputs],
    connections: int,
    seconds: float,
    rounds: int,
) -> Iterator[Row]:
    session = inprocess.open_session(models / model / "1" / "model.onnx")
    bare = inprocess.measure(lambda x: session.run(None, x), inputs, seconds * rounds)
    requests = [wire.binary(model, one) for one in inputs]
    for count in (1, connections):
        (load,) = processes.interleaved([(server, requests)], count, seconds, rounds)
        name = f"{count} conn, one row each"
        cpu, in_process = load.cpu * MILLI, bare.cpu * MILLI
        yield Row(model, f"{name}: server CPU", cpu, "ms/row", in_process, "session.run")
        yield Row(model, f"{name}: rate", load.rate, "rows/s", 1 / bare.p50, "session.run")
        alone = bare.p50 * MILLI if count == 1 else None
        beside = "session.run" if count == 1 else ""
        yield Row(model, f"{name}: p50", load.p50 * MILLI, "ms", alone, beside)
