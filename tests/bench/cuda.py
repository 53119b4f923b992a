"""Checks and measures the server on a machine with a GPU, in under eight minutes.

    python tests/bench/cuda.py --pack kit      # where packages can be fetched: models and inputs
    python tests/bench/cuda.py --kit kit       # on the machine with the card
    python tests/bench/cuda.py --provider cpu --quick      # every step on the CPU, in seconds

What a bare machine needs, for its own version of Python (3.11 or later) and processor, can be
fetched elsewhere, here for Python 3.12:

    pip download --only-binary=:all: --python-version 3.12 -d wheels PACKAGES
    pip install --no-index --find-links wheels PACKAGES        # there

where PACKAGES are

    "onnxruntime-gpu[cuda,cudnn]" nvidia-ml-py numpy pydantic tenacity httpx2 orjson protobuf rich
    starlette typer "uvicorn[standard]"

* Never install `onnxruntime` beside `onnxruntime-gpu`: both own the same module.
* The extras bring CUDA and cuDNN of the version that onnxruntime was built for (13 and 9 for 1.31)
  as packages `nvidia-...`, which the server finds by itself. PyTorch for the same CUDA brings the
  same ones, so where it is installed the extras can be left out. For libraries of the system,
  LD_LIBRARY_PATH has to name their folders.
* The largest wheels have hundreds of megabytes; `split -b 50M` and `cat` carry them in pieces.
* This repository, with `PYTHONPATH=.` in its root, and the folder of `--pack`, which spares the
  libraries that prepare models, pictures and text.
* The command `nvidia-smi` serves in the place of `nvidia-ml-py`.

Nothing else may run on the card. Exit code 1: a check failed, a goal was missed, or a group was
not measured to its end.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import cuda_card
import cuda_kit
import cuda_plan
import cuda_safety
import cuda_speed
import processes
import table
from rich.console import Console

# What must hold comes before what is only to be quick, should the time not be enough.
GROUPS: dict[str, Callable[[cuda_plan.Server], Iterator[table.Row]]] = {
    "answers": cuda_speed.answers,
    "sizes": cuda_speed.sizes,
    "mixed": cuda_speed.mixed,
    "memory": cuda_safety.memory,
    "deadline": cuda_safety.deadlines,
    "room": cuda_safety.room,
    "ways": cuda_speed.ways,
    "served": cuda_speed.served,
}
LIMIT = 465
"""Seconds after which the group that runs is given up and the table printed."""


class Late(Exception):
    """The limit is over."""


@dataclass(slots=True)
class Found:
    """What a run has found so far."""

    about: dict[str, str]
    rows: list[table.Row] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    @property
    def passed(self) -> bool:
        return not self.failed and all(row.reached is not False for row in self.rows)

    def write(self, path: Path | None) -> None:
        """Write it as JSON."""
        if path is None:
            return
        told = {
            "about": self.about,
            "machine": table.machine(),
            "versions": {**table.versions(), **cuda_card.runtime()},
            "seconds": time.perf_counter() - self.began,
            "rows": table.as_json(self.rows),
            "failed": self.failed,
            "passed": self.passed,
        }
        path.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def main() -> None:
    options = _options()
    if options.pack is not None:
        cuda_kit.pack(options.pack)
        return
    errors = Console(stderr=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the server as well
    found = Found(_about(options))
    with tempfile.TemporaryDirectory() as folder:
        work = _work(options, Path(folder))
        try:
            with _ended_after(LIMIT), _server(work) as server:
                _measure(server, options, found, errors)
        except Exception:  # what was found before still tells something
            found.failed.append("the run")
            errors.print_exception()
    found.write(options.json)
    _show(found)
    sys.exit(0 if found.passed else 1)


def _measure(
    server: cuda_plan.Server, options: argparse.Namespace, found: Found, errors: Console
) -> None:
    for name in [group for group in GROUPS if group in options.only]:
        errors.print(f"measuring {name} ...")
        try:
            found.rows.extend(GROUPS[name](server))
        except Late:
            found.failed.append(name)
            raise
        except Exception:
            found.failed.append(name)
            errors.print_exception()
        found.write(options.json)


def _show(found: Found) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    table.show(found.rows, console)
    for told in (found.about, cuda_card.runtime()):
        console.print(", ".join(f"{k} {v}" for k, v in told.items()), highlight=False)
    missed = [f"{row.group}: {row.what}" for row in found.rows if row.reached is False]
    for line in missed:
        console.print(f"missed: {line}", highlight=False)
    if found.failed:
        console.print(f"not measured to the end: {', '.join(found.failed)}", highlight=False)
    took = time.perf_counter() - found.began
    console.print(f"{'passed' if found.passed else 'FAILED'}, took {took:.0f} s", highlight=False)


def _about(options: argparse.Namespace) -> dict[str, str]:
    about = {"provider": options.provider}
    if options.provider != "cpu":
        try:
            about |= cuda_card.describe(options.device)
        except RuntimeError as error:
            sys.exit(f"{error}; --provider cpu tries every step without one")
    return about


def _work(options: argparse.Namespace, folder: Path) -> cuda_plan.Work:
    kit = options.kit
    if kit is None:
        kit = folder / "kit"
        cuda_kit.pack(kit)
    used = None if options.provider == "cpu" else cuda_card.used_memory(options.device)
    try:
        read = cuda_kit.read(kit)
    except FileNotFoundError as error:
        sys.exit(f"--kit {kit}: {Path(error.filename).name} is missing; --pack makes such a folder")
    return cuda_plan.Work(options.provider, options.device, read, folder, options.quick, used)


@contextmanager
def _server(work: cuda_plan.Work) -> Iterator[cuda_plan.Server]:
    models = cuda_plan.repository(work)
    with processes.aiaas(models, patience=240.0, providers=work.provider) as target:
        yield cuda_plan.Server(target, work)


@contextmanager
def _ended_after(seconds: int) -> Iterator[None]:
    """Raise `Late` in what runs so many seconds later."""

    def late(*_: object) -> None:
        raise Late(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--provider", choices=("cuda", "tensorrt", "cpu"), default="cuda")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="the card's number")
    parser.add_argument("--kit", type=Path, metavar="DIR", help="models and inputs, of --pack")
    parser.add_argument("--pack", type=Path, metavar="DIR", help="make that folder, and no more")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    parser.add_argument("--quick", action="store_true", help="tiny counts, no goals of speed")
    parser.add_argument(
        "--only", type=_groups, default=list(GROUPS), metavar="GROUP,...",
        help=f"these groups alone, of: {', '.join(GROUPS)}",
    )  # fmt: skip
    return parser.parse_args()


def _groups(text: str) -> list[str]:
    for name in text.split(","):
        if name not in GROUPS:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(GROUPS)}, got {name!r}")
    return text.split(",")


if __name__ == "__main__":
    main()
