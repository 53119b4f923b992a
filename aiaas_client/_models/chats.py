"""Chats with a model: `handle.chat(messages)`, whole, as a stream, or many.

Both flavours are one class, generic in `Threads` or `Tasks`: what a call gives is told by overloads
on that, since no type variable can stand for "an answer of any type, or what is awaited for it".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, overload

from aiaas_client._api import writing as calls
from aiaas_client._api.writing import ChatOptions
from aiaas_client._models.streams import generation_stream
from aiaas_client._send.flavours import Flavour, Tasks, Threads
from aiaas_client._send.raw import RawResponse, WithRawResponse
from aiaas_client._send.sender import limited

if TYPE_CHECKING:
    from pydantic import BaseModel

    from aiaas_client._api.generation import Generation
    from aiaas_client._api.writing import Message
    from aiaas_client._bulk.plan import OnError
    from aiaas_client._bulk.progress import Report
    from aiaas_client._errors import AiaasError
    from aiaas_client._models.streams import AsyncGenerationStream, GenerationStream
    from aiaas_client.protocol.generation import ChatChunk

    Messages = str | Sequence[Message]
    Prompts = Iterable[Messages]
    AnyPrompts = AsyncIterable[Messages] | Iterable[Messages]

B = TypeVar("B", bound="BaseModel")


class ManyOptions(ChatOptions, total=False):
    """How many prompts are answered, besides how each of them is."""

    concurrency: int
    ordered: bool
    kept_failures: int
    progress: bool | Report


class ModelChat(Generic[Flavour]):
    """Chats with one model: call it with messages; `many` answers many conversations."""

    def __init__(
        self, sender: Any, flavour: type[Flavour], name: str, version: str | None = None
    ) -> None:
        self._sender = sender
        self._flavour = flavour
        self._name = name
        self._version = version

    def __repr__(self) -> str:
        return f"<chat with {self._name!r}>"

    @overload
    def __call__(
        self: ModelChat[Threads],
        messages: Messages,
        *,
        response_format: type[B],
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> Generation[B]: ...
    @overload
    def __call__(
        self: ModelChat[Threads],
        messages: Messages,
        *,
        response_format: dict[str, Any] | None = None,
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> Generation[None]: ...
    @overload
    def __call__(
        self: ModelChat[Threads],
        messages: Messages,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        stream: Literal[True],
        **options: Unpack[ChatOptions],
    ) -> GenerationStream[ChatChunk]: ...
    @overload
    def __call__(
        self: ModelChat[Tasks],
        messages: Messages,
        *,
        response_format: type[B],
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> Coroutine[Any, Any, Generation[B]]: ...
    @overload
    def __call__(
        self: ModelChat[Tasks],
        messages: Messages,
        *,
        response_format: dict[str, Any] | None = None,
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> Coroutine[Any, Any, Generation[None]]: ...
    @overload
    def __call__(
        self: ModelChat[Tasks],
        messages: Messages,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        stream: Literal[True],
        **options: Unpack[ChatOptions],
    ) -> AsyncGenerationStream[ChatChunk]: ...
    def __call__(
        self, messages: Any, *, response_format: Any = None, stream: bool = False, **options: Any
    ) -> Any:
        """The model's answer to a conversation: a `Generation`, or a stream of its events.

        Args:
            messages: `[{"role": "user", "content": "..."}]`; a text is what the user says.
            response_format: A pydantic class, whose JSON the answer then is (`.parsed` is an
                object of it), or OpenAI's dictionary.
            stream: Give a `GenerationStream`, whose events come as the model writes; nothing is
                sent before its first step.
            options: As `ChatOptions` has them: `max_tokens`, `temperature`, `tools` and so on.
        Raises:
            BadRequestError: The server says what is wrong: a prompt that is too long, a schema.
            NotSupportedError: This server has no models that write.
            InputError: It cannot be sent at all.
        """
        name, sender = self._target(), limited_by(self._sender, options)
        if not stream:
            return sender.send(calls.chat(name, messages, response_format, options))
        call, collected = calls.chat_stream(name, messages, response_format, options)
        return generation_stream(sender.stream(call), collected)

    @overload
    def many(
        self: ModelChat[Threads],
        prompts: Prompts,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[ManyOptions],
    ) -> Generator[Generation[Any], None, None]: ...
    @overload
    def many(
        self: ModelChat[Threads],
        prompts: Prompts,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        on_error: Literal["return"],
        **options: Unpack[ManyOptions],
    ) -> Generator[Generation[Any] | AiaasError, None, None]: ...
    @overload
    def many(
        self: ModelChat[Tasks],
        prompts: AnyPrompts,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[ManyOptions],
    ) -> AsyncGenerator[Generation[Any], None]: ...
    @overload
    def many(
        self: ModelChat[Tasks],
        prompts: AnyPrompts,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        on_error: Literal["return"],
        **options: Unpack[ManyOptions],
    ) -> AsyncGenerator[Generation[Any] | AiaasError, None]: ...
    def many(
        self,
        prompts: Any,
        *,
        response_format: Any = None,
        on_error: OnError = "raise",
        **options: Any,
    ) -> Any:
        """Answers to many conversations, `concurrency` (8) of them asked for at once.

        The input is read lazily: never further ahead of what was handed out than
        `concurrency + 1` prompts. Closing the generator early ends the work.

        Args:
            prompts: Any iterable of texts or lists of messages, on an event loop an asynchronous
                one as well.
            response_format: As for a single call.
            on_error: "raise" leaves failed prompts out and raises at the end; "return" puts the
                error in its place, with its `index`.
            options: `concurrency`; `ordered`, False hands answers out as they come (`index` tells
                the prompt); `kept_failures`; `progress`, True shows a bar on a terminal, a callable
                gets `(done, total or None)`; and those of a single call.
        Raises:
            BulkError: At the end, some failed: `.failures` has the error of each by index.
            AuthenticationError, PermissionDeniedError, NotFoundError: At once.
        """
        from aiaas_client._bulk.plan import BulkOptions
        from aiaas_client._models.chat_bulk import ChatBulk, run_many

        own = {name: options.pop(name) for name in _BULK if name in options}
        bulk = ChatBulk(self._target(), response_format, options)
        calls.checked(options, ChatOptions)
        asked = BulkOptions(on_error=on_error, **own)
        sender = limited_by(self._sender, options)
        return run_many(bulk, prompts, asked, sender, self._flavour)

    @property
    def with_raw_response(self) -> RawChat[Flavour]:
        """The same call, giving the whole answer: status, headers, bytes and `.parse()`."""
        return RawChat(self, self._sender)

    def _target(self) -> str:
        """The name that is sent."""
        return with_version(self._name, self._version)


class RawChat(WithRawResponse, Generic[Flavour]):
    """A chat whose call gives its whole answer."""

    @overload
    def __call__(self: RawChat[Threads], /, *args: Any, **options: Any) -> RawResponse[Any]: ...
    @overload
    def __call__(
        self: RawChat[Tasks], /, *args: Any, **options: Any
    ) -> Coroutine[Any, Any, RawResponse[Any]]: ...
    def __call__(self, /, *args: Any, **options: Any) -> Any:
        """As the call of the chat."""
        return self._member("__call__")(*args, **options)


_BULK = ("concurrency", "ordered", "kept_failures", "progress")


def limited_by(sender: Any, options: dict[str, Any]) -> Any:
    """The sender, with the limits that the options of one call have."""
    found: Any = limited(sender, options.get("timeout"), options.get("deadline"))
    return found


def with_version(name: str, version: str | None) -> str:
    """What a body calls a model, or a version of it: `m`, `m@3`, `m@production`."""
    return name if version is None else f"{name}@{version}"
