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
from typing import Any, cast

from llguidance import LLMatcher, regex_to_lark

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Format

LONGEST = 1 << 18  # characters of a schema, an expression or a grammar
_OBJECT = {"type": "object"}
# An automaton counts remainders: a large divisor takes seconds and hundreds of megabytes.
_LARGEST_DIVISOR = 20_000
_DIVISOR = re.compile(r'"multipleOf"\s*:\s*([-+0-9.eE]+)')
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")

# What a schema's own `x-guidance` would say. Of several of these options the more permissive wins,
# so that the schema's are taken out besides.
JSON_OPTIONS: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "lenient": False,
    "coerce_one_of": False,
}


def grammar_of(format: Format) -> str:
    """The grammar that `LLMatcher` takes.

    Raises:
        InvalidInput: Not a value of that kind, too long, or a number in it costs too much.
    """
    try:
        return _GRAMMARS[format.kind](format.value)
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
    plain = {key: value for key, value in schema.items() if key != "x-guidance"}
    text = _bounded(json.dumps(plain, allow_nan=False))
    check_divisors(divisors(plain))
    return LLMatcher.grammar_from_json_schema(text, overrides=cast(Any, JSON_OPTIONS))


def _regex(expression: Any) -> str:
    # `\d` is 0 to 9, as callers mean it, and not each digit of Unicode.
    plain = regex_to_lark(_text(expression, "a regular expression"), "d")
    return LLMatcher.grammar_from_regex(plain)


def _lark(grammar: Any) -> str:
    text = _text(grammar, "a grammar")
    shown = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    check_divisors(_number(found[1]) for found in _DIVISOR.finditer(shown))
    return LLMatcher.grammar_from_lark(text)


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
            if key == "multipleOf" and isinstance(value, int | float) and value is not True:
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
    return _bounded(value)


def _bounded(text: str) -> str:
    if len(text) > LONGEST:
        raise InvalidInput(f"expected at most {LONGEST} characters, got {len(text)}")
    return text


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
