"""JSON schemas at random, of what is supported."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
_NAMES = ("name", "age", "tags", "ok", "a b", "é", 'quo"te', "x\\y", "你好")


def schema_of(seed: int) -> Schema:
    """One that can be met, of an object in most cases; the same for the same seed."""
    draw = random.Random(seed)
    found = _object(draw, 3) if draw.random() < 0.7 else _any(draw, 3)
    if draw.random() < 0.2:
        found = {
            "$defs": {"node": _node(draw)},
            "type": "object",
            "properties": {"inner": found, "tree": {"$ref": "#/$defs/node"}},
            "required": ["inner", "tree"],
            "additionalProperties": False,
        }
    return found


def _node(draw: random.Random) -> Schema:
    return {
        "type": "object",
        "properties": {
            "value": _any(draw, 0),
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        },
        "required": ["value", "next"],
        "additionalProperties": False,
    }


def _any(draw: random.Random, depth: int) -> Schema:
    simple: tuple[Callable[[random.Random], Schema], ...] = (
        _string,
        _number,
        _integer,
        _constant,
        _patterned,
        lambda _: {"type": "boolean"},
        lambda _: {"type": ["string", "null"], "maxLength": 4},
    )
    deep: tuple[Callable[[random.Random, int], Schema], ...] = (_object, _array, _tuple, _either)
    if depth and draw.random() < 0.5:
        return draw.choice(deep)(draw, depth - 1)
    return draw.choice(simple)(draw)


def _object(draw: random.Random, depth: int) -> Schema:
    names = draw.sample(_NAMES, draw.randint(1, 4))
    found: Schema = {
        "type": "object",
        "properties": {name: _any(draw, depth) for name in names},
        "required": [name for name in names if draw.random() < 0.6],
        "additionalProperties": False,
    }
    if draw.random() < 0.2:
        found["additionalProperties"] = _any(draw, 0)
    if draw.random() < 0.1:
        found["patternProperties"] = {"^n_[a-z]{1,3}$": {"type": "integer"}}
    return found


def _array(draw: random.Random, depth: int) -> Schema:
    fewest = draw.randint(0, 2)
    most = fewest + draw.randint(0, 2)
    return {"type": "array", "items": _any(draw, depth), "minItems": fewest, "maxItems": most}


def _tuple(draw: random.Random, depth: int) -> Schema:
    items = [_any(draw, depth) for _ in range(draw.randint(1, 3))]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _either(draw: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(draw, depth), _any(draw, 0)]}


def _string(draw: random.Random) -> Schema:
    fewest = draw.randint(0, 3)
    return {"type": "string", "minLength": fewest, "maxLength": fewest + draw.randint(0, 8)}


def _patterned(draw: random.Random) -> Schema:
    patterns = (r"^[A-Z]{2}-[0-9]{1,3}$", r"^(yes|no)$", r"^\d{4}$", r"^[^\s]{1,5}$")
    return {"type": "string", "pattern": draw.choice(patterns)}


def _number(draw: random.Random) -> Schema:
    least = draw.randint(-50, 50) / 4
    return {"type": "number", "minimum": least, "exclusiveMaximum": least + draw.randint(1, 90)}


def _integer(draw: random.Random) -> Schema:
    if draw.random() < 0.3:
        return {"type": "integer", "multipleOf": draw.choice((2, 3, 5, 7, 12))}
    least = draw.randint(-1000, 1000)
    return {"type": "integer", "minimum": least, "maximum": least + draw.randint(0, 500)}


def _constant(draw: random.Random) -> Schema:
    values: list[Any] = ["red", "grün", "", 0, -1.5, True, None, [1, 2], {"k": "v"}, 'a"b\\']
    if draw.random() < 0.4:
        return {"const": draw.choice(values)}
    return {"enum": draw.sample(values, 3)}
