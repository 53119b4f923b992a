"""Names of fields that a `config.pbtxt` uses and nobody knows: most likely misspelt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from aiaas_server.core.describe.config import nearest

Fields = Mapping[str, str]

_TOKEN: Final = re.compile(
    r"""(?P<skip>\#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""
    r"""|(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<after>\s*:?\s*[{<\[]|\s*:)?"""
    r"""|(?P<open>[{<])|(?P<close>[}>])"""
)


@dataclass(slots=True)
class _Message:
    """A message that is open where the text is read.

    Attributes:
        fields: Those it may have; None where that is not known.
        last: The type of the field that was named last: of each element of a list.
    """

    fields: Fields | None
    last: str = ""


def unknown_fields(
    source: str, messages: Mapping[str, Fields], root: str
) -> Iterator[tuple[str, str]]:
    """Fields that a text gives to a message that has none such, each with the nearest name.

    Those of the outermost message are given without one too, with "".

    Args:
        messages: By message, field name to type: another message's name, or anything else; a
            type may begin with "*", or be "key%value".
        root: The message that the text is of.
    """
    stack = [_Message(messages[root])]
    for token in _TOKEN.finditer(source):
        here = stack[-1]
        opens = bool(token["open"])
        if token["close"] and len(stack) > 1:
            stack.pop()
        elif token["after"]:
            here.last = ""
            if here.fields is not None:
                here.last = here.fields.get(token["name"], "")
                near = "" if here.last else nearest(token["name"], here.fields)
                # What is inside is described in part.
                if near or (not here.last and len(stack) == 1):
                    yield token["name"], near
            opens = token["after"][-1] in "{<"
        if opens:
            stack.append(_Message(_fields(here.last, messages)))


def _fields(kind: str, messages: Mapping[str, Fields]) -> Fields | None:
    if "%" in kind:
        key, _, value = kind.partition("%")
        return {"key": key, "value": value}
    return messages.get(kind.removeprefix("*")) or None
