"""Finds one file of a version."""

from __future__ import annotations

from sqlalchemy import Connection

from aiaas_client.protocol.management import BundleFile
from aiaas_server.core.errors import Conflict, NotFound
from aiaas_server.registry.models import get_model
from aiaas_server.registry.traffic import resolve


def find_file(
    connection: Connection, tenant: str, model: str, version: int | str, name: str
) -> BundleFile:
    """A file of a version, which is a number, an alias or `latest`.

    Raises:
        NotFound: There is none, or the version was erased.
        Conflict: The version is corrupt.
    """
    found = resolve(connection, get_model(connection, tenant, model), version)
    number = found.number
    if found.state == "erased":
        raise NotFound(f"model '{model}' has no version {number}: it was erased")
    if found.state == "corrupt":
        raise Conflict(f"version {number} of '{model}' is corrupt: {found.reason}")
    for file in found.files:
        if file.name == name:
            return file
    raise NotFound(f"version {number} of '{model}' has no file {name[:64]!r}")
