"""Heads of hot requests that came before, so that the parser need not read them again.

A client writes the same head each time. What was checked of one holds for each that is the same
byte for byte, but for the values of a few headers: these are cut out and checked by themselves.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from aiaas_server.http.edge.target import Target
from aiaas_server.http.hot import HotEndpoint
from aiaas_server.http.incoming import Headers

LONGEST = 1024  # bytes of a head that is remembered
CAPACITY = 1024
PATIENCE = 64  # heads that may be learned in vain before only each 64th is
END = b"\r\n\r\n"

# The values allowed are fewer than HTTP allows: what has others is left to the parser.
_OWN = (
    (b"\r\nX-Request-Id: ", b"x-request-id", re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch),
    (b"\r\nX-Request-Timeout-Ms: ", b"x-request-timeout-ms", re.compile(rb"[0-9]{1,18}").fullmatch),
    (b"\r\nX-Sticky-Key: ", b"x-sticky-key", re.compile(rb"[!-~]{1,128}").fullmatch),
    (b"\r\ntraceparent: ", b"traceparent", re.compile(rb"[0-9a-f-]{1,64}").fullmatch),
)
_OWN_NAMES = frozenset(name for _, name, _ in _OWN)


class LaneHead(NamedTuple):
    """The head of a hot request, checked.

    Attributes:
        method: "GET" or "POST".
        headers: Must not be changed: requests that have the same head share it.
        length: Bytes of the body.
        endpoint: Who answers.
    """

    method: str
    target: Target
    headers: Headers
    length: int
    endpoint: HotEndpoint


class Heads:
    """The memory of one process; at most 1,024 heads of at most 1 KiB of each kind."""

    def __init__(self) -> None:
        self._whole: dict[bytes, LaneHead] = {}
        self._cut: dict[bytes, LaneHead] = {}
        self._sticky: dict[bytes, LaneHead] = {}  # whole ones: a caller's key comes again
        self._in_vain = 0  # heads learned since one was recalled

    def recall(self, text: bytes) -> LaneHead | None:
        """What a head says; None unless it is like one before."""
        head = self._whole.get(text) or self._sticky.get(text)
        if head is not None:
            self._in_vain = 0
            return head
        rest, own = _cut(text) if self._cut else (text, {})
        head = self._cut.get(rest)
        if head is None or not own:
            return None
        self._in_vain = 0
        found = LaneHead(*head[:2], {**head.headers, **own}, *head[3:])
        if [*own] == [b"x-sticky-key"] and len(text) <= LONGEST:
            _keep(self._sticky, text, found)
        return found

    def learn(self, text: bytes, head: LaneHead) -> None:
        """Remember `text`, the whole head of a request, and what the parser and the checks said.

        Where every head is another, as behind a proxy that numbers them, only a few are learned.
        """
        self._in_vain += 1
        if len(text) > LONGEST or (self._in_vain > PATIENCE and self._in_vain % PATIENCE):
            return
        # Every line ends as it should: so the first empty one ends the head for any reader.
        if not text.count(b"\n") == text.count(b"\r\n") == len(head.headers) + 2:
            return
        if _OWN_NAMES.isdisjoint(head.headers):
            _keep(self._whole, text, head)
            return
        rest, own = _cut(text)
        common = {name: value for name, value in head.headers.items() if name not in own}
        if _OWN_NAMES.isdisjoint(common):  # else it is written in another way, and never the same
            _keep(self._cut, rest, head._replace(headers=common))


def _keep(heads: dict[bytes, LaneHead], text: bytes, head: LaneHead) -> None:
    if len(heads) >= CAPACITY:
        heads.clear()
    heads[text] = head


def _cut(text: bytes) -> tuple[bytes, Headers]:
    """A head without the values that are each request's own, and these values.

    None of them where one is not plain: such a head is neither learned nor recalled.
    """
    own: Headers = {}
    for mark, name, is_plain in _OWN:
        at = text.find(mark)
        if at >= 0:
            start = at + len(mark)
            stop = text.find(b"\r", start)
            value = text[start:stop]
            if not is_plain(value):
                return text, {}  # else an empty one would look like one that was cut out
            own[name] = value
            text = text[:start] + text[stop:]
    return text, own
