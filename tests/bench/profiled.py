"""`aiaas serve` under a profiler of its own process: `python profiled.py VIEW FILE serve ...`.

The signal SIGRTMIN turns the profiler on, the same again turns it off and writes FILE, one line of
JSON. `calls` counts every call by cProfile, which makes each of them dearer; `lines` and
`functions` look some hundred times a second of CPU what runs, which costs next to nothing.
"""

from __future__ import annotations

import cProfile
import json
import opcode
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Protocol

EVERY = 0.001  # seconds of CPU between two looks; the kernel may round it up to a tick
_ENTRY = opcode.opmap["RESUME"]


@dataclass(frozen=True, slots=True)
class Spot:
    """A function or a line: its weight (seconds, or samples), its own and with what it calls."""

    where: str
    own: float
    whole: float
    calls: int = 0


class View(Protocol):
    """One way of watching the thread that the signal interrupts."""

    def start(self) -> None: ...

    def stop(self) -> list[Spot]: ...


class Calls:
    """cProfile."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile()

    def start(self) -> None:
        self._profile.enable()

    def stop(self) -> list[Spot]:
        self._profile.disable()
        self._profile.create_stats()
        table = self._profile.stats
        return [
            Spot(_place(file, line, name), own, whole, calls)
            for (file, line, name), (_, calls, own, whole, _) in table.items()
        ]


class Samples:
    """Looks at what runs, by a timer of the process's CPU time.

    Python runs a handler at the entry of a function or after a call. At an entry the time went by
    in what called it, be it C: a sample there is the caller's.
    """

    def __init__(self, line_of: Callable[[FrameType], int]) -> None:
        self._line_of = line_of
        self._own: Counter[str] = Counter()
        self._whole: Counter[str] = Counter()

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)

    def stop(self) -> list[Spot]:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return [Spot(at, self._own[at], whole) for at, whole in self._whole.items()]

    def _look(self, _: int, frame: FrameType | None) -> None:
        if frame is not None and _at_entry(frame) and frame.f_back is not None:
            frame = frame.f_back
        seen: set[str] = set()
        while frame is not None:
            at = _place(frame.f_code.co_filename, self._line_of(frame), frame.f_code.co_qualname)
            if not seen:
                self._own[at] += 1
            seen.add(at)
            frame = frame.f_back
        self._whole.update(seen)


VIEWS: dict[str, Callable[[], View]] = {
    "calls": Calls,
    "lines": partial(Samples, lambda frame: frame.f_lineno),
    "functions": partial(Samples, lambda frame: frame.f_code.co_firstlineno),
}


def _at_entry(frame: FrameType) -> bool:
    code: CodeType = frame.f_code
    return code.co_code[frame.f_lasti] == _ENTRY


def _place(file: str, line: int, name: str) -> str:
    if file == "~":
        return name  # written in C
    parts = Path(file).parts
    return f"{'/'.join(parts[-3:])}:{line} {name}"


def toggled(view: View, file: Path) -> Callable[[int, FrameType | None], None]:
    """The handler of the signal."""
    running = False

    def handler(_: int, __: FrameType | None) -> None:
        nonlocal running
        running = not running
        if running:
            view.start()
            return
        spots = [asdict(spot) for spot in view.stop()]
        half = file.with_suffix(".half")
        half.write_text(json.dumps(spots), "utf-8")
        half.rename(file)  # whole, or not there

    return handler


def main() -> None:
    view, file = VIEWS[sys.argv[1]](), Path(sys.argv[2])
    sys.argv[1:] = sys.argv[3:]
    del sys.path[0]  # the benchmark's modules have common names
    signal.signal(signal.SIGRTMIN, toggled(view, file))
    from aiaas_server.__main__ import main as serve

    serve()


if __name__ == "__main__":
    main()
