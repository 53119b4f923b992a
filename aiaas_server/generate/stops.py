"""Texts that end an answer, found as it is written, wherever its pieces were cut."""

from __future__ import annotations

from collections.abc import Sequence

from aiaas_server.core.errors import InvalidInput


class StopText:
    """How far one text has been read, by Knuth, Morris and Pratt: linear, whatever is sought."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._shorter = _borders(text)
        self.read = 0

    def step(self, character: str) -> bool:
        """Read on; whether the text is now complete. Not to be called afterwards."""
        while self.read and self.text[self.read] != character:
            self.read = self._shorter[self.read - 1]
        if self.text[self.read] == character:
            self.read += 1
        return self.read == len(self.text)


class Stops:
    """Ends a text before the first stop text in it.

    The one that is complete first counts; of several complete at the same character the longest.

    Attributes:
        stopped: Whether one was found; nothing is given any more.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """
        Raises:
            InvalidInput: One of them is empty.
        """
        if not all(texts):
            raise InvalidInput("'stop': expected texts of at least one character, got an empty one")
        self._texts = [StopText(text) for text in dict.fromkeys(texts)]
        self._first = frozenset(text[0] for text in texts)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Read more; gives what no stop text can swallow any more."""
        if self.stopped:
            return ""
        if not self._held and self._first.isdisjoint(text):
            return text
        whole = self._held + text
        for end in range(len(self._held), len(whole)):
            found = [stop for stop in self._texts if stop.step(whole[end])]
            if found:
                self.stopped = True
                self._held = ""
                return whole[: end + 1 - max(len(stop.text) for stop in found)]
        held = max(stop.read for stop in self._texts)
        self._held = whole[len(whole) - held :]
        return whole[: len(whole) - held]

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held


def _borders(text: str) -> list[int]:
    """For each prefix the length of the longest shorter prefix that it also ends with."""
    borders = [0] * len(text)
    length = 0
    for place in range(1, len(text)):
        while length and text[length] != text[place]:
            length = borders[length - 1]
        if text[length] == text[place]:
            length += 1
        borders[place] = length
    return borders
