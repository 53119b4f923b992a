"""Recordings to the moments a phrase was said, by three models of one server.

A spectrogram model hears the samples, an embedding model turns windows of its frames into vectors,
the head (the card's own model, `(1, steps, width)` -> one score a phrase) judges the last `steps`
vectors. The first two serve any number of heads.

Source: the arrangement of openWakeWord over the speech embedding of Lin et al. 2020, *Training
Keyword Spotters with Limited and Synthesized Speech Data*.

A card:

    {"task": "keyword-spotting", "labels": ["hey jarvis"],
     "preprocessing": {"mel": {"model": "wakeword-mel", "input": "input"},
                       "embedding": {"model": "wakeword-embedding", "input": "input_1"}},
     "postprocessing": {"threshold": 0.5}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from aiaas_client.protocol.predictions import Prediction, Segment, Segments
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.core.task import Params, PayloadKind, Run
from aiaas_server.tasks.audio import MAX_SECONDS, Samples, decode_audio, need_audio
from aiaas_server.tasks.step_model import StepModel
from aiaas_server.tasks.task import Floats, Share, TaskSettings, check_label_count, read_labels

RATE = 16_000
FRAME = 160  # samples a frame of the spectrogram


class KeywordParams(Params):
    """`threshold`: the least score of a phrase; `scores`: answer those of every step."""

    threshold: Share | None = None
    scores: bool = False


class KeywordInput(TaskSettings):
    """What the head's two helpers are and how they are fed.

    Attributes:
        mel: Samples `(1, n)` to frames of bands.
        embedding: `(windows, window, bands, 1)` to vectors.
        amplitude: Samples of -1 to 1 are multiplied by it.
        mel_scale, mel_shift: Frames are multiplied and moved by these.
        window: Frames a vector.
        hop: Frames from one vector to the next.
        max_seconds: Longer recordings are refused.
    """

    mel: StepModel
    embedding: StepModel
    amplitude: float = 32767.0
    mel_scale: float = 0.1
    mel_shift: float = 2.0
    window: Annotated[int, Field(ge=1, le=1000)] = 76
    hop: Annotated[int, Field(ge=1, le=1000)] = 8
    max_seconds: Annotated[float, Field(gt=0)] = MAX_SECONDS


class KeywordOutput(TaskSettings):
    """`threshold`: the least score of a phrase; `activation`: what the head's output needs."""

    threshold: Share = 0.5
    activation: Literal["none", "sigmoid"] = "none"


class KeywordSpotting:
    """A run of each helper, and of the head at every step."""

    input: PayloadKind = "audio"
    predictions: tuple[type[Prediction], ...] = (Segments,)
    params: type[Params] = KeywordParams

    def __init__(
        self,
        head: TensorSpec,
        output: str,
        labels: tuple[str, ...],
        heard: KeywordInput,
        settings: KeywordOutput,
    ) -> None:
        self.head = head
        self.output = output
        self.labels = labels
        self.heard = heard
        self.settings = settings
        self.steps = head.shape[1]
        # The head judges this much sound: silence is put before a recording, so that a phrase at
        # its very beginning is heard as well.
        self.span = ((self.steps - 1) * heard.hop + heard.window) * FRAME

    async def predict(self, payload: Any, params: KeywordParams, run: Run) -> Segments:
        samples = await run.thread(self._decode, payload)
        scores = await self._scores(await self._vectors(samples, run), run)  # (steps, labels)
        least = self.settings.threshold if params.threshold is None else params.threshold
        step = self.heard.hop * FRAME / RATE
        duration = len(samples) / RATE
        found = [
            segment
            for label, column in zip(self.labels, scores.T, strict=True)
            for segment in _moments(label, column, least, step, duration)
        ]
        return Segments(
            segments=tuple(sorted(found, key=lambda segment: segment.start)),
            duration=duration,
            scores=tuple(scores.max(axis=1).astype(float).tolist()) if params.scores else (),
            frame=step,
        )

    def _decode(self, payload: Any) -> Samples:
        return decode_audio(payload, rate=RATE, max_seconds=self.heard.max_seconds).samples

    async def _vectors(self, samples: Samples, run: Run) -> Floats:
        """`(vectors, width)`, one every `hop` frames."""
        heard = self.heard
        tensor = await run.thread(self._padded, samples)
        mel = _only(await run.model(heard.mel.model, heard.mel.version)({heard.mel.input: tensor}))
        batch = await run.thread(self._windows, mel.reshape(-1, mel.shape[-1]))
        model = run.model(heard.embedding.model, heard.embedding.version)
        vectors = _only(await model({heard.embedding.input: batch}))
        return vectors.reshape(len(batch), -1)

    def _padded(self, samples: Samples) -> Floats:
        hop = self.heard.hop * FRAME
        whole = np.pad(samples, (self.span, -len(samples) % hop + hop))
        return (whole * np.float32(self.heard.amplitude))[None]

    def _windows(self, mel: Floats) -> Floats:
        """Frames `(frames, bands)` as the embedding's batch `(windows, window, bands, 1)`."""
        heard = self.heard
        frames = mel * np.float32(heard.mel_scale) + np.float32(heard.mel_shift)
        windows = np.lib.stride_tricks.sliding_window_view(frames, heard.window, axis=0)
        batch = windows[:: heard.hop].transpose(0, 2, 1)[..., None]
        return np.ascontiguousarray(batch, np.float32)

    async def _scores(self, vectors: Floats, run: Run) -> Floats:
        """Scores `(steps, labels)`, the first after one hop of the recording."""
        count = max(0, len(vectors) - self.steps + 1)
        rows = [np.zeros((0, len(self.labels)), np.float32)]
        at_once = 1 if self.head.shape[0] == 1 else max(count, 1)
        for begin in range(0, count, at_once):
            spans = [vectors[i : i + self.steps] for i in range(begin, begin + at_once)]
            answer = await run({self.head.name: np.stack(spans)}, (self.output,))
            rows.append(answer[self.output].reshape(len(spans), -1))
        scores = np.concatenate(rows)
        if self.settings.activation == "sigmoid":
            scores = (1 / (1 + np.exp(-np.clip(scores, -60, 60)))).astype(np.float32)
        return scores


def open_task(
    card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
) -> KeywordSpotting:
    """The task of one version; see `core.task.OpenTask`."""
    need_audio()
    heard = read_settings(KeywordInput, card.preprocessing, "preprocessing")
    settings = read_settings(KeywordOutput, card.postprocessing, "postprocessing")
    if len(signature.inputs) != 1 or len(signature.inputs[0].shape) != 3:
        raise LoadFailed(f"model '{signature.model}': a head takes one input (n, steps, width)")
    head, output = signature.inputs[0], signature.outputs[0]
    if head.shape[1] < 1:
        raise LoadFailed(f"input '{head.name}': the number of steps must be fixed: {head.shape}")
    labels = read_labels(card, assets)
    check_label_count(labels, output)
    return KeywordSpotting(head, output.name, labels, heard, settings)


def _moments(
    label: str, scores: Floats, least: float, step: float, duration: float
) -> list[Segment]:
    """Each run of steps at or above the threshold."""
    loud = np.concatenate([[False], scores >= least, [False]])
    edges = np.flatnonzero(loud[1:] != loud[:-1]).reshape(-1, 2)
    return [
        Segment(
            start=round(min(begin * step, duration), 3),
            end=round(min(end * step, duration), 3),
            score=min(1.0, float(scores[begin:end].max())),
            label=label,
        )
        for begin, end in edges.tolist()
    ]


def _only(outputs: Mapping[str, Array]) -> Array:
    (output,) = outputs.values()
    return output
