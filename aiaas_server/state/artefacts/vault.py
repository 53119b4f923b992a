"""`Vault`: encryption at rest, for one process: the keys, and where plain bytes may lie."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from typing import Final

from sqlalchemy import URL

from aiaas_server.settings import Settings
from aiaas_server.state.artefacts.data_keys import DataKeys, check_openable, in_plain
from aiaas_server.state.artefacts.master_keys import MasterKeys
from aiaas_server.state.artefacts.memory import Memory, make_place, place_of
from aiaas_server.state.database import Database

_log = logging.getLogger("aiaas_server")

_IN_PLAIN: Final = ("cache", "jobs", "reading")
"""Directories of `data` that hold plain bytes on a server without a master key."""
_MANY: Final = 1000


class Vault:
    """What a server with a master key has besides.

    Args:
        settings: With `data` and a master key.
        masters: The key.
        database: Where the keys of artefacts are.

    Attributes:
        keys: They.
        work: A directory in memory, for what is used.
    """

    def __init__(self, settings: Settings, masters: MasterKeys, database: Database) -> None:
        assert settings.data is not None, "nothing is kept without it"
        self.keys = DataKeys(database, masters)
        self._database = database
        self._data = settings.data
        self._memory = Memory(place_of(settings.data, settings.memory_dir))
        self.work = self._memory.root

    def start(self) -> None:
        """Remove plain bytes that were left on the disk before there was a key, and tell of
        artefacts that are still plain. Blocks."""
        for name in _IN_PLAIN:
            shutil.rmtree(self._data / name, ignore_errors=True)
        found = len(self._database.read_now(lambda c: in_plain(c, _MANY)))
        if found:
            many = f"{found} artefacts or more" if found == _MANY else f"{found} artefacts"
            _log.warning(
                "%s were kept before there was a master key and are not encrypted; "
                "run: aiaas encrypt --data %s",
                many,
                self._data,
            )

    def close(self) -> None:
        """Leave nothing in memory, if no other process of this server is left."""
        with suppress(OSError):
            self._memory.close()


def master_keys(settings: Settings) -> MasterKeys | None:
    """The master keys that the settings name; None where they name none.

    Raises:
        MasterKeyRefused: They cannot be used.
    """
    given = settings.master_key
    return MasterKeys.of(
        settings.master_key_file, None if given is None else given.get_secret_value()
    )


def open_vault(settings: Settings, database: Database) -> Vault | None:
    """What encrypts, on a server that has a master key.

    Raises:
        MasterKeyRefused, MemoryRefused: It cannot.
    """
    masters = master_keys(settings)
    return None if masters is None else Vault(settings, masters, database)


def check_vault(settings: Settings, url: URL) -> None:
    """See, before anything is served, that all that is encrypted can be opened.

    Raises:
        MasterKeyRefused: A master key is missing, wrong or unreadable.
        MemoryRefused: There is no directory in memory.
    """
    assert settings.data is not None, "nothing is kept without it"
    masters = master_keys(settings)
    database = Database(url)
    try:
        database.read_now(lambda c: check_openable(c, masters))
    finally:
        database.close()
    if masters is not None:
        make_place(place_of(settings.data, settings.memory_dir))
