"""`escape`: text of somebody else in a table, which neither marks it up nor steers a terminal."""

from __future__ import annotations

from rich.markup import escape as _without_markup


def escape(text: str) -> str:
    """The text with all that is not printed written as Python writes it, `\\x1b`; for rich."""
    if not text.isprintable():
        text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    return _without_markup(text)
