"""What clients have for models that write and hear: `chat`, `generate` and `transcribe` by name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Unpack, overload

from aiaas_client._models.chats import ModelChat, RawChat, limited_by
from aiaas_client._models.writes import (
    Subtitled,
    Transcribed,
    Written,
    WrittenStream,
    hear,
    write,
)
from aiaas_client._send.flavours import Flavour, Tasks, Threads
from aiaas_client._send.work import acarry_out, carry_out

if TYPE_CHECKING:
    from pydantic import BaseModel

    from aiaas_client._api.generation import Generation
    from aiaas_client._api.transcribing import Subtitles, Told, TranscribeOptions
    from aiaas_client._api.writing import ChatOptions, GenerationOptions
    from aiaas_client._errors import AiaasError
    from aiaas_client._models.chats import AnyPrompts, B, ManyOptions, Messages, Prompts
    from aiaas_client._models.streams import AsyncGenerationStream, GenerationStream
    from aiaas_client.protocol.generation import (
        ChatChunk,
        Completion,  # noqa: F401  # named in the base classes below
        Transcription,  # noqa: F401  # named in the base classes below
    )


class Chat(Generic[Flavour]):
    """Chats with any model: call it with a model and messages; `many` answers many of them."""

    def __init__(self, sender: Any, flavour: type[Flavour]) -> None:
        self._sender = sender
        self._flavour = flavour

    def __repr__(self) -> str:
        return "<chat: call it with a model and messages, or .many with prompts>"

    @overload
    def __call__(
        self: Chat[Threads],
        model: str,
        messages: Messages,
        *,
        response_format: type[B],
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> Generation[B]: ...
    @overload
    def __call__(
        self: Chat[Threads],
        model: str,
        messages: Messages,
        *,
        response_format: dict[str, Any] | None = None,
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> Generation[None]: ...
    @overload
    def __call__(
        self: Chat[Threads],
        model: str,
        messages: Messages,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        stream: Literal[True],
        **options: Unpack[ChatOptions],
    ) -> GenerationStream[ChatChunk]: ...
    @overload
    def __call__(
        self: Chat[Tasks],
        model: str,
        messages: Messages,
        *,
        response_format: type[B],
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> Coroutine[Any, Any, Generation[B]]: ...
    @overload
    def __call__(
        self: Chat[Tasks],
        model: str,
        messages: Messages,
        *,
        response_format: dict[str, Any] | None = None,
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> Coroutine[Any, Any, Generation[None]]: ...
    @overload
    def __call__(
        self: Chat[Tasks],
        model: str,
        messages: Messages,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        stream: Literal[True],
        **options: Unpack[ChatOptions],
    ) -> AsyncGenerationStream[ChatChunk]: ...
    def __call__(self, model: str, messages: Any, **options: Any) -> Any:
        """A model's answer to a conversation; arguments and errors are those of `ModelChat`.

        Args:
            model: Its name.
            messages: `[{"role": "user", "content": "..."}]`; a text is what the user says.
            options: `response_format`, `stream`, and those of `ChatOptions`.
        """
        chat: Any = ModelChat(self._sender, self._flavour, model)
        return chat(messages, **options)

    @overload
    def many(
        self: Chat[Threads],
        model: str,
        prompts: Prompts,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[ManyOptions],
    ) -> Generator[Generation[Any], None, None]: ...
    @overload
    def many(
        self: Chat[Threads],
        model: str,
        prompts: Prompts,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        on_error: Literal["return"],
        **options: Unpack[ManyOptions],
    ) -> Generator[Generation[Any] | AiaasError, None, None]: ...
    @overload
    def many(
        self: Chat[Tasks],
        model: str,
        prompts: AnyPrompts,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[ManyOptions],
    ) -> AsyncGenerator[Generation[Any], None]: ...
    @overload
    def many(
        self: Chat[Tasks],
        model: str,
        prompts: AnyPrompts,
        *,
        response_format: type[BaseModel] | dict[str, Any] | None = None,
        on_error: Literal["return"],
        **options: Unpack[ManyOptions],
    ) -> AsyncGenerator[Generation[Any] | AiaasError, None]: ...
    def many(self, model: str, prompts: Any, **options: Any) -> Any:
        """Answers to many conversations; arguments and errors are those of `ModelChat.many`.

        Args:
            model: Its name.
            prompts: Any iterable of texts or lists of messages.
            options: `response_format`, `on_error`, and those of `ManyOptions`.
        """
        chat: Any = ModelChat(self._sender, self._flavour, model)
        return chat.many(prompts, **options)

    @property
    def with_raw_response(self) -> RawChat[Flavour]:
        """The same call, giving the whole answer: status, headers, bytes and `.parse()`."""
        return RawChat(self, self._sender)


class WritingCalls(Generic[Flavour, Written, WrittenStream, Transcribed, Subtitled]):
    """Calls of models that write or hear, by a model's name; the part of a client."""

    _sender: Any
    _flavour: ClassVar[Any]  # `Threads`, or `Tasks`
    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    @property
    def chat(self) -> Chat[Flavour]:
        """Chats: `client.chat(model, messages)`, `client.chat.many(model, prompts)`."""
        return Chat(self._sender, self._flavour)

    @overload
    def generate(
        self,
        model: str,
        prompt: str,
        *,
        stream: Literal[False] = False,
        **options: Unpack[GenerationOptions],
    ) -> Written: ...
    @overload
    def generate(
        self,
        model: str,
        prompt: str,
        *,
        stream: Literal[True],
        **options: Unpack[GenerationOptions],
    ) -> WrittenStream: ...
    def generate(self, model: str, prompt: str, **options: Any) -> Any:
        """Have a model go on with a text: a `Generation`, or a stream of its events.

        Args:
            model: Its name.
            prompt: The text.
            options: `stream`, and those of `GenerationOptions`: `max_tokens` and so on.
        Raises:
            BadRequestError: The server says what is wrong, such as a prompt that is too long.
            NotSupportedError: This server has no models that write.
            InputError: It cannot be sent at all.
        """
        return write(self._sender, model, prompt, options)

    @overload
    def transcribe(
        self,
        model: str,
        audio: Any,
        *,
        format: Told = "verbose_json",
        **options: Unpack[TranscribeOptions],
    ) -> Transcribed: ...
    @overload
    def transcribe(
        self,
        model: str,
        audio: Any,
        *,
        format: Subtitles,
        **options: Unpack[TranscribeOptions],
    ) -> Subtitled: ...
    def transcribe(
        self, model: str, audio: Any, *, format: str = "verbose_json", **options: Any
    ) -> Any:
        """What is said in a recording; arguments and errors are those of a handle's `transcribe`.

        Args:
            model: Its name.
            audio: A file as its path or its bytes, or `(samples, rate)`.
            format: "verbose_json" or "json" give a `Transcription`; "text", "srt", "vtt" a text.
            options: As `TranscribeOptions` has them.
        """
        steps = hear(model, audio, format, options)
        return self._carry_out(steps, limited_by(self._sender, options))


class ThreadWriting(
    WritingCalls[Threads, "Generation[None]", "GenerationStream[Completion]", "Transcription", str]
):
    """The part of `Client` that has models write."""

    _flavour = Threads
    _carry_out = staticmethod(carry_out)


class AsyncWriting(
    WritingCalls[
        Tasks,
        "Coroutine[Any, Any, Generation[None]]",
        "AsyncGenerationStream[Completion]",
        "Coroutine[Any, Any, Transcription]",
        "Coroutine[Any, Any, str]",
    ]
):
    """The part of `AsyncClient` that has models write."""

    _flavour = Tasks
    _carry_out = staticmethod(acarry_out)
