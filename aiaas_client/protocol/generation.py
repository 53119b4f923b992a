"""The answers of the generation routes, as OpenAI's API has them.

Requests have no documents here: the server reads them member by member, to refuse by name what it
cannot do, and clients write them as they are told.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from aiaas_client.protocol.documents import Told

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class TokenDetails(Told):
    """Of the prompt's tokens, those that were found in the cache."""

    cached_tokens: int = 0


class Usage(Told):
    """Tokens that a call took."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: TokenDetails = TokenDetails()


class FunctionCall(Told):
    """A function and its arguments, a JSON text."""

    name: str = ""
    arguments: str = ""


class ToolCall(Told):
    """A call that the model wants made."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall = FunctionCall()


class ToolCallDelta(Told):
    """More of a call; `id` and the name come with its first event alone."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCall = FunctionCall()


class TopLogprob(Told):
    """One of the likeliest tokens at a place; `bytes` is its UTF-8."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob] = []


class Logprobs(Told):
    """One entry a token."""

    content: list[TokenLogprob] | None = None


class AssistantMessage(Told):
    """What the model says; `content` is None where it only calls tools."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Told):
    """One of `n` answers."""

    index: int = 0
    message: AssistantMessage = AssistantMessage()
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletion(Told):
    """The answer of `POST /v1/chat/completions`."""

    id: str = ""
    object: Literal["chat.completion"] = "chat.completion"
    created: int = 0
    model: str = ""
    choices: list[ChatChoice] = []
    usage: Usage = Usage()


class Delta(Told):
    """What is new of a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(Told):
    """What is new of one of `n` answers."""

    index: int = 0
    delta: Delta = Delta()
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(Told):
    """One event of a streamed chat; the one with `usage` has no choices."""

    id: str = ""
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int = 0
    model: str = ""
    choices: list[ChunkChoice] = []
    usage: Usage | None = None


class CompletionLogprobs(Told):
    """By token, in the older form: `top_logprobs` maps token texts to log-probabilities."""

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int] = []


class CompletionChoice(Told):
    """One of `n` texts, or what is new of it."""

    index: int = 0
    text: str = ""
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(Told):
    """The answer of `POST /v1/completions`, and each event of it when streamed."""

    id: str = ""
    object: Literal["text_completion"] = "text_completion"
    created: int = 0
    model: str = ""
    choices: list[CompletionChoice] = []
    usage: Usage | None = None


class TranscriptSegment(Told):
    """A stretch of a recording; times in seconds from its beginning."""

    id: int = 0
    start: float = 0.0
    end: float = 0.0
    text: str = ""
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    tokens: list[int] = []


class Transcription(Told):
    """The answer of `POST /v1/audio/transcriptions`; of `json` the text alone."""

    text: str = ""
    task: str = Field(default="transcribe")
    language: str = ""
    duration: float = 0.0
    segments: list[TranscriptSegment] = []
    usage: dict[str, Any] | None = None
