"""What a request is about: its target and its Host, refused where two could read them apart."""

from __future__ import annotations

import re
import urllib.parse
from ipaddress import IPv6Address
from typing import NamedTuple

from aiaas_server.http.edge.limits import malformed

MAX_HOST = 255
"""Characters of a Host without its port, as in the domain name system."""


class Target(NamedTuple):
    """A request target taken apart."""

    path: str
    raw_path: bytes
    query: bytes


_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
_hidden = re.compile(rb"%(?:00|2[fF]|5[cC])").search
_host = re.compile(
    rb"(?P<name>\[(?P<ipv6>[0-9A-Fa-f:.]+)(?:%(?:25)?[A-Za-z0-9._~-]+)?\]"  # with a zone or not
    rb"|(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+)"  # also the escaped path of a Unix socket
    rb"(?::(?P<port>[0-9]{0,5}))?"
).fullmatch


def read_target(url: bytes) -> Target:
    """Check a request target and take it apart.

    Raises:
        Refused: It does not start with a slash, or could be read as another path.
    """
    raw, _, query = url.partition(b"?")
    if not raw.startswith(b"/"):
        raise malformed("request target: expected a path that starts with '/'")
    if b"#" in url:
        raise malformed("request target: a fragment is never sent to a server")
    if b"\\" in raw or _hidden(raw):
        raise malformed("request target: backslash, %00, %2F and %5C are not allowed in a path")
    if _escape(raw):
        raise malformed("request target: '%' without two hexadecimal digits")
    path = urllib.parse.unquote_to_bytes(raw)
    if any(segment in (b".", b"..") for segment in path.split(b"/")):
        raise malformed("request target: '.' and '..' are not allowed as path segments")
    return Target(path.decode("utf-8", "replace"), raw, query)


def check_host(value: bytes) -> None:
    """Check a Host header: a name or an address, and a port or none.

    The rest of what a URL's authority may hold, such as a user's name, a list or a space, is read
    by some as a part of the name and by others as its end.

    Raises:
        Refused: It is empty, too long, or something else.
    """
    found = _host(value.strip(b" \t")) if len(value) <= 2 * MAX_HOST else None
    if found is None or len(found["name"]) > MAX_HOST or not _is_ipv6(found["ipv6"] or b"::"):
        raise malformed(
            f"Host: expected a name or an address of at most {MAX_HOST} characters, "
            "and a port or none"
        )
    if found["port"] and int(found["port"]) > 65535:
        raise malformed("Host: expected a port of at most 65535")


def _is_ipv6(text: bytes) -> bool:
    try:
        IPv6Address(text.decode("ascii"))
    except ValueError:
        return False
    return True
