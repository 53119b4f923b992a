"""Commands of whoever keeps the master key: `aiaas master-key new|show|rotate`, `aiaas encrypt`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from aiaas_server.settings import PREFIX, Settings

if TYPE_CHECKING:
    from aiaas_server.state.artefacts.data_keys import DataKeys
    from aiaas_server.state.artefacts.master_keys import MasterKeys
    from aiaas_server.state.database import Database

_PANEL: Final = "Encryption"

Data = Annotated[
    Path | None, typer.Option("--data", help=f"Directory of the server. ({PREFIX}DATA)")
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--master-key-file", help=f"File of the keys. ({PREFIX}MASTER_KEY_FILE)"),
]


class _Opened(NamedTuple):
    settings: Settings
    database: Database
    masters: MasterKeys
    keys: DataKeys


MakeSettings = Callable[[dict[str, Any]], Settings]
"""Settings from options and the environment; a wrong one ends the program in one line."""


def register(app: typer.Typer, make_settings: MakeSettings) -> None:
    """Add the commands to a typer application."""
    commands = _Commands(make_settings)
    group = typer.Typer(help="The key that encrypts what a server keeps.", no_args_is_help=True)
    group.command("new")(new)
    group.command("show")(commands.show)
    group.command("rotate")(commands.rotate)
    app.add_typer(group, name="master-key", rich_help_panel=_PANEL)
    app.command("encrypt", rich_help_panel=_PANEL)(commands.encrypt)


def new(
    file: Annotated[Path, typer.Argument(help="Where to write it; not below --data.")],
    add: Annotated[
        bool, typer.Option("--add", help="In front of the keys that the file has: the next one.")
    ] = False,
) -> None:
    """Draw a master key. Without it, what was encrypted by it is lost: keep a copy elsewhere."""
    from aiaas_server.state.artefacts.master_keys import MasterKeyRefused, name_of, read_keys

    drawn = secrets.token_bytes(32)
    try:
        before = [key.secret for key in read_keys(file)] if add else []
        if not add and file.exists():
            raise _ended(f"{file} exists; --add puts the next key in front of those that it has")
        _write(file, [drawn, *before])
    except FileNotFoundError:
        raise _ended(f"{file}: no such file, or no directory for it") from None
    except (MasterKeyRefused, OSError) as error:
        raise _ended(str(error)) from None
    typer.echo(f"{file}: master key {name_of(drawn)}")
    if add:
        typer.echo("run: aiaas master-key rotate --data DIR")


class _Commands:
    """Those that open a data directory."""

    def __init__(self, make_settings: MakeSettings) -> None:
        self._make_settings = make_settings

    def show(self, data: Data = None, master_key_file: KeyFile = None) -> None:
        """Which master keys there are, and how many artefacts each of them opens."""
        from aiaas_server.state.artefacts.data_keys import in_plain, wrapped_by

        with self._opened(data, master_key_file) as opened:
            counts = opened.database.read_now(wrapped_by)
            plain = len(opened.database.read_now(lambda c: in_plain(c, 2**31 - 1)))
            current = opened.masters.current.id
            for name in dict.fromkeys((current, *opened.masters.names().split(", "), *counts)):
                here = "" if opened.masters.has(name) else ", which is not here"
                now = " (current)" if name == current else ""
                typer.echo(f"{name}{now}: opens {counts.get(name, 0)} artefacts{here}")
            if plain:
                typer.echo(f"{plain} artefacts are not encrypted; run: aiaas encrypt --data DIR")

    def rotate(self, data: Data = None, master_key_file: KeyFile = None) -> None:
        """Have the first key of the file open everything. Servers go on meanwhile.

        The keys of artefacts are wrapped anew; artefacts are not touched. A rotation that was ended
        goes on where it was when it is run again.
        """
        from aiaas_server.state.artefacts.data_keys import wrapped_by
        from aiaas_server.state.artefacts.master_keys import MasterKeyRefused

        with self._opened(data, master_key_file) as opened:
            try:
                done = opened.keys.rewrap()
            except MasterKeyRefused as error:
                raise _ended(str(error)) from None
            _note(opened, "master-key.rotate", done.master)
            left = opened.database.read_now(wrapped_by)
            count = left.pop(done.master, 0)
            typer.echo(f"{done.rewrapped} keys of artefacts wrapped anew, {count} by {done.master}")
            old = [name for name in opened.masters.names().split(", ") if name != done.master]
            for name in old:
                typer.echo(
                    f"{name} is still needed by {left[name]} artefacts: run it again"
                    if name in left
                    else f"master key {name} is no longer needed here: take it out of the file"
                )

    def encrypt(self, data: Data = None, master_key_file: KeyFile = None) -> None:
        """Encrypt what was kept before the server had a master key. Servers go on meanwhile.

        Start them with the key first: one that runs without it can read nothing more. What was
        plain is overwritten by nothing: on a disk that was never encrypted, its old blocks may be
        found by who has the disk.
        """
        from aiaas_server.state.artefacts.artefacts import open_artefacts
        from aiaas_server.state.artefacts.encrypting import encrypt_all
        from aiaas_server.state.artefacts.parts import Parts

        with self._opened(data, master_key_file) as opened:
            settings = opened.settings
            assert settings.data is not None, "it was asked for"
            artefacts = open_artefacts(settings.artefacts_url, settings.data, opened.keys)
            parts = Parts(settings.data / "drafts", opened.keys)
            done = encrypt_all(opened.database, artefacts, parts, settings.data, _tell)
            _note(opened, "master-key.encrypt", f"{done.sealed} artefacts")
            typer.echo(f"{done.sealed} artefacts encrypted")
            if done.failed:
                raise typer.Exit(1)

    @contextmanager
    def _opened(self, data: Path | None, file: Path | None) -> Iterator[_Opened]:
        from aiaas_server.core.errors import ServerError
        from aiaas_server.state.artefacts.data_keys import DataKeys
        from aiaas_server.state.artefacts.master_keys import MasterKeyRefused
        from aiaas_server.state.artefacts.vault import master_keys
        from aiaas_server.state.database import Database
        from aiaas_server.state.migrate import upgrade
        from aiaas_server.state.prepare import database_url
        from aiaas_server.state.revision import StateRefused

        settings = self._make_settings({"data": data, "master_key_file": file})
        if settings.data is None:
            raise _ended("expected --data: the directory of the server")
        if settings.database_url is None and not (settings.data / "state.db").exists():
            raise _ended(f"--data {settings.data}: there is no state.db: no server has used it")
        try:
            masters = master_keys(settings)
            if masters is None:
                raise _ended("expected --master-key-file: `aiaas master-key new` makes one")
            url = database_url(settings)
            upgrade(url)
            database = Database(url)
            try:
                yield _Opened(settings, database, masters, DataKeys(database, masters))
            finally:
                database.close()
        except (MasterKeyRefused, StateRefused) as error:
            raise _ended(str(error)) from None
        except ServerError as error:
            raise _ended(error.message, 1) from None


def _note(opened: _Opened, act: str, name: str) -> None:
    """Put on record what was done."""
    import time

    from aiaas_server.tenancy.audit_chain import append, operator_act
    from aiaas_server.tenancy.secrets import ServerSecret

    settings, now = opened.settings, time.time()
    assert settings.data is not None, "it was asked for"
    key = ServerSecret.of(settings.data, settings.secret_file).derive("audit")
    opened.database.submit(
        lambda c: append(c, key, [operator_act(act, name, now)], now), spares_room=True
    ).result()


def _write(path: Path, keys: list[bytes]) -> None:
    """Write a file that is whole or not there."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.writelines(f"{key.hex()}\n" for key in keys)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _ended(message: str, code: int = 2) -> typer.Exit:
    _tell(f"aiaas: {message}")
    return typer.Exit(code)
