"""The seam to models that write: what is asked of one, and what comes back, token by token.

A version whose card has a `generation` part has a `Generator`, which runs the session itself:
requests join and leave between steps, so there is no batch to queue for. `generate/` makes them;
routes, tasks and pipelines know no more than this file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card
from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.events import NOBODY, Caller, Observer
from aiaas_server.core.session import Session
from aiaas_server.core.statistics import Statistics

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Tokens that are left to choose from; 0 is all.
        top_p: The likeliest tokens that together have this probability are left.
        min_p: Tokens that have at least this share of the likeliest one's probability are left.
        repetition_penalty: Divides positive and multiplies negative logits of tokens that prompt
            or answer have; 1 is none.
        presence_penalty: Subtracted from the logits of tokens that the answer has.
        frequency_penalty: The same, for each time.
        logit_bias: Added to logits, by token.
        seed: Equal seeds draw equally; None draws anew.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Format:
    """What the whole answer must be.

    Attributes:
        value: A JSON Schema, a regular expression, or a grammar in Lark's notation; of
            `json_object` nothing.
    """

    kind: Literal["json_object", "json_schema", "regex", "grammar"]
    value: Any = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer that is wanted.

    Attributes:
        tokens: The prompt, at least one.
        max_tokens: Of the answer; None is what the context leaves.
        stop: Texts that end the answer, and are no part of it.
        logprobs: How many of the likeliest tokens are told with each one; None tells nothing.
        constants: Tensors that accompany every step, without their batch dimension: what an
            encoder made of a recording.
        probe: Tokens whose probability is told right behind the prompt's first token.
        ignore_end: Go on behind the model's own end, to `max_tokens`.
        is_again: Another answer to a prompt whose tokens are counted with the first one.
    """

    tokens: tuple[int, ...]
    max_tokens: int | None = None
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    format: Format | None = None
    logprobs: int | None = None
    constants: Mapping[str, Array] = field(default_factory=dict)
    probe: tuple[int, ...] = ()
    ignore_end: bool = False
    is_again: bool = False


class Chance(NamedTuple):
    """A token and its log-probability, under the model's own distribution."""

    token: int
    text: bytes
    logprob: float


class Told(NamedTuple):
    """A token that was chosen, and the likeliest ones at that place, best first."""

    chosen: Chance
    likeliest: tuple[Chance, ...]


class Piece(NamedTuple):
    """What one step, or a few, gave.

    Attributes:
        text: Of whole characters, which no stop text may still swallow; "" without a tokenizer.
        tokens: The tokens behind it, and behind what is held back.
        told: One for each token, where that was asked for.
        finish: Why the answer ends here; None where it goes on.
    """

    text: str
    tokens: tuple[int, ...] = ()
    told: tuple[Told, ...] = ()
    finish: FinishReason | None = None


class Answering(Protocol):
    """One answer as it is written: iterate over its pieces, all of it on the event loop.

    The last piece has a `finish`. The iteration raises `ServerError` where the answer breaks off:
    the deadline passed, the model was unloaded, nobody read for too long.

    Attributes:
        prompt_tokens: In the prompt.
        cached_tokens: Of these, found in the cache.
        completion_tokens: Written so far, the model's own end included.
        probed: Probabilities of `Ask.probe`, once the first piece is there.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    probed: tuple[float, ...]

    def __aiter__(self) -> AsyncIterator[Piece]: ...
    async def __anext__(self) -> Piece: ...

    def cancel(self) -> None:
        """Nobody reads on: its slot is free within a step. May be called at any time, also late."""
        ...


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to be answered.

    Attributes:
        messages: `{"role", "content", ...}` as OpenAI has them, checked; contents are texts.
        tools: Functions, `{"name", "description", "parameters"}`.
        tool_choice: `none`, `auto`, `required`, or the name of one of them.
        parallel: Whether an answer may call several.
        options: Further variables of the template.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    parallel: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


class TextDelta(NamedTuple):
    """More of the answer's text."""

    text: str


class ToolDelta(NamedTuple):
    """More of a call, counted from 0: first its name, once, then its arguments, as JSON."""

    call: int
    name: str = ""
    arguments: str = ""


Delta = TextDelta | ToolDelta


class ChatReader(Protocol):
    """Finds the calls in an answer, as it is written."""

    def feed(self, text: str) -> list[Delta]: ...

    def finish(self) -> list[Delta]:
        """What was held back, now that nothing follows."""
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation as the model reads it.

    Attributes:
        tokens: With the opening of the answer.
        format: What `tool_choice` demands of the answer; None where it demands nothing.
        stop: Texts that end an answer in this model's format.
        reader: Makes what reads one answer.
    """

    tokens: tuple[int, ...]
    format: Format | None
    stop: tuple[str, ...]
    reader: Callable[[], ChatReader]


class Generator(Protocol):
    """Writes with one model; used on the event loop.

    Attributes:
        context: Most tokens, prompt and answer together.
        vocabulary: Tokens that there are.
        reads_text: Whether it has a tokenizer.
        reads_chats: Whether it has a template for conversations.
        defaults: How tokens are chosen where a request does not say.
    """

    context: int
    vocabulary: int
    reads_text: bool
    reads_chats: bool
    defaults: Sampling

    async def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, the model's opening token included.

        Raises:
            InvalidInput: The model has no tokenizer, or the text has lone surrogates.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        ...

    async def prompt(self, chat: Chat) -> Prompt:
        """Write a conversation as the model's template has it.

        Raises:
            InvalidInput: There is no template, or it refuses the conversation.
        """
        ...

    async def start(self, ask: Ask, deadline: float, caller: Caller = NOBODY) -> Answering:
        """Begin an answer, which waits for a slot.

        Args:
            deadline: On the loop's clock; afterwards nobody waits.
        Raises:
            InvalidInput: The prompt is empty, or longer than the context (both numbers), or a
                value of `ask` is out of its range, or the format cannot be met.
            QueueFull: No room to wait in.
            ModelUnavailable: It was unloaded.
        """
        ...

    def refuse(self, error: Exception) -> None:
        """End all answers with `error`, and take no more."""
        ...

    def close(self) -> None:
        """Let go of the memory; answers that are still written end as if unloaded."""
        ...

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Block until nothing runs any more; False where that takes longer than `timeout` seconds.

        The session is closed behind it, and no thread is inside the runtime when the process ends.
        """
        ...


class Generates(Protocol):
    """A loaded version, which may have a generator."""

    @property
    def name(self) -> str: ...
    @property
    def generator(self) -> Generator | None: ...


def generator_of(model: Generates) -> Generator:
    """The generator of a model.

    Raises:
        InvalidInput: It has none.
    """
    if model.generator is None:
        raise InvalidInput(f"model '{model.name}' does not generate text")
    return model.generator


class Served(NamedTuple):
    """What a generator is part of: it counts there, and tells whoever looks on."""

    name: str
    version: int
    statistics: Statistics
    observers: tuple[Observer, ...]
    owner: str = "default"


@dataclass(frozen=True, slots=True)
class GenerationLimits:
    """What the server's settings allow each generator.

    Attributes:
        slots: Answers written at a time.
        cache_bytes: Keys and values of these.
        prefix_bytes: Keys and values kept of prompts that may come again; 0 keeps none.
        queue: Requests that may wait for a slot.
        speculate: Whether tokens are guessed ahead and checked together.
    """

    slots: int = 8
    cache_bytes: int = 2 << 30
    prefix_bytes: int = 256 << 20
    queue: int = 100
    speculate: bool = True


class OpenGenerator(Protocol):
    """Makes the generator of one version; blocking, in the thread that loads."""

    def __call__(
        self,
        card: Card,
        assets: Assets,
        session: Session,
        served: Served,
        open_graph: Callable[[str], Session],
        limits: GenerationLimits,
    ) -> Generator:
        """Open it; a step has been run when this returns.

        Args:
            session: Of the version's `model.onnx`, or what the card's configuration names.
            open_graph: Opens another graph of the bundle, by its plain name.
        Raises:
            LoadFailed: Something is missing, which is named.
        """
        ...
