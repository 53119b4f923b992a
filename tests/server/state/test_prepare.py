"""`--data` is made ready, or refused in one line that says what to do."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from aiaas_server.settings import Settings
from aiaas_server.state import prepare as preparing
from aiaas_server.state.prepare import DataRefused, database_url, prepare
from aiaas_server.state.revision import VERSION_TABLE
from tests.server.state.test_outages import postgres_only


def test_the_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"
    served = prepare(Settings(data=data, models=tmp_path))
    assert data.stat().st_mode & 0o777 == 0o700
    assert (data / "state.db").exists()
    assert served.models == tmp_path
    prepare(served)


def test_a_directory_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    prepare(Settings(data=tmp_path, models=tmp_path))
    assert tmp_path.stat().st_mode & 0o777 == 0o750


def test_models_may_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    assert prepare(Settings(data=data)).models == data / "models"
    assert not list((data / "models").iterdir())
    assert prepare(Settings(data=data, models=data / "models")).models == data / "models"
    asked_for = Path("nowhere")
    assert prepare(Settings(data=data, models=asked_for)).models == asked_for
    (tmp_path / "models").mkdir()
    assert prepare(Settings(data=data)).models == Path("models")


@pytest.mark.parametrize("name", ["with space", "50%", "what?", "ümlaut", "a&b=c#d"])
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    prepare(Settings(data=tmp_path / name, models=tmp_path))
    assert (tmp_path / name / "state.db").exists()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DataRefused, match="expected a directory, got a file"):
        prepare(Settings(data=tmp_path / "data"))
    with pytest.raises(DataRefused, match="it cannot be made: Not a directory"):
        prepare(Settings(data=tmp_path / "data" / "below"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_of_somebody_else_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataRefused, match="this user may not write there"):
        prepare(Settings(data=tmp_path))


def test_a_newer_schema_is_told_with_its_place(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, models=tmp_path)
    prepare(settings)
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(DataRefused, match=r"the database sqlite:///.*state.db: .*newer server"):
        prepare(settings)


def test_a_database_that_is_away_is_told_without_the_password(tmp_path: Path) -> None:
    given = "postgresql://me:hunter2@127.0.0.1:1/x?sslpassword=hunter3"
    settings = Settings.model_validate({"data": tmp_path, "database_url": given})
    with pytest.raises(DataRefused, match=r"database postgresql://127.0.0.1:1/x: ") as caught:
        prepare(settings)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("given", ["postgres:", "postgresql:", "postgresql+psycopg:"])
def test_every_spelling_of_postgresql_is_understood(given: str) -> None:
    settings = Settings.model_validate({"data": "d", "database_url": f"{given}//u:p%40@h:5/n"})
    state_url = database_url(settings)
    assert (state_url.drivername, state_url.host, state_url.port) == ("postgresql+psycopg", "h", 5)
    assert (state_url.password, state_url.database) == ("p@", "n")


@postgres_only
def test_postgres_is_prepared_too(state_url: str, tmp_path: Path) -> None:
    given = make_url(state_url).render_as_string(hide_password=False).replace("+psycopg", "")
    settings = Settings.model_validate({"data": tmp_path, "database_url": given})
    prepare(settings)
    assert not (tmp_path / "state.db").exists()


@pytest.mark.parametrize(
    ("missing", "extra"), [("sqlalchemy", "platform"), ("alembic", "platform"),
                           ("obstore", "platform"), ("psycopg", "postgres")],
)  # fmt: skip
def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, extra: str
) -> None:
    def find(name: str) -> object:
        return None if name == missing else object()

    monkeypatch.setattr(preparing, "find_spec", find)
    settings = Settings.model_validate(
        {"data": tmp_path / "data", "database_url": "postgresql://127.0.0.1:1/x"}
    )
    told = rf"needs {missing}; run: .*aiaas-client\[server,{extra}\]"
    with pytest.raises(DataRefused, match=told):
        prepare(settings)
    assert not (tmp_path / "data").exists()


def test_knowing_of_it_costs_no_import_of_a_database() -> None:
    code = (
        "import sys, aiaas_server.state.prepare; "
        "print([n for n in ('sqlalchemy', 'alembic', 'obstore', 'psycopg') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_server_of_a_directory_imports_nothing_of_state(tmp_path: Path) -> None:
    code = f"""
import sys
import aiaas_server.process, aiaas_server.serve
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
create_app(Settings(models={str(tmp_path)!r}))
parts = ("sqlalchemy", "alembic", "obstore", "psycopg", "aiaas_server.state",
         "aiaas_server.registry", "aiaas_server.monitor", "aiaas_server.platform")
print([part for part in parts if part in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_start_without_a_migration_does_not_import_alembic(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, models=tmp_path)
    prepare(settings)
    code = (
        "import sys; from pathlib import Path; from aiaas_server.settings import Settings; "
        "from aiaas_server.state.prepare import prepare; "
        f"prepare(Settings(data=Path({str(tmp_path)!r}))); print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "False"
