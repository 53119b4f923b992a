"""Drafts as far as their files go, whatever is to become of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from sqlalchemy import Connection, select, union_all

from aiaas_client.protocol.management import BundleFile
from aiaas_server.core.errors import InvalidInput
from aiaas_server.state.tables import DATASET_DRAFTS, DRAFTS

AdmitFiles = Callable[[Connection, str, Mapping[str, int]], None]
"""Is asked, in the transaction that adds them, whether a tenant may have files more: their bytes by
digest. Raises `QuotaExceeded` where it may not."""
KEPT_SECONDS: Final = 24 * 3600.0
"""How old a draft may become."""


class Brought(Protocol):
    """A draft, as far as its files go."""

    @property
    def id(self) -> str:
        """Of the draft; no other draft of any kind has it."""
        ...

    @property
    def tenant(self) -> str:
        """Whose it is."""
        ...

    @property
    def user(self) -> str:
        """Under which its artefacts are kept."""
        ...

    @property
    def files(self) -> Sequence[BundleFile]:
        """As announced."""
        ...


def draft_ids(connection: Connection) -> set[str]:
    """Of all drafts, of models and of data sets: their parts are needed."""
    asked = union_all(select(DRAFTS.c.id), select(DATASET_DRAFTS.c.id))
    return set(connection.execute(asked).scalars())


def check_files(files: Sequence[BundleFile]) -> None:
    """Refuse a list of files that says two things of one.

    Raises:
        InvalidInput: Two files of one name, one digest of two sizes.
    """
    names: set[str] = set()
    sizes: dict[str, int] = {}
    for file in files:
        if file.name in names:
            raise InvalidInput(f"files: {file.name!r} is there twice")
        names.add(file.name)
        if sizes.setdefault(file.sha256, file.size) != file.size:
            raise InvalidInput(f"{file.name}: another file has its digest and not its size")
