"""Tokens into text as they come: whole characters only, and nothing that a stop text swallows."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from aiaas_server.generate.stops import Stops
from aiaas_server.generate.vocabulary import Vocabulary


class TextOutput:
    """The text of one answer. It follows a prompt, so a space that it begins with is kept.

    Attributes:
        stopped: Whether a stop text was found; nothing is given any more.
        used: How many of the last pushed tokens belong to the answer: all, or up to the one that
            completed the stop text.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str] = ()) -> None:
        """
        Raises:
            InvalidInput: A stop text is empty.
        """
        self._vocabulary = vocabulary
        # Bytes that are no UTF-8 become U+FFFD; those of a character that has begun wait for it.
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = Stops(stop) if stop else None
        self.used = 0

    @property
    def stopped(self) -> bool:
        return self._stops is not None and self._stops.stopped

    def push(self, tokens: Sequence[int]) -> str:
        """Read tokens; gives the text that is sure by now, often none."""
        self.used = 0
        given: list[str] = []
        for token in tokens:
            if self.stopped:
                break
            self.used += 1
            given.append(self._read(self._vocabulary.shown_bytes(token)))
        return "".join(given)

    def finish(self) -> str:
        """What was held back, now that nothing follows; half a character becomes U+FFFD."""
        if self.stopped:
            return ""
        last = self._read(b"", final=True)
        return last if self._stops is None else last + self._stops.finish()

    def _read(self, content: bytes, *, final: bool = False) -> str:
        text = self._characters.decode(content, final)
        return text if self._stops is None else self._stops.feed(text)
