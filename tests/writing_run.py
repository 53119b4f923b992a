"""The `Run` of looping tasks over models that write, without a server.

`PlainWriter` decodes one answer at a time, by the book: what a scheduler must give as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from aiaas_client.protocol.predictions import Prediction
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InvalidInput, ModelNotFound
from aiaas_server.core.generation import Answering, Ask, Chance, Generator, Piece, Told
from aiaas_server.core.session import Session
from aiaas_server.core.task import LoopingTask

T = TypeVar("T")
Writer = Callable[[Ask], Answering]


class Written:
    """`Answering` of pieces that are made as they are asked for."""

    prompt_tokens = 0
    cached_tokens = 0

    def __init__(self, pieces: Iterator[Piece], probed: Sequence[float] = ()) -> None:
        self.pieces = pieces
        self.completion_tokens = 0
        self.probed = tuple(probed)
        self.cancelled = False

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        for piece in self.pieces:
            self.completion_tokens += len(piece.tokens)
            return piece
        raise StopAsyncIteration

    def cancel(self) -> None:
        self.cancelled = True


class PlainWriter:
    """Greedy answers of a decoder with `past_key_values.*`, token by token.

    Args:
        generation: The part of its card.
    """

    def __init__(self, session: Session, generation: Mapping[str, Any]) -> None:
        self.session = session
        self.end = set(generation["end"])
        self.never = list(generation.get("suppress", ()))
        self.not_first = list(generation.get("suppress_first", ()))

    def __call__(self, ask: Ask) -> Written:
        steps = self._steps(ask)
        first, probed = next(steps)
        written = Written(self._pieces(ask, first, steps))
        written.probed = probed
        return written

    def _pieces(self, ask: Ask, logits: Array, steps: Any) -> Iterator[Piece]:
        count = 0
        while True:
            allowed = logits.copy()
            allowed[self.never] = -np.inf
            if not count:
                allowed[self.not_first] = -np.inf
            token = int(allowed.argmax())
            count += 1
            told = (Told(Chance(token, b"", float(np.log(softmax(logits)[token]))), ()),)
            if token in self.end:
                yield Piece("", (token,), told, "stop")
                return
            is_last = count == ask.max_tokens
            yield Piece("", (token,), told, "length" if is_last else None)
            if is_last:
                return
            logits, _ = steps.send(token)

    def _steps(self, ask: Ask) -> Any:
        """Gives logits, and what was probed; is sent the next token."""
        names = [spec.name for spec in self.session.outputs]
        past = {
            spec.name: np.zeros((1, spec.shape[1], 0, spec.shape[3]), np.float32)
            for spec in self.session.inputs
            if spec.name.startswith("past_key_values.")
        }
        constants = {name: array[None] for name, array in ask.constants.items()}
        tokens, length, probed = list(ask.tokens), 0, ()
        while True:
            begin, length = length, length + len(tokens)
            fed = {
                "input_ids": np.array([tokens], np.int64),
                "position_ids": np.arange(begin, length, dtype=np.int64)[None],
                "attention_mask": np.ones((1, length), np.int64),
                "num_logits_to_keep": np.array(len(tokens), np.int64),
            }
            outputs = dict(
                zip(names, self.session.run({**fed, **past, **constants}, names), strict=True)
            )
            logits = outputs.pop("logits")[0]
            if begin == 0:
                probed = tuple(float(softmax(logits[0])[token]) for token in ask.probe)
            past = {f"past_key_values.{n.removeprefix('present.')}": a for n, a in outputs.items()}
            tokens = [(yield logits[-1], probed)]


def softmax(logits: Array) -> Array:
    raised = np.exp(logits.astype(np.float64) - logits.max())
    found: Array = raised / raised.sum()
    return found


class WritingRun:
    """Models by name: sessions, writers, and tasks of their own; "" is the task's own."""

    def __init__(
        self,
        sessions: Mapping[str, Session],
        writers: Mapping[str, Writer] | None = None,
        tasks: Mapping[str, LoopingTask] | None = None,
        generator: Any = None,
        name: str = "",
    ) -> None:
        self.sessions = sessions
        self.writers = writers or {}
        self.tasks = tasks or {}
        self.own_generator = generator
        self.name = name

    async def __call__(
        self, tensors: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> Mapping[str, Array]:
        session = self.sessions[self.name]
        names = list(outputs) or [spec.name for spec in session.outputs]
        return dict(zip(names, session.run(tensors, names), strict=True))

    def model(self, name: str, version: int = 0) -> WritingRun:
        return WritingRun(self.sessions, self.writers, self.tasks, self.own_generator, name)

    async def predict(self, payload: Any, params: Mapping[str, Any] | None = None) -> Prediction:
        if self.name not in self.tasks:
            raise ModelNotFound(f"model '{self.name}' is not found")
        task = self.tasks[self.name]
        return await task.predict(payload, task.params.model_validate(params or {}), self)

    async def generator(self) -> Generator:
        if self.own_generator is None:
            raise InvalidInput(f"model '{self.name}' does not generate text")
        found: Generator = self.own_generator
        return found

    async def generate(self, ask: Ask) -> Answering:
        if self.name not in self.writers:
            raise ModelNotFound(f"model '{self.name}' is not found")
        return self.writers[self.name](ask)

    async def thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(function, *args)
