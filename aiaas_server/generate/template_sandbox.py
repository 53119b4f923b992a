"""Where chat templates are rendered: what transformers gives them, and nothing that could do harm.

A template comes with a model, from whoever made it. Filters and methods are those of a list, each
of which costs no more than what it is given, or pays for more before it begins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from aiaas_server.generate.template_budget import ITEM, Metered, spend, spend_on

_INDENT = 16  # most spaces a level
_BITS = 4096  # of a number that is computed


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILTERS = _names(
    "abs capitalize count d default dictsort first float int items last length lower map max "
    "min reject rejectattr reverse safe select selectattr sort string title trim unique upper "
    "wordcount"
)
_METHODS: Mapping[type, frozenset[str]] = {
    str: _names(
        "capitalize count endswith find index isalnum isalpha isdigit islower isnumeric isspace "
        "isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex "
        "rpartition rsplit rstrip split splitlines startswith strip title upper"
    ),
    dict: _names("get items keys values"),
    list: _names("count index"),
    tuple: _names("count index"),
}
# Any letter, so that no width can ask for a gigabyte of padding.
_DATE = re.compile(r"(?:[^%]|%[-#]?[A-Za-z%])*")


class ConversationRefused(TemplateError):
    """The template itself says that it has no place for this conversation."""


class Names(Namespace):
    """What `namespace()` gives; its text is short, however deeply one lies in another."""

    def __repr__(self) -> str:
        return "<namespace>"


class GenerationTag(Extension):
    """`{% generation %}` marks the model's own words for training; here it marks nothing."""

    tags = {"generation"}  # noqa: RUF012 - the base class has a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all chat templates; threads may share it."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing is computed before there is a budget
            extensions=[GenerationTag, loopcontrols],
            finalize=_written,
        )
        self.filters = {**{name: FILTERS[name] for name in _FILTERS}, **_OWN_FILTERS}
        self.globals = {
            "range": self.globals["range"],  # of at most 100,000
            "dict": dict,
            "namespace": Names,
            "raise_exception": _refuse,
            "strftime_now": _now,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        Metered().visit(template)
        return template

    # What `Metered` has templates call

    def turn(self, cost: int) -> bool:
        """A turn of a loop begins."""
        spend(cost)
        return True

    def joined(self, *values: Any) -> str:
        """The texts of values, one behind the other: `a ~ b`."""
        return "".join(_joinable(map(str, values), ""))

    def built(self, value: Any) -> Any:
        """A list, tuple or dictionary was written down."""
        spend_on(value)
        return value

    # What the sandbox asks

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if not super().is_safe_attribute(obj, attr, value):
            return False
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return isinstance(obj, LoopContext | Names | Macro)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"the template reads '{attribute}' of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> None:
        if getattr(value, "__name__", "") in ("format", "format_map"):
            raise SecurityError("the template calls 'format' of a text")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name == "join" and args:
            args = (_joinable(args[0], owner), *args[1:])
        if isinstance(owner, str) and name == "replace":
            _check_replacement(owner, *args)
        if isinstance(owner, str) and name in ("split", "rsplit", "splitlines"):
            _check_split(owner, *args)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, range):
            spend(ITEM * len(result))  # whatever a filter does with each number
        elif isinstance(result, str | list | tuple | dict):
            spend_on(result)
        return result


def _check_operation(operator: str, left: Any, right: Any) -> None:
    sized = [len(one) for one in (left, right) if isinstance(one, str | list | tuple)]
    numbers = [one for one in (left, right) if isinstance(one, int)]
    if operator == "+":
        spend(sum(sized))
    elif operator == "%" and sized:
        raise SecurityError("the template formats a text with '%'")
    elif operator == "*" and sized:
        spend(sum(sized) * max(0, *numbers, 0))
    elif len(numbers) == 2 and operator in ("*", "**"):
        bits = int(left).bit_length()
        if (bits * abs(right) if operator == "**" else bits + right.bit_length()) > _BITS:
            raise SecurityError("the template computes too large a number")


def _check_replacement(text: str, old: Any = "", new: Any = "", count: Any = -1) -> None:
    if isinstance(old, str) and isinstance(new, str):
        times = text.count(old)
        spend(times * len(new) if not isinstance(count, int) or count < 0 else count * len(new))


def _check_split(text: str, at: Any = None, *_: Any) -> None:
    spend(ITEM * (text.count(at) if isinstance(at, str) and at else len(text) // 2))


def _joinable(values: Iterable[Any], between: str) -> list[Any]:
    found = list(values)
    spend(sum(len(one) for one in found if isinstance(one, str)) + len(between) * len(found))
    return found


def _paid(text: str) -> str:
    spend(len(text))
    return text


def _written(value: Any) -> str:
    return _paid(str(value))


def _refuse(message: Any = "") -> NoReturn:
    raise ConversationRefused(str(message))


def _now(form: str) -> str:
    if len(form) > 200 or not _DATE.fullmatch(form):
        raise SecurityError("the template asks for the time in a form that is not known")
    return datetime.now().strftime(form)


# Filters that cost more than what they are given, or that transformers has otherwise than Jinja


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int) and indent > _INDENT:
        raise SecurityError(f"the template indents by {indent}")
    return _paid(
        json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )
    )


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if isinstance(width, int) and width > _INDENT:
        raise SecurityError(f"the template indents by {width}")
    space = width if isinstance(width, str) else " " * width
    spend(len(space) * (str(text).count("\n") + 1))
    lines = str(text).split("\n")
    kept = [space + line if line or blank else line for line in lines[1:]]
    return "\n".join([space + lines[0] if first else lines[0], *kept])


def _join(values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        raise SecurityError("the template joins attributes; 'map' reads them")
    return str(d).join(_joinable(map(str, values), str(d)))


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    plain = str(text)
    _check_replacement(plain, old, new, count)
    return _paid(plain.replace(old, new, count))


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        spend(ITEM * len(value))
    return list(value)


def _sum(values: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    if attribute is not None or not isinstance(start, int | float):
        raise SecurityError("the template sums up what is not a number")
    return sum(values, start)


_OWN_FILTERS: Mapping[str, Callable[..., Any]] = {
    "indent": _indent,
    "join": _join,
    "list": _list,
    "replace": _replace,
    "sum": _sum,
    "tojson": _to_json,
}
