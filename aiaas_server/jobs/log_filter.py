"""What a job prints, line by line, without what looks like a secret.

A recipe may print what it likes, and its libraries do. Whoever may read jobs reads the log; so what
has the form of a key, of a password or of a token is left out before anybody keeps it. What has no
such form cannot be known for a secret: nothing of the server's own is within reach of a job.
"""

from __future__ import annotations

import re
from typing import Final

LEFT_OUT: Final = "[left out]"
LONGEST: Final = 2000
"""Characters of a line; the rest of it is cut."""

_NAME: Final = (
    r"[A-Za-z0-9_.-]{0,64}(?:password|passwd|passphrase|pwd|secret|api[_-]?key|access[_-]?key"
    r"|private[_-]?key|auth[_-]?token|access[_-]?token|refresh[_-]?token|credentials?|token)"
)
_SECRETS: Final = (
    # Authorization headers, and whatever comes behind such words
    (re.compile(r"\b(bearer|basic|token)(\s+)[A-Za-z0-9._~+/=-]{8,}", re.I), rf"\1\2{LEFT_OUT}"),
    # user:password@ of a URL
    (re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]*):[^\s@]+@", re.I), rf"\1:{LEFT_OUT}@"),
    # name=value, name: value, "name": "value"
    (
        re.compile(
            rf"({_NAME})(['\"]?\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|(?!\[left out\])[^\s,;&}}\])'\"]+)",
            re.I,
        ),
        rf"\1\2{LEFT_OUT}",
    ),
    # keys that tell by their beginning what they are
    (
        re.compile(
            r"\b(?:sk|pk|rk|ak|aiaas)[-_][A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
            r"|\bgithub_pat_[A-Za-z0-9_]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bhf_[A-Za-z0-9]{20,}"
            r"|\bglpat-[A-Za-z0-9_-]{16,}|\bAIza[A-Za-z0-9_-]{30,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
            r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
        ),
        LEFT_OUT,
    ),
)
_begins = re.compile(r"-----BEGIN [A-Z0-9 ]*(?:PRIVATE KEY|CERTIFICATE|MESSAGE)[A-Z ]*-----").search
_ends = re.compile(r"-----END [A-Z0-9 ]+-----").search
_control = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class LogFilter:
    """The lines of one log, in order: a block of PEM goes over several of them."""

    def __init__(self) -> None:
        self._inside = False

    def line(self, text: str) -> str | None:
        """What is kept of a line; None where nothing is."""
        if self._inside:
            self._inside = _ends(text) is None
            return None
        begun = _begins(text)
        if begun:
            self._inside = _ends(text, begun.end()) is None
            return text[: begun.start()][:LONGEST] + LEFT_OUT
        return without_secrets(text)


def without_secrets(text: str) -> str:
    """A line without what looks like a secret, and without what moves a cursor."""
    # A bar of progress paints over itself: its last state counts. Cut before the patterns look.
    text = _control.sub("", text.rstrip("\r\n").rpartition("\r")[2])
    cut = text[:LONGEST]
    for pattern, replacement in _SECRETS:
        cut = pattern.sub(replacement, cut)
    return cut + ("…" if len(text) > LONGEST else "")
