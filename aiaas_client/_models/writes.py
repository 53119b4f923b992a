"""What handles have for models that write: `generate` with a prompt, and `transcribe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, Unpack, overload

from aiaas_client._api import transcribing
from aiaas_client._api import writing as calls
from aiaas_client._models.chats import ModelChat, limited_by, with_version
from aiaas_client._models.plain_calls import Documents, PlainCalls
from aiaas_client._models.streams import generation_stream
from aiaas_client._send.flavours import Document, Flavour, Statistics, Truth
from aiaas_client._send.work import Local

if TYPE_CHECKING:
    from aiaas_client._api.transcribing import Subtitles, Told, TranscribeOptions
    from aiaas_client._api.writing import GenerationOptions
    from aiaas_client._send.work import Work
    from aiaas_client.protocol.inference import Scalar

Written = TypeVar("Written")  # a `Generation`, or what is awaited for it
WrittenStream = TypeVar("WrittenStream")
Transcribed = TypeVar("Transcribed")  # a `Transcription`
Subtitled = TypeVar("Subtitled")  # a text


class Writes(
    PlainCalls[Document, Statistics, Truth, Documents],
    Generic[
        Document,
        Statistics,
        Truth,
        Documents,
        Flavour,
        Written,
        WrittenStream,
        Transcribed,
        Subtitled,
    ],
):
    """Calls of one model that may write or hear."""

    _flavour: ClassVar[Any]  # `Threads`, or `Tasks`
    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    @property
    def chat(self) -> ModelChat[Flavour]:
        """Chats with the model: `handle.chat(messages)`, `handle.chat.many(prompts)`."""
        return ModelChat(self._sender, self._flavour, self.name, self.version)

    @overload
    def generate(
        self,
        prompt: str,
        /,
        *,
        stream: Literal[False] = False,
        **options: Unpack[GenerationOptions],
    ) -> Written: ...
    @overload
    def generate(
        self, prompt: str, /, *, stream: Literal[True], **options: Unpack[GenerationOptions]
    ) -> WrittenStream: ...
    @overload
    def generate(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        parameters: Mapping[str, Scalar] | None = None,
        request_id: str = "",
        timeout: float | None = None,
        deadline: float | None = None,
        **values: Any,
    ) -> Document: ...
    def generate(self, given: Any = None, /, **values: Any) -> Any:
        """Go on with a text; or, given inputs by name, run the generate extension.

        With a text, the model writes what follows it: a `Generation`, or with `stream=True` a
        stream of its events. Options are those of `GenerationOptions`.

        Without one, it is flat JSON in, flat JSON out, as `generate_stream` has it.

        Args:
            given: The text; or inputs by name (needed for inputs named like an option below):
                text, numbers, lists or arrays; a single value stands for a tensor of one element.
            parameters: Request parameters for the model.
            request_id: An id to send along.
            timeout: Seconds for each phase of a request, instead of the client's.
            deadline: Seconds for the whole call with its retries, instead of the client's.
            values: Inputs by name.
        Returns:
            Of the extension `model_name`, `model_version` and the outputs: a value where there is
            one element, else a flat list.
        Raises:
            NotSupportedError: this server has no generate extension, or no models that write.
            AiaasError: anything else.
        """
        if isinstance(given, str):
            return write(self._sender, with_version(self.name, self.version), given, values)
        return super().generate(given, **values)

    @overload
    def transcribe(
        self, audio: Any, *, format: Told = "verbose_json", **options: Unpack[TranscribeOptions]
    ) -> Transcribed: ...
    @overload
    def transcribe(
        self, audio: Any, *, format: Subtitles, **options: Unpack[TranscribeOptions]
    ) -> Subtitled: ...
    def transcribe(self, audio: Any, *, format: str = "verbose_json", **options: Any) -> Any:
        """What is said in a recording.

        Args:
            audio: A file as its path or its bytes, or `(samples, rate)`.
            format: "verbose_json" gives a `Transcription` with its segments (times in seconds),
                "json" one with the text alone; "text", "srt" and "vtt" give a text.
            options: As `TranscribeOptions` has them.
        Raises:
            BadRequestError: The server says what is wrong with the recording.
            NotSupportedError: This server has no models that hear.
            InputError: It cannot be sent at all.
        """
        steps = hear(with_version(self.name, self.version), audio, format, options)
        return self._carry_out(steps, limited_by(self._sender, options))


def write(sender: Any, model: str, prompt: str, options: dict[str, Any]) -> Any:
    """Have a model go on with a text."""
    stream, sender = options.pop("stream", False), limited_by(sender, options)
    if not stream:
        return sender.send(calls.completion(model, prompt, options))
    call, collected = calls.completion_stream(model, prompt, options)
    return generation_stream(sender.stream(call), collected)


def hear(model: str, audio: Any, format: str, options: dict[str, Any]) -> Work[Any]:
    """Have a model hear a recording, which is read on the way."""

    def make() -> Any:
        return transcribing.transcribe(model, audio, format, options)

    call = (yield Local(make)) if transcribing.is_slow(audio) else make()
    return (yield call)
