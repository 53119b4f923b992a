"""What a model wrote: the text, the calls it wants made, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api.call import Timing
from aiaas_client._errors import ProtocolError

if TYPE_CHECKING:
    from aiaas_client.protocol.generation import (
        ChatCompletion,
        Completion,
        FinishReason,
        ToolCall,
        Usage,
    )

Parsed = TypeVar("Parsed")

_SHOWN = 60  # characters


@dataclass(frozen=True)
class Generation(Generic[Parsed]):
    """One answer of a model that writes; where `n` asked for several, the first of them.

    Attributes:
        document: The answer as the server told it, with all its choices; of a stream put together.
        request_id: The id the server knows the call by; empty for a stream.
        timing: Where the time went.
        index: Which of many prompts this answers, in `chat.many`; None elsewhere.
    """

    document: ChatCompletion | Completion
    request_id: str = ""
    timing: Timing = Timing()  # noqa: RUF009  # frozen
    index: int | None = None
    _kind: Any = field(default=None, repr=False)

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}..."
        return f"Generation({text!r}, finish_reason={self.finish_reason!r})"

    @property
    def text(self) -> str:
        """What was written; "" where the model only calls tools."""
        return self.texts[0] if self.document.choices else ""

    @property
    def texts(self) -> list[str]:
        """The text of each of `n` answers."""
        return [_text_of(choice) for choice in self.document.choices]

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ends: "stop", "length", "tool_calls"; None of a stream that goes on."""
        return self._first.finish_reason if self.document.choices else None

    @property
    def usage(self) -> Usage:
        """Tokens of the prompt and of the answer; zeros where the server did not tell."""
        from aiaas_client.protocol.generation import Usage

        return self.document.usage or Usage()

    @property
    def tool_calls(self) -> list[ToolCall]:
        """Calls that the model wants made, their arguments as JSON text."""
        message = self._message
        return [] if message is None else list(message.tool_calls or ())

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, to be put behind the others of the conversation."""
        message = self._message
        if message is None:
            return {"role": "assistant", "content": self.text}
        told: dict[str, Any] = message.model_dump(exclude_none=True)
        return {"content": None, **told} if "content" not in told else told

    @property
    def logprobs(self) -> Any:
        """Log-probabilities of the tokens, where they were asked for: the wire's own document."""
        return self._first.logprobs if self.document.choices else None

    @cached_property
    def parsed(self) -> Parsed:
        """The answer as the class that was given as `response_format`; None without one.

        Raises:
            ProtocolError: It is none: the answer was cut off by `max_tokens`, or calls tools.
        """
        if self._kind is None:
            return None  # type: ignore[return-value]  # `Parsed` is None then
        from pydantic import ValidationError

        try:
            found: Parsed = self._kind.model_validate_json(self.text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "text"
            raise ProtocolError(
                f"expected an answer that is a {self._kind.__name__}, got {self.text[:_SHOWN]!r} "
                f"(finish_reason {self.finish_reason!r}): {where}: {first['msg']}",
                request_id=self.request_id,
            ) from error
        return found

    @property
    def _first(self) -> Any:
        return self.document.choices[0]

    @property
    def _message(self) -> Any:
        return getattr(self._first, "message", None) if self.document.choices else None


def _text_of(choice: Any) -> str:
    message = getattr(choice, "message", None)
    text: str | None = choice.text if message is None else message.content
    return text or ""
