"""What the documents say is so: their Python runs, their tables and options are the code's."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from serving import serve

from aiaas_server.core.describe.card import read_card
from docs import rooms, tables
from tests import pages
from tests.task_bundles import small_digits, write_tasks

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = [document for document in DOCUMENTS if pages.blocks(document)]
# These need the real models, or a server of their own: test_docs_from_nothing.py.
REAL = {"tasks_media.md", "lifecycle.md", "training.md", "generation.md", "tenants.md"}
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
PLACE = re.compile(r"\]\((?!https?:)([^)#]*)#([^)]+)\)")


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, onnx_models: SimpleNamespace
) -> Iterator[SimpleNamespace]:
    """A directory with `models/` in it, tiny ones under the names of the documents, served."""
    folder = tmp_path_factory.mktemp("docs")
    for name, model in (("digits-cnn", small_digits()), ("sum", onnx_models.add())):
        path = folder / "models" / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(model)
    write_tasks(folder / "models")
    with serve(folder / "models") as server:
        yield SimpleNamespace(folder=folder, address=server.url.removeprefix("http://"))


@pytest.mark.parametrize(
    "document", [d for d in PROGRAMS if d.name not in REAL], ids=lambda d: d.name
)
def test_the_python_of_a_document_runs_in_order(
    document: Path, place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    names: dict[str, object] = {"__name__": "page"}
    shell = pages.Shell(port=0)
    try:
        for block in pages.blocks(document):
            if block.language == "python":
                pages.run_python(block, document, place.address, names)
            for command in pages.commands(block):
                if "--uds" in command.line:  # all others have the server of `place`
                    shell.run(command)
    finally:
        shell.stop()


@pytest.mark.parametrize("document", PROGRAMS, ids=lambda d: d.name)
def test_a_document_with_a_program_says_first_what_to_install(document: Path) -> None:
    first = next(pages.commands(pages.blocks(document)[0]))
    assert first.line.startswith('pip install "aiaas-client[')


def test_the_extras_that_documents_name_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = "\n".join(d.read_text("utf-8") for d in DOCUMENTS)
    named = {
        extra for found in re.findall(r"aiaas-client\[(.*?)\]", text) for extra in found.split(",")
    }
    assert named
    assert named <= set(project["optional-dependencies"])


def test_a_command_goes_on_while_a_quotation_is_open() -> None:
    text = "$ one 'a\nb'\nshown\n$ two \\\n  more\n$ three  # don't\n"
    assert list(pages.commands(pages.Block("console", text, 1))) == [
        ("one 'a\nb'", "shown"),
        ("two \\\n  more", ""),
        ("three  # don't", ""),
    ]


def test_the_cards_that_documents_show_are_cards() -> None:
    text = "\n".join(d.read_text("utf-8") for d in DOCUMENTS)
    shown = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert {read_card(card.encode()).task for card in shown} >= {"text-classification"}


@pytest.mark.parametrize("name", ["settings.md", "metrics.md", "recipes.md"])
def test_the_tables_are_those_of_the_code(name: str) -> None:
    path = ROOT / "docs" / name
    assert path.read_text("utf-8") == tables.PAGES[path](), "run `make docs`"


def test_the_picture_is_that_of_the_imports() -> None:
    assert rooms.PICTURE.read_text("utf-8") == rooms.picture(), "run `make docs`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_inside_the_project_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text("utf-8"))
    assert [t for t in targets if not (document.parent / t).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_to_parts_of_pages_lead_to_headings(document: Path) -> None:
    found = [
        (document.parent / page if page else document, part)
        for page, part in PLACE.findall(document.read_text("utf-8"))
    ]
    pages_of_ours = [(page, part) for page, part in found if page.suffix == ".md"]
    assert [part for page, part in pages_of_ours if part not in _headings(page)] == []


def _headings(page: Path) -> set[str]:
    """What links call the headings of a page, as GitHub has it."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_options_that_documents_name_exist() -> None:
    text = "\n".join(d.read_text("utf-8") for d in DOCUMENTS)
    named = set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", "\n".join(_commands(text))))
    known = subprocess.run(
        [sys.executable, "-m", "aiaas_server", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": ""},
    ).stdout
    assert named
    assert [option for option in sorted(named) if option not in known] == []


def _commands(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if "aiaas serve" in line:
            yield line.partition("aiaas serve")[2]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
