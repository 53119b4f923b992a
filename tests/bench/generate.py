"""Models that write, beside a bare loop over `session.run`: SmolLM2 in float32, and Whisper.

Answers are greedy. Guessing ahead is off where steps are compared, since a text that repeats itself
is then written several tokens a step; it has a row of its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import bare_loop
import processes
import sentences
import streams
import wire
from bare_loop import Wanted
from plan import Plan
from processes import Target
from table import Row, at_least, at_most, value_at_most
from tokenizers import Tokenizer

from aiaas_server.zoo.packages import cache_dir
from aiaas_server.zoo.pull import pull
from tests import recordings, tiny_llm

GROUP: Final = "generate"
MODEL: Final = "smollm2-135m"
SPEECH: Final = "whisper-tiny-en"
TINY: Final = "tiny"
EDITION: Final = "2"
"""Of the models that are kept in the cache; raise it when the zoo builds others."""
STREAMS: Final = 8
CLIPS: Final = 8
JOINS: Final = 500
PREFIX: Final = 2_000
MILLI: Final = 1e3
CORES: Final = len(os.sched_getaffinity(0))


def rows(plan: Plan) -> Iterator[Row]:
    """All of it."""
    text = pulled(plan, MODEL)
    with processes.aiaas(text, generate_speculate="false") as server:
        tokens = Tokens(text / MODEL / "1")
        yield from _rates(plan, server, text / MODEL / "1", tokens)
        yield from _joining(plan, server, tokens)
        yield from _prefix(plan, server, tokens)
        with processes.aiaas(text) as guessing:
            yield from _guessing(plan, guessing, server, tokens)
    yield from _outside(plan, text)
    yield from _speech(plan)
    yield from _memory(plan)


def pulled(plan: Plan, name: str) -> Path:
    """A repository with a model of the zoo alone, and what belongs to it."""
    kept, folder = cache_dir() / "writing" / EDITION, plan.work / f"{name}-alone"
    if not (kept / name / "1" / "model.onnx").exists():
        pull(name, kept)
    folder.mkdir(exist_ok=True)
    for model in kept.glob(f"{name}*"):
        if not (folder / model.name).exists():
            (folder / model.name).symlink_to(model)
    return folder


class Tokens:
    """Prompts out of Python's manual, of any length, none twice."""

    def __init__(self, model: Path) -> None:
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        texts = sentences.manual()
        random.Random(0).shuffle(texts)
        self._tokens = tokenizer.encode(" ".join(texts)).ids
        self._at = 0

    def take(self, count: int) -> tuple[int, ...]:
        """The next ones; from the beginning once all were given."""
        if self._at + count > len(self._tokens):
            self._at = 0
        self._at += count
        return tuple(self._tokens[self._at - count : self._at])

    def mixed(self, count: int) -> list[Wanted]:
        """Prompts of 5 to 120 tokens with answers of 64 to 256."""
        chance = random.Random(count)
        return [
            Wanted(self.take(chance.randint(5, 120)), chance.randint(64, 256)) for _ in range(count)
        ]


def asked(wanted: Sequence[Wanted]) -> list[bytes]:
    """Requests for what is wanted, in events."""
    return [streams.request(MODEL, one.prompt, one.tokens) for one in wanted]


# Tokens a second


def _rates(plan: Plan, server: Target, model: Path, tokens: Tokens) -> Iterator[Row]:
    loop = bare_loop.Loop(model / "model.onnx", CORES)
    seconds = plan.seconds * 5
    bare, one, many = [], [], []
    for _ in range(plan.rounds):
        wanted = tokens.mixed(64)  # new ones, that no cache of prompts knows
        bare.append(bare_loop.rate(loop, wanted, seconds))
        one.append(streams.rate(server, asked(wanted[:32]), 1, seconds))
        many.append(streams.rate(server, asked(wanted[32:]), STREAMS, 2 * seconds))
    unit, name = "tokens/s", f"{STREAMS} streams, mixed prompts"
    yield Row(GROUP, name, max(many), unit, max(one), "one stream", at_least(4.0))
    yield Row(GROUP, "one stream", max(one), unit, max(bare), "bare loop", at_least(0.95))


def _guessing(plan: Plan, guesses: Target, steps: Target, tokens: Tokens) -> Iterator[Row]:
    """What guessing ahead changes for one stream."""
    with_it, without = [], []
    for _ in range(max(1, plan.rounds // 2)):
        requests = asked(tokens.mixed(32))
        for target, found in ((guesses, with_it), (steps, without)):
            found.append(streams.rate(target, requests, 1, plan.seconds * 5))
    name = "one stream, guessing ahead"
    yield Row(GROUP, name, max(with_it), "tokens/s", max(without), "one stream")


# A long prompt joins


def _joining(plan: Plan, server: Target, tokens: Tokens) -> Iterator[Row]:
    found = [_joined(server, tokens) for _ in range(plan.rounds)]
    longest, step, first = min(found, key=lambda one: one[0] / one[1])
    name = f"a prompt of {JOINS} tokens joins {STREAMS - 1} streams"
    yield Row(
        GROUP, f"{name}: longest gap of these", longest * MILLI, "ms", step * MILLI,
        "a step of them", at_most(2.0),
    )  # fmt: skip
    yield Row(GROUP, f"{name}: time to its first token", first * MILLI, "ms")


def _joined(server: Target, tokens: Tokens) -> tuple[float, float, float]:
    """Longest gap of the others, their usual one before, seconds to the first token."""
    before, most = 24, 900
    others = [streams.request(MODEL, tokens.take(16), most) for _ in range(STREAMS - 1)]
    late = streams.request(MODEL, tokens.take(JOINS), 4)
    joined = False

    def join(running: list[streams.Stream]) -> bytes | None:
        nonlocal joined
        if joined or min(len(stream.times) for stream in running) < before:
            return None
        joined = True
        return late

    *running, last = streams.heard(server, others, join)
    usual, gaps = [], []
    for stream in running:
        for began, ended in pairwise(stream.times):
            if ended < last.sent:
                usual.append(ended - began)
            elif began < last.times[0]:
                gaps.append(ended - began)
    return max(gaps), statistics.median(usual), last.first


# A prompt that begins as another one


def _prefix(plan: Plan, server: Target, tokens: Tokens) -> Iterator[Row]:
    firsts, seconds = [], []
    for _ in range(max(1, plan.rounds // 2)):
        prefix = tokens.take(PREFIX)
        for found in (firsts, seconds):
            one = streams.request(MODEL, (*prefix, *tokens.take(16)), 2)
            found.append(streams.heard(server, [one])[0].first)
    name = f"{PREFIX:,} tokens of common prefix: time to the first token"
    first, second = min(firsts) * MILLI, min(seconds) * MILLI
    yield Row(GROUP, name, second, "ms", first, "the first request", at_most(0.2))


# What the server's own code costs


def _outside(plan: Plan, models: Path) -> Iterator[Row]:
    file = plan.work / "timed.json"
    here = Path(__file__).with_name("timed.py")
    command = [sys.executable, str(here), str(models), str(file)]
    tokens = Tokens(models / MODEL / "1")
    with processes.started("timed", command) as server:
        streams.rate(server, asked(tokens.mixed(8)), STREAMS, plan.seconds)
        found = []
        for _ in range(plan.rounds):
            before = _told(server, file)
            streams.rate(server, asked(tokens.mixed(16)), STREAMS, plan.seconds * 2.5)
            after = _told(server, file)
            runs, cpu, outside = (after[key] - before[key] for key in ("runs", "cpu", "outside"))
            found.append((outside / runs, (cpu - outside) / runs))
    outside, inside = min(found, key=lambda one: one[0] / one[1])
    name = f"CPU outside of session.run, a step of {STREAMS}"
    yield Row(GROUP, name, outside * MILLI, "ms", inside * MILLI, "session.run", at_most(0.08))


def _told(server: Target, file: Path) -> dict[str, float]:
    file.unlink(missing_ok=True)
    os.kill(server.pid, signal.SIGUSR1)
    while not file.exists():
        time.sleep(0.01)
    told: dict[str, float] = json.loads(file.read_text("utf-8"))
    return told


# Speech


def _speech(plan: Plan) -> Iterator[Row]:
    clips = [clip for clip in recordings.CLIPS if clip.path.exists()][: plan.count(CLIPS, 2)]
    if not clips:
        return  # they are in Debian's package pocketsphinx-testdata
    requests = [_transcription(recordings.recording(clip)) for clip in clips]
    with processes.aiaas(pulled(plan, SPEECH)) as server:
        server.ask(requests[0])
        ways: dict[int, list[float]] = {1: [], len(clips): []}
        for _ in range(max(1, plan.rounds // 2)):
            for at_once, rates in ways.items():
                rates.append(len(clips) / _timed(partial(_transcribe, server, requests, at_once)))
    one, many = (max(rates) for rates in ways.values())
    name = f"Whisper, {len(clips)} clips at once"
    yield Row(GROUP, name, many, "clips/s", one, "one after another", at_least(1.3))


def _transcription(content: bytes) -> bytes:
    border = uuid.UUID(int=0).hex
    parts = [
        f'--{border}\r\ncontent-disposition: form-data; name="model"\r\n\r\n{SPEECH}\r\n'.encode(),
        f'--{border}\r\ncontent-disposition: form-data; name="file"; filename="clip.wav"\r\n'
        "content-type: audio/wav\r\n\r\n".encode(),
        content,
        f"\r\n--{border}--\r\n".encode(),
    ]
    kind = f"multipart/form-data; boundary={border}"
    return wire.post("/v1/audio/transcriptions", b"".join(parts), kind)


def _transcribe(server: Target, requests: Sequence[bytes], at_once: int) -> None:
    with ThreadPoolExecutor(at_once) as threads:
        for answer in threads.map(server.ask, requests):
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"answered {answer[:300]!r}")


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# Memory


def _memory(plan: Plan) -> Iterator[Row]:
    """Whole answers and streams, long and short, many alike: as a small model is used."""
    folder = plan.work / "tiny-writer"
    tiny_llm.write_model(folder, TINY)
    chance = random.Random(0)
    requests = [
        streams.request(
            TINY,
            [chance.randrange(3, 300) for _ in range(chance.randint(1, 100))],
            chance.randint(1, 12),
            stream=chance.random() < 0.5,
        )
        for _ in range(400)
    ]
    wanted = plan.count(10_000, 100)
    with processes.aiaas(folder, max_connections_per_address=0) as server:
        served = 0
        while served < max(wanted // 5, len(requests)):  # every prompt has been there
            served += _served(plan, server, requests)
        before, served = server.settled_rss(), 0
        while served < wanted:
            served += _served(plan, server, requests)
        growth = server.settled_rss() - before
    name = f"growth over {served:,} requests to a tiny model"
    yield Row(GROUP, name, growth / 1e6, "MB", None, "", value_at_most(5))


def _served(plan: Plan, server: Target, requests: list[bytes]) -> int:
    return round(processes.one_round(server, requests, STREAMS, plan.seconds * 3).requests)
