"""Where a long recording is cut, so that no word is: between stretches of speech.

All pure, in samples. A stretch is where somebody speaks, told by a voice-activity model or by the
sound's level; a window is what the recogniser hears at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from aiaas_server.tasks.audio import Samples
from aiaas_server.tasks.task import Floats

FRAME: Final = 320  # samples: 20 ms at 16 kHz
SILENCE: Final = 1e-7  # mean square of a frame that holds nothing: -70 dB of full scale
BELOW_PEAK: Final = 3e-5  # and in a loud recording, 45 dB below its loudest frame
PAUSE: Final = 20  # quiet frames between two stretches, at least: 0.4 s
SMOOTH: Final = 10  # frames that are looked at together for the quietest place


class Window(NamedTuple):
    """A part of a recording, in samples."""

    begin: int
    end: int


def evenly(count: int, longest: int) -> list[Window]:
    """Windows of one length, whatever is in them."""
    return [Window(begin, min(begin + longest, count)) for begin in range(0, count, longest)]


def loud_stretches(samples: Samples) -> list[Window]:
    """Where a recording is not silent."""
    levels = _levels(samples)
    least = max(SILENCE, BELOW_PEAK * float(levels.max(initial=0)))
    loud = np.flatnonzero(levels > least)
    if not len(loud):
        return []
    breaks = np.flatnonzero(np.diff(loud) > PAUSE)
    first = loud[np.concatenate([[0], breaks + 1])]
    last = loud[np.concatenate([breaks, [len(loud) - 1]])]
    return [
        Window(int(begin) * FRAME, min((int(end) + 1) * FRAME, len(samples)))
        for begin, end in zip(first, last, strict=True)
    ]


def joined(stretches: Iterable[Window]) -> list[Window]:
    """In order, those that touch made one."""
    found: list[Window] = []
    for stretch in sorted(stretches):
        if found and stretch.begin <= found[-1].end:
            found[-1] = Window(found[-1].begin, max(found[-1].end, stretch.end))
        else:
            found.append(stretch)
    return found


def plan(
    samples: Samples,
    stretches: Sequence[Window],
    *,
    longest: int,
    enough: int,
    pause: int,
    margin: int,
) -> list[Window]:
    """The windows in which a recording is heard.

    Args:
        stretches: Of speech, in order and apart.
        longest: Of a window.
        enough: A window of this length ends at the next pause, however short.
        pause: A pause of this length ends any window: behind a long one a recogniser may think
            that all has been said.
        margin: Silence that is left around speech, or half the pause where that is less.
    """
    windows: list[Window] = []
    apart = max(pause - 2 * margin, 1)  # of what the margins leave of a pause
    for piece in _cut(samples, _widened(stretches, margin, len(samples)), longest):
        last = windows[-1] if windows else piece
        is_full = last.end - last.begin >= enough or piece.end - last.begin > longest
        if not windows or is_full or piece.begin - last.end >= apart:
            windows.append(piece)
        else:
            windows[-1] = Window(last.begin, piece.end)
    return windows


def _widened(stretches: Sequence[Window], margin: int, count: int) -> list[Window]:
    before = [0, *(stretch.end for stretch in stretches[:-1])]
    after = [*(stretch.begin for stretch in stretches[1:]), count]
    found = []
    for index, (begin, end) in enumerate(stretches):
        room = begin - before[index] if index == 0 else (begin - before[index]) // 2
        left = after[index] - end
        left = left if index == len(stretches) - 1 else left // 2
        found.append(Window(begin - min(margin, room), end + min(margin, left)))
    return found


def _cut(samples: Samples, stretches: Sequence[Window], longest: int) -> list[Window]:
    """Stretches of at most `longest`, longer ones cut where they are quietest."""
    found = []
    for begin, end in stretches:
        while end - begin > longest:
            place = _quietest(samples, begin + longest // 2, begin + longest)
            found.append(Window(begin, place))
            begin = place
        found.append(Window(begin, end))
    return found


def _quietest(samples: Samples, low: int, high: int) -> int:
    """The middle of the quietest fifth of a second; `high` where there is no choice."""
    levels = _levels(samples[low:high])
    if len(levels) <= SMOOTH:
        return high
    smooth = np.convolve(levels, np.full(SMOOTH, 1 / SMOOTH), "valid")
    return low + (int(smooth.argmin()) + SMOOTH // 2) * FRAME


def _levels(samples: Samples) -> Floats:
    """Mean square of each frame; the last may be shorter."""
    whole = len(samples) // FRAME
    frames = samples[: whole * FRAME].reshape(whole, FRAME)
    levels = np.einsum("ij,ij->i", frames, frames) / FRAME
    rest = samples[whole * FRAME :]
    if len(rest):
        levels = np.append(levels, np.mean(rest * rest, dtype=np.float32))
    found: Floats = levels.astype(np.float32)
    return found
