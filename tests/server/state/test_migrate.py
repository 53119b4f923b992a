"""Every database has the schema of this server, or the server does not start on it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import aiaas_server.state
from aiaas_server.state import migrate, revision
from aiaas_server.state.database import Database
from aiaas_server.state.engine import open_engine
from aiaas_server.state.migrate import upgrade
from aiaas_server.state.revision import REVISION, VERSION_TABLE, StateRefused
from aiaas_server.state.tenant_tables import METADATA
from tests.schema import SchemaMadeOnce

MIGRATIONS = Path(aiaas_server.state.__file__).with_name("migrations")


def state_of(state_url: str) -> tuple[str, ...]:
    engine = open_engine(state_url)
    with engine.connect() as connection:
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars()
        revisions = tuple(found)
    engine.dispose()
    return revisions


def set_revision(state_url: str, value: str) -> None:
    engine = open_engine(state_url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{value}'"))
    engine.dispose()


def test_the_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    """If this fails: what `state/tables.py` says and what the migrations do are to be the same."""
    with database.engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, METADATA) == []
        if connection.dialect.name == "sqlite":
            made = {
                row.name: " ".join(row.sql.split())
                for row in connection.execute(text("SELECT name, sql FROM sqlite_master"))
                if row.sql
            }
            assert "AUTOINCREMENT" in made["changes"]
            assert "AUTOINCREMENT" in made["history"]


def test_the_newest_migration_is_the_one_that_the_server_asks_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]
    assert REVISION in migrate._known()


def test_what_the_first_schema_has_stays_when_jobs_come(
    state_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old" / "versions").mkdir(parents=True)
    for path in (MIGRATIONS / "env.py", *(MIGRATIONS / "versions").glob("m0001*.py")):
        shutil.copy(path, tmp_path / "old" / path.relative_to(MIGRATIONS))
    with monkeypatch.context() as old:
        old.setattr(migrate, "_MIGRATIONS", tmp_path / "old")
        old.setattr(migrate, "REVISION", "0001")
        upgrade(state_url)
    assert state_of(state_url) == ("0001",)
    add_a_version(state_url)
    upgrade(state_url)
    assert state_of(state_url) == (REVISION,)
    engine = open_engine(state_url)
    with engine.connect() as connection:
        names = set(sqlalchemy.inspect(connection).get_table_names())
        assert {"jobs", "job_events", "datasets", "dataset_drafts", "files"} <= names
        assert connection.execute(text("SELECT count(*) FROM profiles")).scalar_one() == 1
    engine.dispose()


def test_a_second_start_changes_nothing(state_url: str) -> None:
    upgrade(state_url)
    upgrade(state_url)
    assert state_of(state_url) == (REVISION,)


def test_a_newer_schema_is_refused_and_left_alone(state_url: str) -> None:
    upgrade(state_url)
    set_revision(state_url, "9999")
    with pytest.raises(StateRefused, match="schema 9999 of a newer server.*knows up to"):
        upgrade(state_url)
    assert state_of(state_url) == ("9999",)


def test_a_database_of_somebody_else_is_refused_and_left_alone(state_url: str) -> None:
    engine = open_engine(state_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (id INTEGER)"))
        connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
    with pytest.raises(StateRefused, match=r"no server of this kind made \(alembic_version, cus"):
        upgrade(state_url)
    with engine.connect() as connection:
        names = sqlalchemy.inspect(connection).get_table_names()
    engine.dispose()
    assert sorted(names) == ["alembic_version", "customers"]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"my diary" * 1000)
    with pytest.raises(StateRefused, match="file is not a database"):
        upgrade(f"sqlite:///{tmp_path / 'state.db'}")
    assert (tmp_path / "state.db").read_bytes() == b"my diary" * 1000


def test_a_path_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateRefused, match="unable to open database file"):
        upgrade(f"sqlite:///{tmp_path / 'nowhere' / 'state.db'}")


NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade():
    with op.batch_alter_table("models") as table:
        table.add_column(sa.Column("colour", sa.Text))
        table.alter_column("description", type_=sa.String(100))
    {more}
"""


@pytest.fixture
def next_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be a server that has one migration more; gives its file."""
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    for path in (MIGRATIONS / "env.py", *(MIGRATIONS / "versions").glob("m*.py")):
        (folder / path.relative_to(MIGRATIONS)).write_text(path.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(migrate, "_MIGRATIONS", folder)
    monkeypatch.setattr(migrate, "REVISION", "0004")
    return folder / "versions" / "m0004_next.py"


def add_a_version(state_url: str) -> None:
    engine = open_engine(state_url)
    with engine.begin() as connection:
        connection.execute(
            METADATA.tables["models"]
            .insert()
            .values(
                id="a", tenant="t", name="m", policy={}, serving={}, created=0.0, created_by="x"
            )
        )
        connection.execute(
            METADATA.tables["profiles"]
            .insert()
            .values(model_id="a", version=1, source="golden", rows=1, profile={}, created=0.0)
        )
    engine.dispose()


def counted(state_url: str) -> tuple[int, int]:
    engine = open_engine(state_url)
    with engine.connect() as connection:
        models = connection.execute(text("SELECT count(*) FROM models WHERE colour IS NULL"))
        profiles = connection.execute(text("SELECT count(*) FROM profiles"))
        found = models.scalar_one(), profiles.scalar_one()
    engine.dispose()
    return found


def test_an_older_schema_is_copied_and_brought_forward(
    state_url: str, next_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as old:
        old.setattr(migrate, "REVISION", "0003")
        upgrade(state_url)
    add_a_version(state_url)
    next_server.write_text(NEXT.format(more=""), "utf-8")
    upgrade(state_url)
    assert state_of(state_url) == ("0004",)
    assert counted(state_url) == (1, 1), "a table that is rebuilt takes nothing with it"
    if state_url.startswith("sqlite"):
        copy = tmp_path / "state.db.before-0004"
        with closing(sqlite3.connect(copy)) as before:
            assert before.execute(f"SELECT * FROM {VERSION_TABLE}").fetchall() == [("0003",)]
            assert before.execute("SELECT count(*) FROM profiles").fetchall() == [(1,)]
        assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("state_url", ["sqlite"], indirect=True)
def test_without_a_copy_nothing_is_changed(
    state_url: str, next_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as old:
        old.setattr(migrate, "REVISION", "0003")
        upgrade(state_url)
    next_server.write_text(NEXT.format(more=""), "utf-8")
    (tmp_path / "state.db.before-0004").mkdir()
    with pytest.raises(StateRefused, match="no copy of it could be made before the change"):
        upgrade(state_url)
    assert state_of(state_url) == ("0003",)
    assert not list(tmp_path.glob("*.partial"))


def test_a_migration_that_fails_changes_nothing(
    state_url: str, next_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as old:
        old.setattr(migrate, "REVISION", "0003")
        upgrade(state_url)
    next_server.write_text(NEXT.format(more='op.execute("SELECT * FROM nobody")'), "utf-8")
    with pytest.raises(StateRefused, match="nobody"):
        upgrade(state_url)
    assert state_of(state_url) == ("0003",)
    engine = open_engine(state_url)
    names = {column["name"] for column in sqlalchemy.inspect(engine).get_columns("models")}
    engine.dispose()
    assert "colour" not in names


@pytest.mark.slow
def test_of_several_processes_that_start_at_once_one_makes_the_schema(state_url: str) -> None:
    code = f"from aiaas_server.state.migrate import upgrade; input(); upgrade({state_url!r})"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) for _ in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait(120) for process in started] == [0] * 4
    assert state_of(state_url) == (REVISION,)


def test_a_directory_without_migrations_says_so(
    state_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upgrade(state_url)
    monkeypatch.setattr(migrate, "_MIGRATIONS", tmp_path / "nowhere")
    monkeypatch.setattr(migrate, "REVISION", "0004")
    with pytest.raises(StateRefused, match="the migrations are not installed"):
        upgrade(state_url)


def test_the_table_of_the_schema_is_ours_alone() -> None:
    assert revision.VERSION_TABLE != "alembic_version"


def test_what_tests_make_once_is_the_schema_that_the_migrations_make(tmp_path: Path) -> None:
    """The statements that stand in for them elsewhere, see `tests/schema.py`."""
    made_once = SchemaMadeOnce(migrate._run_alembic)
    dumps = []
    for name in ("first", "second"):
        with open_engine(f"sqlite:///{tmp_path / name}").begin() as connection:
            made_once(connection)
        with closing(sqlite3.connect(tmp_path / name)) as made:
            dumps.append(sorted(made.iterdump()))
    assert dumps[0] == dumps[1]
    assert any("CREATE TABLE usage" in line for line in dumps[0])
