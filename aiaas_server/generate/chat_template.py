"""A model's own form of a conversation: the Jinja template that comes with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from aiaas_server.core.errors import InvalidInput, LoadFailed

if TYPE_CHECKING:
    from jinja2 import Template

_LONGEST = 1 << 20  # characters of a template
_TRIAL = ({"role": "user", "content": "Hello"},)

Messages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """A template that was read and tried; threads may share it.

    Attributes:
        knows_tools: Whether it says itself which functions there are.
    """

    def __init__(self, source: str, name: str, variables: Mapping[str, Any]) -> None:
        """Read it, and write a conversation of one message by it.

        Args:
            name: Of the file, for errors.
            variables: What it may refer to in each conversation, `bos_token` and the like.
        Raises:
            LoadFailed: It is no template, is too long, or does what templates must not.
        """
        self._name = name
        self._variables = dict(variables)
        self._template = _compiled(source, name)
        self.knows_tools = "tools" in _undeclared(source)
        try:
            self._rendered(_TRIAL, {})
        except InvalidInput:
            pass  # it wants other roles, and says so to whoever leaves them out
        except Exception as error:
            raise LoadFailed(f"{name}: {_told(error)}") from None

    def render(
        self,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a conversation, up to where the answer begins.

        Args:
            messages: As transformers has them: arguments of calls are objects, contents texts.
            tools: `{"type": "function", "function": {...}}`.
            options: Further variables; these cannot take the place of the others.
        Raises:
            InvalidInput: The template refuses the conversation, or cannot write it.
        """
        variables = {**(options or {}), "tools": list(tools) or None}
        try:
            return self._rendered(messages, variables)
        except InvalidInput:
            raise
        except Exception as error:
            raise InvalidInput(
                f"messages: the model's template cannot write them: {_told(error)}"
            ) from None

    def _rendered(self, messages: Messages, variables: Mapping[str, Any]) -> str:
        from aiaas_server.generate.template_budget import BUDGET, Budget
        from aiaas_server.generate.template_sandbox import ConversationRefused

        held = BUDGET.set(Budget())
        try:
            return self._template.render(
                {
                    "tools": None,
                    "documents": None,
                    "add_generation_prompt": True,
                    **variables,
                    **self._variables,
                    "messages": list(messages),
                }
            )
        except ConversationRefused as error:
            told = " ".join(str(error).split())[:300]
            raise InvalidInput(f"messages: the model's template refuses them: {told}") from None
        finally:
            BUDGET.reset(held)


@cache
def _sandbox() -> Any:
    try:
        from aiaas_server.generate.template_sandbox import Sandbox
    except ModuleNotFoundError as error:
        raise LoadFailed(
            f"the package '{error.name}' is missing: pip install \"aiaas-client[generate]\""
        ) from None
    return Sandbox()


def _compiled(source: str, name: str) -> Template:
    if len(source) > _LONGEST:
        raise LoadFailed(f"{name}: expected at most {_LONGEST} characters, got {len(source)}")
    try:
        template: Template = _sandbox().from_string(source)
    except LoadFailed:
        raise
    except Exception as error:  # Jinja's own, and Python's of what Jinja made of it
        line = getattr(error, "lineno", None)
        place = f"line {line}: " if line else ""
        raise LoadFailed(f"{name}: {place}{_told(error)}") from None
    return template


def _undeclared(source: str) -> set[str]:
    from jinja2 import meta

    return meta.find_undeclared_variables(_sandbox().parse(source))


def _told(error: Exception) -> str:
    told = " ".join(str(error).split())[:300]
    return told or type(error).__name__
