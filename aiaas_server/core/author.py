"""Who does something."""

from __future__ import annotations

from typing import NamedTuple


class Author(NamedTuple):
    """Who does something, for rows and the history."""

    tenant: str = "default"
    by: str = "operator"
    request_id: str = ""


SERVER = Author(by="server")
"""The server itself: guards, retention, sweeping."""
