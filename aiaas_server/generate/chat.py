"""A conversation becomes a prompt: by the model's template, with the functions that it may call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Chat, Format, Prompt
from aiaas_server.generate.chat_reader import PlainReader
from aiaas_server.generate.chat_template import ChatTemplate
from aiaas_server.generate.tools import FORMS, CallForm

Message = dict[str, Any]


class Chats:
    """Writes the prompts of one model; threads may share it."""

    def __init__(
        self,
        template: ChatTemplate,
        tools: str,
        encode: Callable[[str], Sequence[int]],
        check: Callable[[Format], object] | None = None,
    ) -> None:
        """Nothing is read before the first conversation.

        Args:
            tools: Form in which the model writes calls, of `tools.FORMS`; "" for none of its own.
            encode: The tokens of a text, special ones recognised.
            check: Compiles what `tool_choice` demands, so that an error names the tools.
        """
        self._template = template
        self._form = FORMS.get(tools)
        self._encode = encode
        self._check = check

    def prompt(self, chat: Chat) -> Prompt:
        """Write a conversation; blocking, as long as the template takes.

        Raises:
            InvalidInput: The template refuses it, the functions cannot be called as is asked,
                there is a lone surrogate, or parts are nested too deeply.
        """
        try:
            return self._prompt(chat)
        except RecursionError:
            raise InvalidInput(
                "the conversation, its functions or options: expected parts that are nested less "
                "deeply"
            ) from None

    def _prompt(self, chat: Chat) -> Prompt:
        tools = () if chat.tool_choice == "none" else tuple(chat.tools)
        for at, tool in enumerate(tools):
            if not isinstance(tool.get("name"), str) or not tool["name"]:
                raise InvalidInput(f"tools[{at}].name: expected a text, got {tool.get('name')!r}")
        form = self._form_for(chat, tools)
        demanded = self._demanded(chat, tools, form)
        text = self._written(chat, tools, form)
        opened = demanded is not None and bool(form.prefix)
        if opened:
            text += form.prefix
        tokens = tuple(self._encode(text))
        if not tools:
            return Prompt(tokens, None, (), PlainReader)
        parallel = chat.parallel
        closing = form.marks.closing
        # One call is asked for, so that the model need not write on behind it.
        stop = (closing,) if closing and not parallel and demanded is None else ()
        return Prompt(tokens, demanded, stop, lambda: form.reader(tools, parallel, opened))

    def _form_for(self, chat: Chat, tools: Sequence[Mapping[str, Any]]) -> CallForm:
        """How calls are written; those that are demanded can be had of each model, as JSON."""
        if self._form is not None:
            return self._form
        if tools and chat.tool_choice == "auto":
            raise InvalidInput(
                "tools: this model has no form of its own for calls (card: generation.tools), so "
                "that tool_choice must be 'required', 'none' or a function's name, got 'auto'"
            )
        return FORMS["json"]

    def _demanded(
        self, chat: Chat, tools: Sequence[Mapping[str, Any]], form: CallForm
    ) -> Format | None:
        if chat.tool_choice in ("none", "auto"):
            return None
        if not tools:
            raise InvalidInput(f"tool_choice: expected 'none' without tools, got {_shown(chat)}")
        wanted = [tool for tool in tools if chat.tool_choice in ("required", str(tool.get("name")))]
        if not wanted:
            names = ", ".join(f"'{tool.get('name')}'" for tool in tools)
            raise InvalidInput(f"tool_choice: expected one of {names}, got {_shown(chat)}")
        demanded = form.demanded(wanted, chat.parallel and chat.tool_choice == "required")
        if self._check is not None:
            try:
                self._check(demanded)
            except InvalidInput as error:
                told = error.message.partition(": ")[2] or error.message
                raise InvalidInput(f"tools: parameters cannot be kept to: {told}") from None
        return demanded

    def _written(self, chat: Chat, tools: Sequence[Mapping[str, Any]], form: CallForm) -> str:
        messages = _with_names([_read(message) for message in chat.messages])
        given = [{"type": "function", "function": dict(tool)} for tool in tools]
        if self._template.knows_tools:
            return self._template.render(messages, given, chat.options)
        messages = [_without_calls(message, form) for message in messages]
        if not tools:
            return self._template.render(messages, (), chat.options)
        instructions = form.instructions(tools)
        try:
            return self._template.render(_told(messages, instructions), (), chat.options)
        except InvalidInput:  # some models know no system message
            return self._template.render(_asked(messages, instructions), (), chat.options)


def _shown(chat: Chat) -> str:
    return repr(chat.tool_choice[:64])


def _read(message: Mapping[str, Any]) -> Message:
    """A message as templates want it: a text in any case, and arguments as objects."""
    content = message.get("content")
    read = {**message, "content": "" if content is None else content}
    if message.get("tool_calls"):
        read["tool_calls"] = [_call(one) for one in message["tool_calls"]]
    return read


def _call(call: Mapping[str, Any]) -> Message:
    function = dict(call.get("function") or {})
    function["arguments"] = _object(function.get("arguments"))
    return {**call, "function": function}


def _object(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return {} if arguments is None else arguments
    try:
        return json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return arguments  # what a model wrote that was no JSON, as it was


def _with_names(messages: list[Message]) -> list[Message]:
    """Give each answer of a function the function's name, which some templates want."""
    names: dict[Any, Any] = {}
    for message in messages:
        for call in message.get("tool_calls", ()):
            names[call.get("id")] = call["function"].get("name")
        if message.get("role") == "tool" and not message.get("name"):
            name = names.get(message.get("tool_call_id"))
            if name:
                message["name"] = name
    return messages


def _without_calls(message: Message, form: CallForm) -> Message:
    """The same for a template that knows neither calls nor what came of them."""
    if message.get("role") == "tool":
        return {
            "role": "user",
            "content": f"<tool_response>\n{message['content']}\n</tool_response>",
        }
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = form.written([one["function"] for one in calls])
    content = f"{message['content']}\n{written}" if message["content"] else written
    return {"role": message["role"], "content": content}


def _told(messages: list[Message], instructions: str) -> list[Message]:
    if messages and messages[0].get("role") == "system":
        first = messages[0]
        joined = f"{first['content']}\n\n{instructions}" if first["content"] else instructions
        return [{**first, "content": joined}, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def _asked(messages: list[Message], instructions: str) -> list[Message]:
    """The same as a part of what the user says first."""
    for at, message in enumerate(messages):
        if message.get("role") == "user":
            joined = {**message, "content": f"{instructions}\n\n{message['content']}"}
            return [*messages[:at], joined, *messages[at + 1 :]]
    return messages
