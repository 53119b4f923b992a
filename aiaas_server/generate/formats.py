"""Formats that callers ask for as grammars of llguidance: checked, since a caller may be hostile.

A JSON document has at most one space behind a comma or a colon, and no other white space: where a
grammar permits any, a model may write line breaks for ever.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from llguidance import regex_to_lark

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Format

LONGEST = 1 << 18  # characters of a schema, an expression or a grammar
_OBJECT = {"type": "object"}
# An automaton counts remainders: a large divisor takes seconds and hundreds of megabytes.
_LARGEST_DIVISOR = 20_000
_DIVISOR = re.compile(r'"multipleOf"\s*:\s*([-+0-9.eE]+)')
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")

# Else the library looks for what must follow, and looks for ever behind `/a+/ /a+/`. It stands
# last, so that errors tell the lines of what was sent.
_FOOT = '\n%llguidance {"no_forcing": true}\n'
_KEPT_BACK = ("%llguidance", "%lark")  # would bring options of their own, which win

# In the place of what a schema's own `x-guidance` says.
JSON_OPTIONS: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "lenient": False,
    "coerce_one_of": False,
}


def grammar_of(format: Format) -> str:
    """The grammar that `LLMatcher` takes, in Lark's notation.

    Raises:
        InvalidInput: Not a value of that kind, too long, or a number in it costs too much.
    """
    try:
        return _GRAMMARS[format.kind](format.value) + _FOOT
    except InvalidInput as error:
        raise InvalidInput(f"{format.kind}: {error.message}") from None
    except RecursionError:
        raise InvalidInput(f"{format.kind}: nested too deeply") from None
    except (TypeError, ValueError) as error:  # no JSON, lone surrogates, NaN
        raise InvalidInput(f"{format.kind}: {error}") from None


def _json_object(_: Any) -> str:
    return _json_schema(_OBJECT)


def _json_schema(schema: Any) -> str:
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    if not isinstance(schema, Mapping):
        raise InvalidInput(f"expected a schema, which is an object, got {_kind(schema)}")
    text = _bounded(json.dumps({**schema, "x-guidance": JSON_OPTIONS}, allow_nan=False))
    check_divisors(divisors(schema))
    return f"start: %json {text}"


def _regex(expression: Any) -> str:
    text = _text(expression, "a regular expression")
    if (len(text) - len(text.rstrip("\\"))) % 2:
        raise InvalidInput("expected a regular expression, got one that ends in a single backslash")
    # `\d` is 0 to 9, as callers mean it, and not each digit of Unicode.
    return f"start: /{regex_to_lark(text, 'd')}/"


def _lark(grammar: Any) -> str:
    text = _text(grammar, "a grammar")
    if text.lstrip().startswith("{"):
        raise InvalidInput("expected a grammar in Lark's notation, got JSON")
    shown = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    check_divisors(_number(found[1]) for found in _DIVISOR.finditer(shown))
    return text


_GRAMMARS: Mapping[str, Callable[[Any], str]] = {
    "json_object": _json_object,
    "json_schema": _json_schema,
    "regex": _regex,
    "grammar": _lark,
}


def divisors(schema: Any) -> Iterator[float]:
    """All numbers that stand under `multipleOf`."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "multipleOf" and type(value) in (int, float):
                yield value
            yield from divisors(value)
    elif isinstance(schema, list | tuple):
        for item in schema:
            yield from divisors(item)


def check_divisors(found: Iterator[float]) -> None:
    """Refuse divisors that cost too much, one by one or together, as `allOf` joins them.

    Raises:
        InvalidInput: Their least common multiple has too many remainders.
    """
    together = 1
    for divisor in found:
        digits = "".join(map(str, Decimal(repr(divisor)).normalize().as_tuple().digits))
        together = math.lcm(together, int(digits or "0") or 1)
        if together > _LARGEST_DIVISOR:
            raise InvalidInput(
                f"multipleOf: expected divisors with a common multiple of at most "
                f"{_LARGEST_DIVISOR} (decimal points aside), got {together}"
            )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0  # which the grammar's own reader refuses


def _text(value: Any, kind: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"expected {kind}, which is a text, got {_kind(value)}")
    if not value:
        raise InvalidInput(f"expected {kind}, got an empty text")
    for word in _KEPT_BACK:
        if word in value:
            raise InvalidInput(f"expected {kind} without '{word}'")
    return _bounded(value)


def _bounded(text: str) -> str:
    if len(text) > LONGEST:
        raise InvalidInput(f"expected at most {LONGEST} characters, got {len(text)}")
    return text


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
