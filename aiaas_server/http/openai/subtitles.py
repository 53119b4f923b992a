"""A transcript as subtitles: SubRip (`srt`) and WebVTT (`vtt`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from aiaas_client.protocol.predictions import SpokenSegment, Transcript

LEAST: Final = 0.001  # seconds: a cue that ends where it begins is shown by no player
_ESCAPED: Final = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))


def srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, a comma before the milliseconds."""
    cues = (
        f"{number}\n{_time(begin, ',')} --> {_time(end, ',')}\n{text}\n\n"
        for number, (begin, end, text) in enumerate(_cues(transcript.segments), 1)
    )
    return "".join(cues)


def vtt(transcript: Transcript) -> str:
    """WebVTT: what would be markup is escaped."""
    parts = ["WEBVTT\n\n"]
    for begin, end, text in _cues(transcript.segments):
        for sign, escaped in _ESCAPED:
            text = text.replace(sign, escaped)
        parts.append(f"{_time(begin, '.')} --> {_time(end, '.')}\n{text}\n\n")
    return "".join(parts)


def _cues(segments: Iterable[SpokenSegment]) -> Iterator[tuple[float, float, str]]:
    """Times and text, which is one line: an empty one would end the cue."""
    for segment in segments:
        text = " ".join(segment.label.split()).replace("-->", "->")
        if text:
            yield segment.start, max(segment.end, segment.start + LEAST), text


def _time(seconds: float, point: str) -> str:
    """`HH:MM:SS,mmm`; more hours than 99 take more digits."""
    whole = round(max(seconds, 0.0) * 1000)
    minutes, rest = divmod(whole, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"
