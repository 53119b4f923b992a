"""What the events of a stream have told so far, as the answer that one whole call would give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiaas_client._api.generation import Generation

if TYPE_CHECKING:
    from pydantic import BaseModel

    from aiaas_client.protocol.generation import ChatChunk, Completion, Usage


class _Choice:
    """One of `n` answers."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls: dict[int, dict[str, Any]] = {}
        self.logprobs: list[Any] = []
        self.finish: Any = None

    def add_call(self, delta: Any) -> None:
        """More of a call; its id and name come once, its arguments in pieces."""
        call = self.calls.setdefault(delta.index, {"id": "", "name": "", "arguments": []})
        call["id"] = call["id"] or delta.id or ""
        call["name"] = call["name"] or delta.function.name
        call["arguments"].append(delta.function.arguments)

    def message(self) -> dict[str, Any]:
        calls = [
            {
                "id": call["id"],
                "function": {"name": call["name"], "arguments": "".join(call["arguments"])},
            }
            for _, call in sorted(self.calls.items())
        ]
        content = "".join(self.texts)
        return {"content": None if calls and not content else content, "tool_calls": calls or None}


class Collected:
    """Adds up the events of one stream.

    Args:
        is_chat: Events are `ChatChunk`s, else `Completion`s.
        parsed: What the text is to be read as in the end.
    """

    def __init__(self, *, is_chat: bool, parsed: type[BaseModel] | None) -> None:
        self._is_chat = is_chat
        self._parsed = parsed
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None

    def add(self, chunk: ChatChunk | Completion) -> None:
        """Take the next event."""
        self._head = self._head or {"id": chunk.id, "created": chunk.created, "model": chunk.model}
        self._usage = chunk.usage or self._usage
        for told in chunk.choices:
            choice = self._choices.setdefault(told.index, _Choice())
            self._add_choice(choice, told)

    def _add_choice(self, choice: _Choice, told: Any) -> None:
        if self._is_chat:
            choice.texts.append(told.delta.content or "")
            for delta in told.delta.tool_calls or ():
                choice.add_call(delta)
        else:
            choice.texts.append(told.text)
        if told.logprobs is not None:
            choice.logprobs.append(told.logprobs)
        choice.finish = told.finish_reason or choice.finish

    def generation(self) -> Generation[Any]:
        """The answer, as far as it has come."""
        from aiaas_client.protocol.generation import ChatCompletion, Completion, Usage

        usage, kind = self._usage or Usage(), ChatCompletion if self._is_chat else Completion
        choices = [self._choice(at, one) for at, one in sorted(self._choices.items())]
        document = kind.model_validate({**self._head, "choices": choices, "usage": usage})
        return Generation(document, _kind=self._parsed)

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        found: dict[str, Any] = {"index": index, "finish_reason": choice.finish}
        if self._is_chat:
            content = [one for told in choice.logprobs for one in told.content or ()]
            logprobs: Any = {"content": content} if choice.logprobs else None
            return {**found, "message": choice.message(), "logprobs": logprobs}
        return {**found, "text": "".join(choice.texts), "logprobs": _joined(choice.logprobs)}


def _joined(told: list[Any]) -> dict[str, Any] | None:
    """Log-probabilities in the older form: lists, one behind another."""
    if not told:
        return None
    parts = [one.model_dump() for one in told]
    names = [name for name in parts[0] if any(part[name] is not None for part in parts)]
    return {name: [value for part in parts for value in part[name] or ()] for name in names}
