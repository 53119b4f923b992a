"""Members of a JSON object, each taken by its name, its kind and its range.

What a person sent is refused by name, with what was expected and what came. `null` is as good as
nothing, as in OpenAI's API.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any, Final

from aiaas_server.core.errors import InvalidInput

_SHOWN: Final = 64  # characters of what came
_SHOWN_DIGITS: Final = 10**18


class Members:
    """One object and where it stands.

    Args:
        document: The object.
        place: Said before the names of members: `messages[0].`, or nothing.
    """

    def __init__(self, document: Mapping[str, Any], place: str = "") -> None:
        self.document = document
        self.place = place

    def get(self, name: str) -> Any:
        """The value as it came; None where there is none."""
        return self.document.get(name)

    def wrong(self, name: str, expected: str) -> InvalidInput:
        """The error of a member that is not what it should be."""
        return wrong(f"{self.place}{name}", expected, self.document.get(name))

    def text(self, name: str, default: str | None = None) -> str:
        """A text; one that is asked for where there is no `default`."""
        value = self.document.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def boolean(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.document.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`; None where there is none."""
        value = self.document.get(name)
        if value is None:
            return None
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, default: float) -> float:
        """A finite number from `low` to `high`."""
        value = self.document.get(name)
        if value is None:
            return default
        if not is_number(value) or not low <= value <= high:
            raise self.wrong(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def items(self, name: str) -> list[Any]:
        """A list; an empty one where there is none."""
        value = self.document.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return value

    def part(self, name: str) -> Members | None:
        """An object; None where there is none."""
        value = self.document.get(name)
        if value is None:
            return None
        return members_of(value, f"{self.place}{name}")

    def one_of(self, name: str, choices: Collection[str], default: str | None = None) -> str:
        """One of a few words."""
        value = self.document.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(name, one_of(choices))
        return value

    def refuse(self, name: str, reason: str, *, but: Collection[Any] = ()) -> None:
        """Refuse a member that cannot be honoured, and whose loss would change the answer.

        Args:
            reason: What is the matter with it.
            but: Values that ask for nothing; None is always one.
        """
        value = self.document.get(name)
        if value is None or any(type(value) is type(fine) and value == fine for fine in but):
            return
        raise InvalidInput(f"'{self.place}{name}': {reason}, got {shown(value)}")


def members_of(value: Any, place: str) -> Members:
    """The members of an object that stands at `place`.

    Raises:
        InvalidInput: It is no object.
    """
    if not isinstance(value, dict):
        raise wrong(place, "an object", value)
    return Members(value, f"{place}.")


def wrong(place: str, expected: str, got: Any) -> InvalidInput:
    """The error of something that is not what it should be."""
    return InvalidInput(f"'{place}': expected {expected}, got {shown(got)}")


def one_of(choices: Collection[str]) -> str:
    """A few words as a sentence has them."""
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no boolean."""
    return type(value) in (int, float) and (type(value) is int or isfinite(value))


def shown(value: Any) -> str:
    """What came, short enough for one line."""
    if isinstance(value, str):
        return repr(value[:_SHOWN])
    if isinstance(value, list):
        return "an empty list" if not value else f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > _SHOWN_DIGITS:
        return "a number of many digits"
    return str(value)
