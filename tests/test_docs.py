"""What the documents say is so: their Python runs, their tables and options are the code's."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from serving import serve

from tests.task_bundles import write_tasks

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
ADDRESS = "127.0.0.1:8000"


def blocks(document: Path) -> list[str]:
    return BLOCK.findall(document.read_text("utf-8"))


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, onnx_models: SimpleNamespace
) -> Iterator[SimpleNamespace]:
    """A directory with `models/` in it, served as the documents assume."""
    folder = tmp_path_factory.mktemp("docs")
    for name, model in (("digits", onnx_models.mlp()), ("sum", onnx_models.add())):
        path = folder / "models" / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(model)
    write_tasks(folder / "models")
    with serve(folder / "models") as server:
        yield SimpleNamespace(folder=folder, address=server.url.removeprefix("http://"))


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d)], ids=lambda d: d.name)
def test_the_code_of_a_document_runs_in_order(
    document: Path, place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    names: dict[str, object] = {"__name__": "document"}
    for i, block in enumerate(blocks(document), 1):
        code = compile(block.replace(ADDRESS, place.address), f"{document.name}, block {i}", "exec")
        exec(code, names)


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "metrics.md"])
def test_the_tables_are_those_of_the_code(tables: ModuleType, name: str) -> None:
    path = ROOT / "docs" / name
    write: Callable[[], str] = tables.PAGES[path]
    assert path.read_text("utf-8") == write(), "run `make docs`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_inside_the_project_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text("utf-8"))
    assert [t for t in targets if not (document.parent / t).exists()] == []


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
