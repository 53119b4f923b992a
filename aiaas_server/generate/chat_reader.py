"""What an answer says and what it calls, told apart while it is written."""

from __future__ import annotations

from typing import Literal, NamedTuple

from aiaas_server.core.generation import Delta, TextDelta, ToolDelta
from aiaas_server.generate.call_scanner import CallScanner

_SPACE = " \t\r\n"
_BETWEEN = _SPACE + ",;["  # what may stand before a call, among calls


class Marks(NamedTuple):
    """How a model's calls stand out from its text.

    Attributes:
        opening: Stands before a call, or a list of them; "" where an answer that begins with JSON
            is one.
        closing: Stands behind it; "" where nothing does.
    """

    opening: str
    closing: str = ""


class PlainReader:
    """All of it is text."""

    def feed(self, text: str) -> list[Delta]:
        return [TextDelta(text)] if text else []

    def finish(self) -> list[Delta]:
        return []


class CallReader:
    """Finds calls. What looks like one and is none is text after all, and nothing is lost."""

    def __init__(
        self, marks: Marks, names: frozenset[str], *, bare: bool, most: int, opened: bool
    ) -> None:
        """`ChatReader` of one answer.

        Args:
            names: Functions that there are.
            bare: Whether calls may begin an answer without an opening; they count only where they
                name one of the functions.
            most: Calls that are told; what follows the last is left out.
            opened: Whether the prompt ended with the opening.
        """
        self._marks = marks
        self._names = names
        self._bare = bare
        self._most = most
        self._place: Literal["begin", "text", "calls", "call", "rest"] = (
            "calls" if opened else "begin" if bare else "text"
        )
        self._marked = opened
        self._held = ""
        self._unsure = ""  # read among calls, before the first of them was certain
        self._scanner = CallScanner()
        self._announced = False
        self._calls = 0

    def feed(self, text: str) -> list[Delta]:
        """The next piece of the answer."""
        self._held += text
        found: list[Delta] = []
        while self._held and self._step(found):
            pass
        return found

    def finish(self) -> list[Delta]:
        """What was held back, now that nothing follows."""
        unsure = "" if self._announced else self._unsure
        left = unsure + (self._held if self._place != "rest" else "")
        self._held = self._unsure = ""
        rest = left.strip(_BETWEEN + "]")
        cut = self._place == "calls" and self._marks.closing.startswith(rest)
        if self._calls and (cut or not rest):
            return []
        return [TextDelta(left)] if left else []

    def _step(self, found: list[Delta]) -> bool:
        """Read one part of what is held; False where it takes more to know what it is."""
        if self._place == "begin":
            return self._begin()
        if self._place == "text":
            return self._read_text(found)
        if self._place == "calls":
            return self._read_between(found)
        if self._place == "call":
            return self._read_call(found)
        self._held = ""
        return False

    def _begin(self) -> bool:
        start, opening = self._held.lstrip(_SPACE), self._marks.opening
        if not start or (opening.startswith(start) and start != opening):
            return False
        marked = bool(opening) and start.startswith(opening)
        self._place = "calls" if start[0] in "{[" and not marked else "text"
        return True

    def _read_text(self, found: list[Delta]) -> bool:
        opening = self._marks.opening
        at = self._held.find(opening) if opening else -1
        if at >= 0:
            said = self._held[:at].rstrip(_SPACE)
            _say(found, said)
            self._unsure, self._announced = self._held[len(said) : at + len(opening)], False
            self._held = self._held[at + len(opening) :]
            self._place, self._marked = "calls", True
            return True
        kept = _may_open(self._held, opening)
        _say(found, self._held[:kept])
        self._held = self._held[kept:]
        return False

    def _read_between(self, found: list[Delta]) -> bool:
        rest = self._held.lstrip(_BETWEEN)
        self._pass(len(self._held) - len(rest))
        if not rest:
            return False
        if rest[0] == "{":
            self._scanner, self._announced = CallScanner(), False
            self._place = "call"
            return True
        for mark in filter(None, (self._marks.closing, self._marks.opening, "]")):
            if rest.startswith(mark):
                self._pass(len(mark))
                if mark == self._marks.closing or (mark == "]" and not self._marks.closing):
                    self._leave(found)
                return True
            if mark.startswith(rest):
                return False
        self._leave(found)
        return True

    def _read_call(self, found: list[Delta]) -> bool:
        scanner = self._scanner
        read = scanner.feed(self._held)
        if not self._announced:
            self._unsure += self._held[:read]
        self._held = self._held[read:]
        if not self._announced and scanner.name is not None:
            if not self._marked and scanner.name not in self._names:
                self._leave(found)
                return True
            self._announced, self._unsure = True, ""
            found.append(ToolDelta(self._calls, name=scanner.name))
        if self._announced and (arguments := scanner.take()):
            found.append(ToolDelta(self._calls, arguments=arguments))
        if scanner.done:
            self._calls += 1
            self._place = "calls" if self._calls < self._most else "rest"
            self._unsure = ""
        elif scanner.broken:
            self._leave(found)
        return True

    def _pass(self, count: int) -> None:
        """Go over characters that are neither text nor call."""
        self._unsure += self._held[:count]
        self._held = self._held[count:]

    def _leave(self, found: list[Delta]) -> None:
        """From here on it is text again, and so is what was taken for a call and is none."""
        if self._unsure.strip(_BETWEEN + "]") not in ("", self._marks.closing) or not self._calls:
            _say(found, self._unsure)
        self._unsure = ""
        self._place, self._marked = "text", False


def _say(found: list[Delta], text: str) -> None:
    if text:
        found.append(TextDelta(text))


def _may_open(text: str, opening: str) -> int:
    """Where what may become white space and an opening begins, at the end of a text."""
    for length in range(min(len(opening) - 1, len(text)), 0, -1):
        if text.endswith(opening[:length]):
            text = text[:-length]
            break
    return len(text.rstrip(_SPACE))
