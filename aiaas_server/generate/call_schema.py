"""JSON schemas of calls, made of those of the functions' parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST_CALLS = 16  # of one answer, where they are demanded

Tool = Mapping[str, Any]

# Beside these, `properties` does not say all that may be there.
_MORE = (
    *("additionalProperties", "patternProperties", "unevaluatedProperties"),
    *("allOf", "anyOf", "oneOf", "$ref"),
)


def schema_of_calls(tools: Sequence[Tool], arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of one call, and the definitions that it refers to.

    Args:
        tools: Any of which may be called.
        arguments: What the member with the arguments is called.
    """
    definitions = {
        f"tool{at}": _parameters(tool.get("parameters"), f"#/$defs/tool{at}")
        for at, tool in enumerate(tools)
    }
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["name"]},
                arguments: {"$ref": f"#/$defs/tool{at}"},
            },
            "required": ["name", arguments],
            "additionalProperties": False,
        }
        for at, tool in enumerate(tools)
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}, definitions


def _parameters(schema: Any, place: str) -> Any:
    if not isinstance(schema, Mapping):
        return {"type": "object", "properties": {}, "additionalProperties": False}
    moved = _moved(schema, place)
    plain = {key: value for key, value in moved.items() if key not in ("$id", "$schema")}
    plain.setdefault("type", "object")
    if "properties" in plain and not any(key in plain for key in _MORE):
        plain["additionalProperties"] = False  # what nobody described is no argument
    return plain


def _moved(schema: Any, place: str) -> Any:
    """The same, within another document: what refers to its root refers to `place`."""
    if isinstance(schema, Mapping):
        return {
            key: place + value[1:]
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _moved(value, place)
            for key, value in schema.items()
        }
    if isinstance(schema, list | tuple):
        return [_moved(item, place) for item in schema]
    return schema
