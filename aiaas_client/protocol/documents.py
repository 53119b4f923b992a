"""What the documents of the wire share: answers are read tolerantly, requests are not."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

_LONGEST_CELL = 200  # characters


class Told(BaseModel):
    """What a server tells."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())
    shown: ClassVar[tuple[str, ...]] = ()
    """The members that `repr` tells; all of them where it is empty. What says nothing is left out
    of it."""

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        empty: tuple[Any, ...] = (None, "", 0, [], {})  # False is a 0
        for name, value in super().__repr_args__():
            if (not self.shown or name in self.shown) and value not in empty:
                yield name, value

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        cells = (
            f"<tr><th>{escape(str(name))}</th><td>{escape(str(value)[:_LONGEST_CELL])}</td></tr>"
            for name, value in self.__repr_args__()
        )
        return f"<table><caption>{type(self).__name__}</caption>{''.join(cells)}</table>"


class Asked(BaseModel):
    """What a caller asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
