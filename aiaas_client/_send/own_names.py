"""Errors about arguments name the class that users know, not the base that both flavours share."""

from __future__ import annotations

from types import FunctionType
from typing import Any, TypeVar

Public = TypeVar("Public", bound=type)


def with_own_names(cls: Public) -> Public:
    """Give a class copies of the methods it inherits, under its own name.

    Python says `Configured.__init__() got an unexpected keyword argument` of a method that a
    private base defines, whichever class it was called on.
    """
    for name in dir(cls):
        found = _inherited(cls, name)
        if isinstance(found, FunctionType) and (name == "__init__" or not name.startswith("_")):
            setattr(cls, name, _renamed(found, f"{cls.__qualname__}.{name}"))
    return cls


def _inherited(cls: type, name: str) -> Any:
    owner = next(base for base in cls.__mro__ if name in vars(base))
    return None if owner is cls else vars(owner)[name]


def _renamed(function: FunctionType, qualified: str) -> FunctionType:
    own = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    own.__kwdefaults__ = function.__kwdefaults__
    own.__annotations__ = function.__annotations__
    own.__doc__, own.__module__ = function.__doc__, function.__module__
    own.__dict__.update(function.__dict__)
    own.__qualname__ = qualified
    return own
