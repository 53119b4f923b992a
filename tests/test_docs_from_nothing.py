"""Every document runs in an environment made by its own install line, in an empty directory."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from zoo import photographs, recordings
from zoo.samples import photograph

from tests import pages

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = [document for document in DOCUMENTS if pages.requirements(document)]
# What a page prints of real models, beside what it shows and asserts itself.
PRINTED = {
    "README.md": ["a cup of tea", "\n7\n", "input 'image': expected shape"],
    "lifecycle.md": [
        "golden.json: output 'logits': row 0, element [0]: expected -2.45912, got -1.67112",
        "2 verified {'rows': 200, ",
        "rolled_back 3 ",
        "mirrored requests were answered differently",
        "drifted input 'image.mean': drifted, index",
        "recorded 1 True",
    ],
    "training.md": [
        "wine@1 178 11.03",
        "bad.csv, line 42, column 'width': expected a number, got 'wide'",
        "['wine-scores@1'] ['target', ",
        "int8-dynamic none None None it has no ",
        "dict_keys(['missing', 'scale'])",
    ],
    "tenants.md": [
        "acme ('infer',)",
        "this needs a key with the scope 'keys:admin'",
        "['digits', 'shared']",
        " requests_per_second 1.0",
        "digits: compute seconds",
        "heads: intact",
        "tenant 'globex': erased ",
    ],
    "generation.md": [
        "\nThe capital of France is Paris.\n",
        "GetWeather city='Paris'",
        recordings.SPOKEN,
        "\n00:00:00,",  # of subtitles
        "the model's context holds 8192",
    ],
    "tasks_media.md": [
        "espresso 0.95",
        "figure_caption 0.9",
        "Let us first determine",
        "speech from",
    ],
}
LEFT = {
    "tasks_media.md": {"found.png", "read.png", "spoken.wav"},
    "quickstart.md": {"sum_model.py"},
    "lifecycle.md": {"data", "digits.bundle"},
    "tenants.md": {"usage.csv", "usage.jsonl", "audit.html", "globex.json"},
    "training.md": {"curves.png", "report.html", "wine.html"},
}
# Of this environment, none of which is a reader's.
OURS = ("PYTHON", "COVERAGE", "COV_", "VIRTUAL_ENV", "AIAAS_SERVER_", "AIAAS_BASE_URL")

Interpreter = Callable[[Path], Path]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def interpreter_of(
    wheel: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Interpreter:
    """The interpreter for a page; pages that install the same share one."""
    made: dict[tuple[str, ...], Path] = {}

    def interpreter(page: Path) -> Path:
        wanted = tuple(pages.requirements(page))
        if wanted not in made:
            folder = tmp_path_factory.mktemp("environment")
            venv.create(folder, with_pip=True)
            python = folder / "bin" / "python"
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            ours = [text.replace("aiaas-client", str(wheel)) for text in wanted]
            subprocess.run([*pip, "--no-compile", *ours], env=environment, check=True)
            made[wanted] = python
        return made[wanted]

    return interpreter


@pytest.mark.slow
@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.name)
def test_a_page_runs_from_nothing(
    page: Path, interpreter_of: Interpreter, environment: dict[str, str], tmp_path: Path
) -> None:
    python = interpreter_of(page)
    if "photo.jpg" in page.read_text("utf-8"):  # "a picture of yours"
        (tmp_path / "photo.jpg").write_bytes(photograph(photographs.FLOWER))
    if page.name == "generation.md":  # "a recording of yours"
        (tmp_path / "talk.wav").write_bytes(recordings.speech())
    done = subprocess.run(
        [python, "-P", pages.__file__, page],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
    missing = [text for text in PRINTED.get(page.name, []) if text not in done.stdout]
    assert missing == [], done.stdout[-8000:]
    assert LEFT.get(page.name, set()) <= {path.name for path in tmp_path.iterdir()}


def test_pictures_are_small() -> None:
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.png"))
    assert len(pictures) >= 3
    assert all(picture.stat().st_size < 60_000 for picture in pictures)
