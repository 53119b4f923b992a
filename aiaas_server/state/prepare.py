"""`prepare(settings)`: the directory and the database of `--data`, ready before anything is served.

It imports the database only when all packages for it are there, and names the extra if not.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiaas_server.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import URL

_INSTALL: Final = "run: pip install 'aiaas-client[server,{}]'"
_PACKAGES = ("sqlalchemy", "alembic", "obstore", "cryptography")


class DataRefused(Exception):
    """`--data` cannot be used; the message tells the operator what to do about it."""


def prepare(settings: Settings, *, local: bool = False) -> Settings:
    """Make the directory, and bring the database to the schema of this server.

    Args:
        settings: With `data`.
        local: Whether whoever calls runs this server, and needs no key.
    Returns:
        Settings to serve with: where no directory of models was asked for and the default one is
        not there, an empty one in `data` stands in.
    Raises:
        DataRefused: A package is missing, the directory cannot be used, or the database cannot.
    """
    assert settings.data is not None, "nothing to prepare"
    _check_packages(settings)
    _make_directory(settings.data)
    from aiaas_server.state.migrate import upgrade
    from aiaas_server.state.revision import StateRefused

    url = database_url(settings)
    try:
        upgrade(url)
    except StateRefused as error:
        kind = url.get_backend_name()
        where = type(url).create(kind, host=url.host, port=url.port, database=url.database)
        raise DataRefused(f"the database {where}: {error}") from error
    if not settings.tenants and not local:
        _check_keyless(settings, url)
    _check_vault(settings, url)
    stand_in = settings.data / "models"
    asked_for = "models" in settings.model_fields_set and settings.models != stand_in
    if asked_for or settings.models.exists():
        return settings
    _make_directory(stand_in)
    return settings.model_copy(update={"models": stand_in})


def _check_keyless(settings: Settings, url: URL) -> None:
    """Refuse to open to everyone what was kept behind keys."""
    from sqlalchemy import select

    from aiaas_server.core.errors import ServerError
    from aiaas_server.state.database import Database
    from aiaas_server.state.tenant_tables import KEYS

    database = Database(url)
    try:
        key = database.read_now(lambda c: c.execute(select(KEYS.c.id).limit(1)).scalar())
    except ServerError as error:
        raise DataRefused(f"the database of --data {settings.data}: {error.message}") from error
    finally:
        database.close()
    if key is not None:
        raise DataRefused(
            f"--data {settings.data}: its database has keys of tenants, and without --tenants "
            "whoever reaches this server would be the operator; start it with --tenants"
        )


def scratch_of(settings: Settings) -> Path | None:
    """Where temporary files belong: in memory with a master key, where the system has them else."""
    if settings.data is None or not (settings.master_key or settings.master_key_file):
        return None
    from aiaas_server.state.artefacts.memory import SCRATCH, place_of

    place = place_of(settings.data, settings.memory_dir) / SCRATCH
    place.mkdir(mode=0o700, exist_ok=True)
    return place


def _check_vault(settings: Settings, url: URL) -> None:
    from aiaas_server.state.artefacts.master_keys import MasterKeyRefused
    from aiaas_server.state.artefacts.memory import MemoryRefused
    from aiaas_server.state.artefacts.vault import check_vault

    try:
        check_vault(settings, url)
    except (MasterKeyRefused, MemoryRefused) as error:
        raise DataRefused(str(error)) from None


def database_url(settings: Settings) -> URL:
    """Where the state is kept."""
    from sqlalchemy.engine import URL, make_url

    assert settings.data is not None, "there is no state without it"
    if settings.database_url is None:
        return URL.create("sqlite", database=str(settings.data.absolute() / "state.db"))
    return make_url(settings.database_url.get_secret_value()).set(drivername="postgresql+psycopg")


def _check_packages(settings: Settings) -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise DataRefused(f"--data needs {missing[0]}; {_INSTALL.format('platform')}")
    if settings.database_url is not None and find_spec("psycopg") is None:
        raise DataRefused(f"database_url needs psycopg; {_INSTALL.format('postgres')}")


def _make_directory(path: Path) -> None:
    """For this user alone; one that is there stays as its owner made it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise DataRefused(f"--data {path}: expected a directory, got a file") from None
    except OSError as error:
        raise DataRefused(f"--data {path}: it cannot be made: {error.strerror}") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise DataRefused(f"--data {path}: this user may not write there")
