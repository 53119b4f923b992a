"""How much of the code one warm inference goes through: few files, short enough to be read.

`docs/path.py` counts them by tracing the calls of one inference over a socket.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

MOST_FILES = 12
MOST_LINES = 2500


@pytest.fixture(scope="module")
def path() -> ModuleType:
    """`docs/path.py`, which is no package's."""
    place = Path(__file__).parents[1] / "docs" / "path.py"
    spec = importlib.util.spec_from_file_location("docs_path", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def crossed(path: ModuleType) -> tuple[list[str], list[str]]:
    """The client's files and the server's."""
    client, server = path.measure()
    return client, server


def test_an_inference_crosses_few_files_of_the_server(
    path: ModuleType, crossed: tuple[list[str], list[str]]
) -> None:
    _, server = crossed
    assert "aiaas_server/runtimes/session.py" in server  # it was traced to its end
    assert len(server) <= MOST_FILES, path.told("server", server)
    assert sum(map(path.lines_of, server)) <= MOST_LINES, path.told("server", server)


def test_an_inference_crosses_few_files_of_the_client(
    path: ModuleType, crossed: tuple[list[str], list[str]]
) -> None:
    client, _ = crossed
    assert "aiaas_client/_transport/threads.py" in client  # it was traced to its end
    assert len(client) <= MOST_FILES, path.told("client", client)


def test_the_design_page_tells_these_files(crossed: tuple[list[str], list[str]]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "design.md").read_text("utf-8")
    server, client = page.split("And on the client's side of the wire:")
    for text, files in ((client.partition("## Layers")[0], crossed[0]), (server, crossed[1])):
        assert set(re.findall(r"^[0-9]+\. `(aiaas_[^`]+)`", text, re.MULTILINE)) == set(files)
