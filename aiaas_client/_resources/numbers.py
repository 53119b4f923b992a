"""Versions as callers name them, and the numbers that changes are told by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiaas_client._api import management as calls
from aiaas_client._api.call import version_text
from aiaas_client._errors import InputError

if TYPE_CHECKING:
    from aiaas_client._send.work import Work
    from aiaas_client.protocol.management import Version


def number_of(name: str, version: str | int) -> Work[int]:
    """The number of a version; the one that an alias stands for now is asked of the server.

    Raises:
        InputError: it is neither text nor a number.
    """
    text = version_text(version)
    if text is None:
        raise InputError("version: expected a number or an alias, got None", model=name)
    if text.isascii() and text.isdigit():
        return int(text)
    told: Version = yield calls.version(name, text)
    return told.version
