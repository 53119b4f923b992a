"""A generator that writes what a test has written down, and a server whose model has it.

Its tokens are the bytes of texts; a conversation is its contents, joined. What it was asked, and
which answers were left, can be looked at afterwards.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnx import helper
from pydantic import BaseModel

from aiaas_server.app import Application
from aiaas_server.core.describe.bundle import Bundles
from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.events import NOBODY, Caller
from aiaas_server.core.generation import (
    Ask,
    Chance,
    Chat,
    Delta,
    Piece,
    Prompt,
    Sampling,
    TextDelta,
    Told,
    ToolDelta,
)
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.task import Params
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from tests import graphs

Step = Piece | Exception | asyncio.Event
"""A piece, an error in its place, or something to wait for first."""
Script = Callable[[Ask, int], Sequence[Step]]
"""What is written for the n-th ask."""


def pieces(*texts: str, finish: Any = "stop") -> list[Step]:
    """A piece of one token for each text; the last one ends the answer."""
    last = len(texts) - 1
    return [Piece(text, (1,), (), finish if at == last else None) for at, text in enumerate(texts)]


def told(text: str, logprob: float = -0.5) -> Told:
    """A token, and two that were likely at its place."""
    chosen = Chance(7, text.encode(), logprob)
    return Told(chosen, (chosen, Chance(8, b"\xe4\xbd", float("-inf"))))


class ScriptedAnswering:
    """`core.generation.Answering` of a script.

    Attributes:
        left: It was cancelled before its last piece was read.
    """

    def __init__(self, prompt: int, steps: Sequence[Step]) -> None:
        self.prompt_tokens = prompt
        self.cached_tokens = 2
        self.completion_tokens = 0
        self.probed: tuple[float, ...] = ()
        self.left = False
        self.ended = False
        self._steps = list(steps)

    def __aiter__(self) -> ScriptedAnswering:
        return self

    async def __anext__(self) -> Piece:
        if self.ended or not self._steps:
            raise StopAsyncIteration
        step = self._steps.pop(0)
        while isinstance(step, asyncio.Event):
            await step.wait()
            step = self._steps.pop(0)
        if isinstance(step, Exception):
            self.ended = True
            raise step
        self.completion_tokens += len(step.tokens)
        self.ended = step.finish is not None
        return step

    def cancel(self) -> None:
        self.left = self.left or not self.ended


class ScriptedReader:
    """Pieces that begin with a mark are calls: `@NAME` begins one, `+TEXT` is of its arguments."""

    def __init__(self) -> None:
        self._call = -1
        self.finished = False

    def feed(self, text: str) -> list[Delta]:
        if text.startswith("@"):
            self._call += 1
            return [ToolDelta(self._call, text[1:])]
        if text.startswith("+"):
            return [ToolDelta(self._call, "", text[1:])]
        return [TextDelta(text)]

    def finish(self) -> list[Delta]:
        self.finished = True
        return []


class ScriptedGenerator:
    """`core.generation.Generator` of a script.

    Attributes:
        asks, chats, callers: What it was asked, and by whom.
        answers: What it has begun.
        closed: Its model was unloaded.
    """

    context = 100
    vocabulary = 300
    reads_text = True
    reads_chats = True
    defaults = Sampling(temperature=0.7, top_k=40)

    def __init__(self, script: Script | Sequence[Step] = ()) -> None:
        self.script = script
        self.asks: list[Ask] = []
        self.chats: list[Chat] = []
        self.callers: list[Caller] = []
        self.deadlines: list[float] = []
        self.answers: list[ScriptedAnswering] = []
        self.closed = False

    async def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode()

    async def prompt(self, chat: Chat) -> Prompt:
        self.chats.append(chat)
        text = "\n".join(message["content"] for message in chat.messages)
        return Prompt(await self.encode(text), None, ("<end>",), ScriptedReader)

    async def start(self, ask: Ask, deadline: float, caller: Caller = NOBODY) -> ScriptedAnswering:
        if len(ask.tokens) > self.context:
            raise InvalidInput(f"prompt: expected at most {self.context}, got {len(ask.tokens)}")
        steps = self.script(ask, len(self.asks)) if callable(self.script) else self.script
        self.asks.append(ask)
        self.callers.append(caller)
        self.deadlines.append(deadline)
        self.answers.append(ScriptedAnswering(len(ask.tokens), steps))
        return self.answers[-1]

    def refuse(self, error: Exception) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self.closed = True

    def wait_closed(self, timeout: float | None = None) -> bool:
        return self.closed


class _Texts:
    """The task of its card, which no test calls."""

    input = "text"
    predictions = ()
    params: type[BaseModel] = Params
    costs = False


def scripted_app(directory: Path, generator: Any, **given: Any) -> Application:
    """A server of two models: `writer`, which has the generator, and `plain`, which has none."""
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = graphs.model([node], [graphs.value("x", ["n", 4])], [graphs.value("y", ["n", 4])])
    for name in ("writer", "plain"):
        (directory / name / "1").mkdir(parents=True, exist_ok=True)
        (directory / name / "1" / "model.onnx").write_bytes(graph)
    card = {"task": "text-to-text", "generation": {}}
    (directory / "writer" / "1" / "model.json").write_text(json.dumps(card))
    settings = Settings(models=directory, **given)
    repository = Repository(directory)
    task: Any = lambda *_: _Texts()  # noqa: E731
    bundles = Bundles(repository.read_beside, task, lambda *_: generator)
    return Application(ModelPool(repository, open_session, settings, (), bundles), settings)
