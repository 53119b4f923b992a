"""Recordings to stretches of speech: where somebody speaks, in seconds.

The model hears one frame at a time and remembers: its state goes in and comes out. A whole
recording is one payload. A stream is many: the first is sent with `stream`, the others with the
`state` of the answer before, in `params`, and times count from the beginning of the stream. A
stretch that is still open at the end of a piece is answered up to there, and again, longer, with
the next piece.

Two kinds of export are served, told apart by their inputs: `state` (Silero's stepwise model, one
frame a run) and `h` with `c` (its sequence model, many frames a run, the same scores).

A card:

    {"task": "voice-activity",
     "preprocessing": {"rate": 16000, "frame": 512, "context": 64},
     "postprocessing": {"threshold": 0.5, "least_speech": 0.25, "least_silence": 0.1}}
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from aiaas_client.protocol.predictions import Prediction, Segment, Segments
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Run
from aiaas_server.tasks.audio import MAX_SECONDS, Samples, decode_audio, need_audio
from aiaas_server.tasks.task import Floats, Share, TaskSettings

Seconds = Annotated[float, Field(ge=0, le=60)]

MEMORY = 256  # numbers the model remembers: two layers' worth of 128
BLOCK = 512  # frames a run of the sequence model: 16 s
# Samples heard and the open stretch's start and last loud sample (-1: none), its best score.
_HEAD = struct.Struct("<qqqf")


class VoiceParams(Params):
    """What a caller may set.

    Attributes:
        threshold: Frames with a higher score are speech.
        stream: This is the first piece of a stream: answer the state to go on with.
        state: Of the answer before this one; the piece continues its stream.
        scores: Answer the score of every frame too.
    """

    threshold: Share | None = None
    stream: bool = False
    state: Annotated[str, Field(max_length=32_768)] = ""
    scores: bool = False


class VoiceInput(TaskSettings):
    """What the model hears.

    Attributes:
        rate: Samples a second.
        frame: New samples a frame.
        context: Samples of the frame before that are put in front of each.
        max_seconds: Longer recordings are refused.
    """

    rate: Literal[8000, 16000] = 16000
    frame: Annotated[int, Field(ge=32, le=4096)] = 512
    context: Annotated[int, Field(ge=0, le=4096)] = 64
    max_seconds: Annotated[float, Field(gt=0, le=86_400)] = MAX_SECONDS


class VoiceOutput(TaskSettings):
    """How scores become stretches.

    Attributes:
        threshold: A stretch begins at a frame with at least this score.
        fall: And ends when the score falls by this much below it.
        least_speech: Shorter stretches are dropped, in seconds.
        least_silence: Shorter pauses belong to the stretch, in seconds.
        margin: Added before and after each stretch, in seconds.
    """

    threshold: Share = 0.5
    fall: Share = 0.15
    least_speech: Seconds = 0.25
    least_silence: Seconds = 0.1
    margin: Seconds = 0.03


@dataclass(slots=True)
class StreamState:
    """What is carried from one piece of a stream to the next.

    Attributes:
        memory: `(256,)` of the model.
        context: The last samples of the last frame.
        rest: Samples that did not fill a frame.
        heard: Samples of the frames heard so far.
        start: First sample of the open stretch, -1 when nobody speaks.
        loud: Where the open stretch was last above the lower threshold.
        best: Its highest score.
    """

    memory: Floats
    context: Samples
    rest: Samples
    heard: int = 0
    start: int = -1
    loud: int = -1
    best: float = 0.0

    @classmethod
    def beginning(cls, settings: VoiceInput) -> StreamState:
        nothing = np.zeros(0, np.float32)
        return cls(np.zeros(MEMORY, np.float32), np.zeros(settings.context, np.float32), nothing)

    def to_text(self) -> str:
        head = _HEAD.pack(self.heard, self.start, self.loud, self.best)
        values = np.concatenate([self.memory, self.context, self.rest]).astype("<f4")
        return base64.b64encode(head + values.tobytes()).decode("ascii")

    @classmethod
    def from_text(cls, text: str, settings: VoiceInput) -> StreamState:
        """Raises InvalidInput: not what `to_text` gives for these settings."""
        wrong = InvalidInput("params.state: expected the `state` of the stream's last answer")
        try:
            content = base64.b64decode(text, validate=True)
        except ValueError:  # not base64, or not even ASCII
            raise wrong from None
        if len(content) < _HEAD.size:
            raise wrong
        body = content[_HEAD.size :]
        values = np.frombuffer(body[: len(body) // 4 * 4], "<f4").astype(np.float32)
        fixed = MEMORY + settings.context
        if len(body) % 4 or not fixed <= len(values) < fixed + settings.frame:
            raise wrong
        heard, start, loud, best = _HEAD.unpack_from(content)
        finite = np.isfinite(values).all() and math.isfinite(best)
        if not finite or not (-1 <= start <= heard and -1 <= loud <= heard < 2**50):
            raise wrong
        memory, context, rest = np.split(values, [MEMORY, fixed])
        return cls(memory, context, rest, heard, start, loud, best)


# Frames `(n, context + frame)` to scores `(n,)`; the stream's memory moves on.
Listen = Callable[[Floats, StreamState, Run], Awaitable[Floats]]


class VoiceActivity:
    """As many runs as the recording needs."""

    input: PayloadKind = "audio"
    predictions: tuple[type[Prediction], ...] = (Segments,)
    params: type[Params] = VoiceParams

    def __init__(self, listen: Listen, heard: VoiceInput, settings: VoiceOutput) -> None:
        self.listen = listen
        self.heard = heard
        self.settings = settings

    async def predict(self, payload: Any, params: VoiceParams, run: Run) -> Segments:
        sound = await run.thread(self._decode, payload)
        streams = params.stream or bool(params.state)
        stream = (
            StreamState.from_text(params.state, self.heard)
            if params.state
            else StreamState.beginning(self.heard)
        )
        before = stream.heard + len(stream.rest)
        frames = await run.thread(self._frames, stream, sound, not streams)
        scores = await self.listen(frames, stream, run)
        threshold = self.settings.threshold if params.threshold is None else params.threshold
        found = await run.thread(self._segments, scores, stream, threshold)
        end = before + len(sound)
        return Segments(
            segments=tuple(self._timed(found, end)),
            duration=end / self.heard.rate,
            scores=tuple(scores.astype(float).round(6).tolist()) if params.scores else (),
            frame=self.heard.frame / self.heard.rate,
            state=stream.to_text() if streams else "",
        )

    def _decode(self, payload: Any) -> Samples:
        limit = self.heard.max_seconds
        return decode_audio(payload, rate=self.heard.rate, max_seconds=limit).samples

    def _frames(self, stream: StreamState, samples: Samples, whole: bool) -> Floats:
        """`(frames, context + frame)`; the last is filled with silence when the clip is whole."""
        size, context = self.heard.frame, self.heard.context
        samples = np.concatenate([stream.rest, samples])
        if whole:
            samples = np.pad(samples, (0, -len(samples) % size))
        count = len(samples) // size
        stream.rest = samples[count * size :]
        line = np.concatenate([stream.context, samples[: count * size]])
        stream.context = line[len(line) - context :]
        if not count:
            return np.zeros((0, context + size), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(line, context + size)[::size]
        return np.ascontiguousarray(windows)

    def _segments(
        self, scores: Floats, stream: StreamState, threshold: float
    ) -> list[tuple[int, int, float]]:
        """Start, end and best score of each stretch, in samples; the open one comes last."""
        size, rate = self.heard.frame, self.heard.rate
        low = max(threshold - self.settings.fall, 0.01)
        found = []
        for score in scores.tolist():
            begin, end = stream.heard, stream.heard + size
            stream.heard = end
            if score >= threshold and stream.start < 0:
                stream.start, stream.best = begin, 0.0
            if stream.start < 0:
                continue
            stream.best = max(stream.best, score)
            if score >= low:
                stream.loud = end
            elif end - stream.loud >= self.settings.least_silence * rate:
                found.append((stream.start, stream.loud, stream.best))
                stream.start = -1
        if stream.start >= 0:
            found.append((stream.start, stream.loud, stream.best))
        return found

    def _timed(self, found: list[tuple[int, int, float]], end: int) -> list[Segment]:
        """Long enough stretches with their margins, in seconds."""
        rate, margin = self.heard.rate, round(self.settings.margin * self.heard.rate)
        least = self.settings.least_speech * rate
        long = [item for item in found if item[1] - item[0] >= least]
        edges = []
        for place, (start, stop, best) in enumerate(long):
            room = (start - long[place - 1][1]) // 2 if place else start
            after = (long[place + 1][0] - stop) // 2 if place + 1 < len(long) else end - stop
            first, last = start - min(margin, room), stop + max(min(margin, after), 0)
            edges.append((first, min(last, end), best))
        return [
            Segment(start=round(a / rate, 3), end=round(b / rate, 3), score=min(1.0, score))
            for a, b, score in edges
        ]


def open_task(
    card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
) -> VoiceActivity:
    """The task of one version; see `core.task.OpenTask`."""
    need_audio()
    heard = read_settings(VoiceInput, card.preprocessing, "preprocessing")
    settings = read_settings(VoiceOutput, card.postprocessing, "postprocessing")
    inputs = {spec.name for spec in signature.inputs}
    outputs = tuple(spec.name for spec in signature.outputs)
    if inputs == {"input", "h", "c"} and len(outputs) == 3:
        return VoiceActivity(_by_block(outputs), heard, settings)
    if {"input", "state"} <= inputs <= {"input", "state", "sr"} and len(outputs) == 2:
        rate = heard.rate if "sr" in inputs else None
        return VoiceActivity(_by_frame(outputs, rate), heard, settings)
    raise LoadFailed(
        f"model '{signature.model}': voice activity needs inputs 'input', 'state' (and 'sr') or "
        f"'input', 'h', 'c', got {', '.join(sorted(inputs))}"
    )


def _by_block(outputs: tuple[str, ...]) -> Listen:
    """The sequence model: many frames a run."""

    async def listen(frames: Floats, stream: StreamState, run: Run) -> Floats:
        scores = [np.zeros(0, np.float32)]
        for begin in range(0, len(frames), BLOCK):
            h, c = stream.memory.reshape(2, 1, 1, -1)
            answer = await run({"input": frames[begin : begin + BLOCK], "h": h, "c": c})
            heard, h, c = (answer[name] for name in outputs)
            stream.memory = np.concatenate([h.reshape(-1), c.reshape(-1)])
            scores.append(heard.reshape(-1))
        return np.concatenate(scores)

    return listen


def _by_frame(outputs: tuple[str, ...], rate: int | None) -> Listen:
    """The stepwise model: one frame a run."""
    fixed: dict[str, Array] = {} if rate is None else {"sr": np.array(rate, np.int64)}

    async def listen(frames: Floats, stream: StreamState, run: Run) -> Floats:
        scores = np.zeros(len(frames), np.float32)
        for index in range(len(frames)):
            state = stream.memory.reshape(2, 1, -1)
            answer = await run({"input": frames[index : index + 1], "state": state, **fixed})
            heard, state = (answer[name] for name in outputs)
            stream.memory = state.reshape(-1)
            scores[index] = heard.reshape(-1)[0]
        return scores

    return listen
