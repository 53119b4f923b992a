"""One call as a model writes it, `{"name": "f", "arguments": {...}}`, read character by character.

The arguments are passed on while they are written, so that a client sees them grow; that needs no
more of JSON than to know where strings, keys and values end.
"""

from __future__ import annotations

import json
from typing import Literal

_ARGUMENTS = ("arguments", "parameters")
_KNOWN = ("name", "type", "id", *_ARGUMENTS)
_SPACE = " \t\r\n"

Place = Literal["object", "key", "colon", "value", "next", "done", "broken"]


class CallScanner:
    """Reads one JSON object.

    Attributes:
        name: Of the function; None before it is known.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._place: Place = "object"
        self._key = ""
        self._token = ""  # the key or the value that is being read, as it is written
        self._depth = 0  # of lists and objects within the value
        self._in_string = False
        self._escaped = False
        self._ready = ""  # of the arguments, not taken yet
        self._any = False  # whether there were arguments

    @property
    def done(self) -> bool:
        """Whether the object has ended."""
        return self._place == "done"

    @property
    def broken(self) -> bool:
        """Whether it is no call: not JSON, or without a name."""
        return self._place == "broken"

    def feed(self, text: str) -> int:
        """Read on; gives how many characters belong to the object."""
        for count, sign in enumerate(text):
            if self._place in ("done", "broken"):
                return count
            self._read(sign)
        return len(text)

    def take(self) -> str:
        """What is new of the arguments, once the name is known."""
        if self.name is None:
            return ""
        taken, self._ready = self._ready, ""
        return taken

    def _read(self, sign: str) -> None:
        if self._place == "value":
            self._read_value(sign)
        elif self._in_string:
            self._read_key(sign)
        elif sign in _SPACE:
            pass
        elif self._place == "object" and sign == "{":
            self._place = "key"
        elif self._place == "key" and sign == '"':
            self._in_string, self._token = True, '"'
        elif self._place == "colon" and sign == ":":
            self._place, self._token = "value", ""
        elif self._place == "next" and sign == ",":
            self._place = "key"
        elif self._place in ("key", "next") and sign == "}":
            self._end()
        else:
            self._place = "broken"

    def _read_key(self, sign: str) -> None:
        self._token += sign
        if self._string_ends(sign):
            self._key = str(_value(self._token))
            no_call = self.name is None and self._key not in _KNOWN
            self._place = "broken" if no_call else "colon"

    def _read_value(self, sign: str) -> None:
        if self._in_string:
            ended = self._string_ends(sign) and self._depth == 0
            self._keep(sign)
            if ended:
                self._value_ends()
        elif self._token == "" and sign in _SPACE:
            pass
        elif self._depth == 0 and self._token and sign in ",}" + _SPACE:
            self._value_ends()  # a number or a word ends with what stands behind it
            self._read(sign)
        elif self._depth == 0 and self._token == "" and sign in ",:}]":
            self._place = "broken"
        else:
            self._in_string = sign == '"'
            self._depth += (sign in "{[") - (sign in "}]")
            self._keep(sign)
            if self._depth == 0 and sign in "}]":
                self._value_ends()

    def _keep(self, sign: str) -> None:
        self._token += sign
        if self._key in _ARGUMENTS and self._token[0] in "{[":
            self._ready += sign

    def _string_ends(self, sign: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif sign == "\\":
            self._escaped = True
        elif sign == '"':
            self._in_string = False
            return True
        return False

    def _value_ends(self) -> None:
        self._place = "next"
        if self._key == "name":
            name = _value(self._token)
            if not isinstance(name, str) or not name:
                self._place = "broken"
            else:
                self.name = name
        elif self._key in _ARGUMENTS:
            self._any = True
            if self._token[0] not in "{[":  # some models write the JSON as a text within it
                found = _value(self._token)
                self._ready += found if isinstance(found, str) and found else "{}"

    def _end(self) -> None:
        self._place = "done" if self.name is not None else "broken"
        if not self._any:
            self._ready += "{}"


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None
