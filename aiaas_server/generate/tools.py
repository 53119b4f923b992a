"""The forms in which models write calls of functions, by the name that a card gives.

`hermes`: `<tool_call>{"name", "arguments"}</tool_call>`, once a call (Qwen, Hermes, SmolLM).
`json`: the object alone, or a list of such. `llama3`: the object with `parameters`, several divided
by semicolons. `mistral`: `[TOOL_CALLS]` and a list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiaas_server.core.generation import ChatReader, Format
from aiaas_server.generate.call_schema import MOST_CALLS, Tool, schema_of_calls
from aiaas_server.generate.chat_reader import CallReader, Marks

Repeat = Literal["marked", "listed", "divided"]

_MANY = 1 << 30


@dataclass(frozen=True, slots=True)
class CallForm:
    """One of the forms.

    Attributes:
        marks: Around calls. Where they are special tokens, they must be shown as text.
        repeat: How several are written: each with its marks, as one list, or one after another.
        arguments: What the member with the arguments is called.
        bare: Whether calls may begin an answer without an opening.
        prefix: What the prompt ends with where calls are demanded.
    """

    marks: Marks
    repeat: Repeat
    arguments: str = "arguments"
    bare: bool = False
    prefix: str = ""

    def demanded(self, tools: Sequence[Tool], parallel: bool) -> Format:
        """What an answer is held to that must call one of these, behind `prefix`."""
        call, definitions = schema_of_calls(tools, self.arguments)
        most = MOST_CALLS if parallel else 1
        several = {"type": "array", "items": call, "minItems": 1, "maxItems": most}
        if self.marks.opening and self.repeat == "listed":
            return Format("json_schema", {"$defs": definitions, **several})
        if self.repeat == "listed":
            either = {"anyOf": [call, several]} if parallel else call
            return Format("json_schema", {"$defs": definitions, **either})
        if not parallel and self.repeat == "divided":
            return Format("json_schema", {"$defs": definitions, **call})
        return Format("grammar", self._grammar({"$defs": definitions, **call}, most))

    def _grammar(self, call: Mapping[str, Any], most: int) -> str:
        from aiaas_server.generate.formats import JSON_OPTIONS

        behind, before = "", "; "
        if self.repeat == "marked":
            behind, before = f"\n{self.marks.closing}", f"\n{self.marks.opening}\n"
        more = f" ({json.dumps(before)} call){{0,{most - 1}}}" if most > 1 else ""
        document = json.dumps({**call, "x-guidance": JSON_OPTIONS})
        return f"start: call{more}\ncall: %json {document} {json.dumps(behind)}\n"

    def reader(self, tools: Sequence[Tool], parallel: bool, opened: bool) -> ChatReader:
        """What reads one answer.

        Args:
            opened: Whether the prompt ended with `prefix`.
        """
        names = frozenset(str(tool["name"]) for tool in tools)
        most = _MANY if parallel else 1
        return CallReader(self.marks, names, bare=self.bare, most=most, opened=opened)

    def written(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Calls of an earlier answer, `{"name", "arguments"}`, as the model would write them."""
        told = [
            json.dumps({"name": one["name"], self.arguments: one["arguments"]}, ensure_ascii=False)
            for one in calls
        ]
        opening, closing = self.marks
        if self.repeat == "marked":
            return "\n".join(f"{opening}\n{one}\n{closing}" for one in told)
        if self.repeat == "divided" or (not opening and len(told) == 1):
            return "; ".join(told)
        return f"{opening}[{', '.join(told)}]"

    def instructions(self, tools: Sequence[Tool]) -> str:
        """What a model is told of functions whose template does not do it."""
        shown = "\n".join(json.dumps(_shown(tool), ensure_ascii=False) for tool in tools)
        example = self._example()
        return (
            "# Tools\n\nYou may call functions to answer the user. These are there, as JSON:\n"
            f"<tools>\n{shown}\n</tools>\n\n"
            f"To call one, answer with its name and its arguments, in this form:\n{example}"
        )

    def _example(self) -> str:
        member = f'{{"name": <name of the function>, "{self.arguments}": <object of arguments>}}'
        if self.repeat == "marked":
            return f"{self.marks.opening}\n{member}\n{self.marks.closing}"
        listed = self.repeat == "listed" and self.marks.opening
        return f"{self.marks.opening}[{member}]" if listed else member


def _shown(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": dict(tool)}


_HERMES = Marks("<tool_call>", "</tool_call>")
FORMS: Mapping[str, CallForm] = {
    "hermes": CallForm(_HERMES, "marked", prefix="<tool_call>\n"),
    "json": CallForm(Marks(""), "listed", bare=True),
    "llama3": CallForm(Marks("<|python_tag|>"), "divided", "parameters", bare=True),
    "mistral": CallForm(Marks("[TOOL_CALLS]"), "listed", bare=True, prefix="[TOOL_CALLS]"),
}


def marks_of(name: str) -> tuple[str, ...]:
    """Texts that mark calls in a form, and that are tokens of their own in many vocabularies."""
    form = FORMS.get(name)
    return () if form is None else tuple(filter(None, form.marks))
