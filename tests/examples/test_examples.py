"""Every example runs as it is, from a plain shell."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from zoo import recordings, samples

from aiaas_client import Client

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*arguments: str) -> str:
    """Run Python in the project's directory with no input; what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=EXAMPLES.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_quickstart_does_the_main_job_and_stops_cleanly(tmp_path: Path) -> None:
    printed = run("examples/quickstart.py", "--out", str(tmp_path))
    for expected in (
        "The capital of France is Paris.\n",
        recordings.SPOKEN[:46],  # the table wraps the rest
        "espresso 0.951",
        "tripod 0.937",
        "Refunds are paid",
        "figure_caption",
        "text/x-python",
        "太差了，不推荐购买 │ negative",
        "10,000",
    ):
        assert expected in printed
    for task in (
        "text-generation",
        "speech-recognition",
        "image-classification",
        "text-embedding",
        "object-detection",
        "file-type",
    ):
        assert task in printed
    with Image.open(tmp_path / "demo-page.png") as drawn:
        assert drawn.size == samples.page().size
        assert np.asarray(drawn.convert("RGB")).tobytes() != samples.page().tobytes()
    assert "server stopped with exit code 0" in printed


@pytest.mark.slow
def test_lifecycle_goes_from_training_to_erasure_and_stops_cleanly() -> None:
    printed = " ".join(run("examples/lifecycle.py").split())
    for expected in (
        "refused: golden.json: accuracy over 300 rows: expected at least 0.7",
        "version 3 rolled_back after",
        "the guard asks for at least 70 %",
        "version 2 serves",
        "rolled back to version 1 90%, version 2 10%; promoted again: version 2 100%",
        "│ drifted │ input",
        "golden.json, model.json, model.onnx, byte for byte; it says positive",
        "refused: version 2 of 'sentiment' is in use",
        "nothing of it is left versions: 3 verified, 2 verified, 1 erased",
        "server stopped with exit code 0",
    ):
        assert expected in printed


@pytest.mark.slow
def test_the_life_of_a_model_goes_from_a_table_to_erasure_and_stops_cleanly() -> None:
    pytest.importorskip("torch")
    printed = " ".join(run("examples/life_of_a_model.py").split())
    for expected in (
        "tissue@1: 450 rows",
        "benign 285, malignant 165",
        "│ tissue@1 │ Decision tree",
        "│ tissue@2 │ Neural network",
        "are right now that were wrong",
        "│ parent │",
        "takes over from tissue@1: first version",
        "samples answered meanwhile",
        "why malignant?",
        "rolled back: version 1 100%",
        "version 1 is a decision-tree-classifier of tissue@1, seed 0",
        "refused: version 1 of 'tissue' is in use",
        "remembered: tissue@1 erased, 4 jobs",
        "server stopped with exit code 0",
    ):
        assert expected in printed


@pytest.mark.slow
def test_tenants_share_a_server_each_pays_and_the_record_is_whole() -> None:
    printed = " ".join(run("examples/tenants.py").split())
    refused = re.search(r"pace=False: 60 calls in [0-9.]+ s, ([0-9]+) refused", printed)
    assert refused is not None
    assert int(refused[1]) > 0
    for expected in (
        "acme's digits: 8",
        "globex's digits: 9",
        "tenant 'acme' may ask 20 times a second, 20 at once",
        "s, 0 refused",
        f"used by acme {121 - int(refused[1])} requests",
        "used by globex 1 requests",
        "Statement of 'acme' for ",
        "digits: rows rows ",
        "refused: monthly_spend: tenant 'acme' has spent ",
        "entries, intact; the last act: plans.update small",
        "server stopped with exit code 0",
    ):
        assert expected in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "expected"),
    [
        pytest.param("async_client.py", "ModelNotFoundError", id="async"),
        pytest.param("bulk.py", "skipped: ", id="bulk"),
        pytest.param("scoring.py", "20000 rows in 20 requests: ", id="scoring"),
        pytest.param("embedded.py", "digits version 1: READY", id="embedded"),
        pytest.param("media.py", "Let us first determine markers", id="media"),
        pytest.param("streaming.py", "the digit is a ", id="streaming"),
    ],
)
def test_an_example_runs(example: str, expected: str) -> None:
    assert expected in run(f"examples/{example}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "told"),
    [
        pytest.param(
            "chat_openai.py",
            (
                "The capital of France is Paris.  (8 tokens)",
                "get_weather: Paris",
                "Person(name='Ada', age=36)",
                "completed: The capital of France is Paris.",
            ),
            id="openai",
        ),
        pytest.param(
            "generate.py",
            (
                "The capital of France is Paris.  (stop, 8 tokens)",
                "Once upon a time, the city of Nova Haven",
                "Person(name='Ada', age=36)",
                "3: The capital of Japan is Tokyo.",
                "left after 10 pieces: ",
            ),
            id="sdk",
        ),
    ],
)
def test_an_example_has_a_model_write(example: str, told: tuple[str, ...]) -> None:
    printed = run(f"examples/{example}")
    assert [one for one in told if one not in printed] == [], printed


@pytest.mark.slow
def test_sentiment_is_learned_better_than_by_chance(tmp_path: Path) -> None:
    printed = run("examples/train_sentiment.py", "--out", str(tmp_path / "sentiment"))
    (accuracy,) = re.findall(r"held-out accuracy (\d\.\d+)", printed)
    assert float(accuracy) > 0.8
    assert (tmp_path / "sentiment" / "1" / "model.json").exists()


@pytest.mark.slow
def test_english_sentiment_is_learned_and_served(tmp_path: Path) -> None:
    printed = run("examples/train_sentiment_english.py", "--out", str(tmp_path / "english"))
    (accuracy,) = re.findall(r"held-out accuracy (\d\.\d+)", printed)
    assert float(accuracy) == pytest.approx(0.735, abs=0.03)
    with Client.local(tmp_path) as client:
        model = client.text_classification("english")
        for text, label, score in (
            ("I absolutely loved this film, it is wonderful.", "positive", 1.0),
            ("A dull, tedious and boring waste of time.", "negative", 0.987),
            ("This is a positive review.", "positive", 0.891),
            ("This is a negative review.", "negative", 0.905),
        ):
            found = model.predict(text)
            assert (found.label, found.score) == (label, pytest.approx(score, abs=0.06))
        assert model.card()["metrics"]["accuracy"] == pytest.approx(float(accuracy), abs=0.001)
        outputs = {output.name for output in client.models.get("english").outputs}
    assert outputs == {"probabilities", "sentence_embedding"}


@pytest.mark.slow
@pytest.mark.parametrize("example", ["train_digits.py", "train_tabular.py"])
def test_training_tells_the_accuracy_of_held_out_data(example: str, tmp_path: Path) -> None:
    printed = run(f"examples/{example}", "--out", str(tmp_path / "trained"))
    (accuracy,) = re.findall(r"held-out accuracy (\d\.\d+)", printed)
    assert float(accuracy) > 0.9
    assert (tmp_path / "trained" / "1" / "model.json").exists()


@pytest.mark.slow
def test_the_testing_example_passes() -> None:
    assert "3 passed" in run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/fake_server_test.py"
    )


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text("utf-8")
    scripts = {p.name for p in EXAMPLES.glob("*.py")} - {"serving.py"}
    assert [name for name in sorted(scripts) if name not in here] == []


# Notebook -> plots that it shows.
NOTEBOOKS = {
    "quickstart.ipynb": 3,
    "text.ipynb": 2,
    "tabular.ipynb": 1,
    "images.ipynb": 4,
    "lifecycle.ipynb": 3,
    "train.ipynb": 7,
}
EXECUTE = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], as_version=4)
resources = {"metadata": {"path": sys.argv[2]}}
nbclient.NotebookClient(notebook, timeout=240, resources=resources).execute()
nbformat.write(notebook, sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pictures"), NOTEBOOKS.items(), ids=list(NOTEBOOKS))
def test_a_notebook_runs_from_top_to_bottom(name: str, pictures: int, tmp_path: Path) -> None:
    if name == "train.ipynb":
        pytest.importorskip("torch")
    executed = tmp_path / "executed.ipynb"
    run("-c", EXECUTE, str(EXAMPLES / name), str(EXAMPLES), str(executed))
    outputs = [
        output
        for cell in nbformat.read(executed, as_version=4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == pictures


@pytest.mark.parametrize("name", list(NOTEBOOKS))
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
