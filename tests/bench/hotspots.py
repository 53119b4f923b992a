"""Where the server's CPU goes under load: its functions, lines or machine code by their own time.

    python tests/bench/hotspots.py binary                    # or JSON, turns, predict, ids
    python tests/bench/hotspots.py JSON --connections 1 --by lines     # or functions
    python tests/bench/hotspots.py binary --by native        # with Linux's perf

The server is `aiaas serve` in a process of its own, the load comes from another. Its CPU a request
is first measured without a profiler, so that a share can be told in microseconds. `calls` counts
each call but makes each dearer; the others look now and then at what runs, and distort next to
nothing. What the event loop does itself, `calls` does not see.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import graphs
import numpy as np
import processes
import sentiment
import wire
from profiled import VIEWS, Spot
from zoo import digits, repository

MICRO = 1e6


class Work(NamedTuple):
    """A model repository, and the requests to it."""

    models: Path
    requests: list[bytes]


def _digits(write: Callable[[str, wire.Arrays], bytes], folder: Path, count: int = 1) -> Work:
    """Requests to so many copies of the network, in turn."""
    names = graphs.copies(repository.prepare() / "digits", folder, count)
    _, held_out = digits.load()
    feeds = [{"image": np.ascontiguousarray(image[None])} for image in held_out.images[:64]]
    turns = max(count, len(feeds))
    return Work(folder, [write(names[at % count], feeds[at % len(feeds)]) for at in range(turns)])


def _sentiment(write: Callable[[list[str]], list[bytes]], folder: Path) -> Work:
    models = sentiment.repository(folder)
    return Work(models, write(sentiment.texts(sentiment.TEXTS)))


WORK: dict[str, Callable[[Path], Work]] = {
    "binary": lambda folder: _digits(wire.binary, folder),
    "JSON": lambda folder: _digits(wire.text, folder),
    "turns": lambda folder: _digits(wire.binary, folder, 100),
    "predict": lambda folder: _sentiment(sentiment.predicts, folder),
    "ids": lambda folder: _sentiment(sentiment.infers, folder),
}


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        work = WORK[options.work](place / "models")
        crowd = options.connections > 64
        with _server(work, options.by, place / "spots.json", crowd=crowd) as server:
            rounds = [_round(server, work, options) for _ in range(3)]
            cpu = min(load.cpu for load in rounds) * MICRO
            print(f"{options.work}, {options.connections} conn: {cpu:.1f} µs of CPU a request, "
                  f"{_system_share(server, work, options):.0%} of it in the kernel; "
                  f"{_rows_a_run(server, work, options):.1f} requests a run")  # fmt: skip
            if options.by == "native":
                _show_native(server, work, options, place / "perf.data", cpu)
            else:
                spots, count = _watched(server, work, options, place / "spots.json")
                _show(spots, count, cpu, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "work", choices=WORK,
        help="turns: 100 models in turn; ids: the sentiment model through infer",
    )  # fmt: skip
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0, help="of load while it is watched")
    parser.add_argument("--by", choices=[*VIEWS, "native"], default="calls")
    parser.add_argument("--top", type=int, default=40, help="how many are told")
    return parser.parse_args()


@contextmanager
def _server(work: Work, view: str, file: Path, *, crowd: bool) -> Iterator[processes.Target]:
    """The server: as it is for `native`, else with a profiler that waits for its signal."""
    script = [str(Path(__file__).resolve().with_name("profiled.py")), view, str(file)]
    entry = ["-m", "aiaas_server"] if view == "native" else script
    command = [sys.executable, *entry, "serve", "--models", str(work.models), "--port"]
    settings: dict[str, int | str] = {"metrics_port": 0, "log_level": "warning"}
    if crowd:
        settings |= processes.CROWD
    variables = processes.variables(settings)
    with processes.started("aiaas", command, environment=variables) as target:
        yield target


def _round(
    server: processes.Target, work: Work, options: argparse.Namespace, seconds: float = 1.0
) -> processes.Load:
    return processes.one_round(server, work.requests, options.connections, seconds)


def _system_share(server: processes.Target, work: Work, options: argparse.Namespace) -> float:
    """Of the server's CPU time under load."""
    before = server.times()
    _round(server, work, options, 2.0)
    user, system = (now - then for now, then in zip(server.times(), before, strict=True))
    return system / (user + system)


def _rows_a_run(server: processes.Target, work: Work, options: argparse.Namespace) -> float:
    """How many requests shared a run of the model."""
    before = _counts(server)
    _round(server, work, options)
    rows, runs = (now - then for now, then in zip(_counts(server), before, strict=True))
    return rows / runs


def _counts(server: processes.Target) -> tuple[int, int]:
    """Requests, each of one row, and runs so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v2/models/stats") as answer:
        found = json.load(answer)["model_stats"]
    return sum(m["inference_count"] for m in found), sum(m["execution_count"] for m in found)


def _watched(
    server: processes.Target, work: Work, options: argparse.Namespace, file: Path
) -> tuple[list[Spot], int]:
    """What the profiler saw, and over how many requests."""
    before, _ = _counts(server)
    os.kill(server.pid, signal.SIGRTMIN)
    _round(server, work, options, options.seconds)
    os.kill(server.pid, signal.SIGRTMIN)
    until = time.monotonic() + 30
    while not file.exists():
        if time.monotonic() > until:
            sys.exit("the profiler wrote nothing within 30 s")
        time.sleep(0.05)
    spots = [Spot(**spot) for spot in json.loads(file.read_text("utf-8"))]
    return spots, _counts(server)[0] - before


def _show(spots: list[Spot], count: int, cpu: float, options: argparse.Namespace) -> None:
    """Calls as they were, each a little too dear; samples as their share of the CPU."""
    whole = sum(spot.own for spot in spots)
    scale = MICRO / count if options.by == "calls" else cpu / whole
    what = f"{count:,} requests" if options.by == "calls" else f"{whole:,.0f} samples"
    print(f"by {options.by}, {what}, µs a request: {whole * scale:.1f} in Python")
    print(f"{'own':>8} {'share':>6} {'whole':>8} {'calls':>6}")
    for spot in sorted(spots, key=lambda spot: -spot.own)[: options.top]:
        calls = f"{spot.calls / count:.2f}" if spot.calls else ""
        print(f"{spot.own * scale:8.2f} {spot.own / whole:6.1%} {spot.whole * scale:8.2f} "
              f"{calls:>6} {spot.where}")  # fmt: skip


def _show_native(
    server: processes.Target, work: Work, options: argparse.Namespace, file: Path, cpu: float
) -> None:
    """What `perf` sees of all threads: Python's interpreter, the kernel, the libraries."""
    record = ["perf", "record", "-q", "-F", "4000", "-o", str(file), "-p", str(server.pid)]
    with subprocess.Popen(record, stderr=subprocess.DEVNULL) as process:
        _round(server, work, options, options.seconds)
        process.send_signal(signal.SIGINT)
    for columns, top in (("dso", 12), ("dso,symbol", options.top)):
        report = ["perf", "report", "-i", str(file), "--stdio", "-q", "-t", ";", "-s", columns]
        told = subprocess.run(report, capture_output=True, text=True, check=True).stdout
        print(f"by {columns}, µs a request")
        for line in [line for line in told.splitlines() if line.strip()][:top]:
            share, *names = (part.strip(" -") for part in line.split(";"))
            print(f"{float(share.rstrip('%')) * cpu / 100:8.2f} {share:>7} {' '.join(names)}")


if __name__ == "__main__":
    main()
