"""From a file to a model on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aiaas_client import Client, JobError, Progress, RecipeInfo
from aiaas_client._cli.commands import register
from aiaas_client.testing import FakeServer

Aiaas = Callable[..., Any]
RECIPE = RecipeInfo(
    name="mlp-classifier",
    title="A network of dense layers",
    task="classification",
    params={
        "properties": {
            "epochs": {"type": "integer", "default": 10, "minimum": 1, "description": "Passes."},
            "optimiser": {"enum": ["adam", "sgd"], "type": "string", "default": "adam"},
            "decay": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        }
    },
)
MADE = {"versions": [1], "metrics": {"accuracy": 0.875, "confusion": {"labels": []}}}
EPOCH = Progress(phase="training", step=1, total=2, unit="epochs", metrics={"loss": 0.5})


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.add_recipe(RECIPE)
        server.job_result(MADE, progress=[EPOCH], log=["reading 3 rows"])
        yield server


@pytest.fixture
def aiaas(server: FakeServer) -> Aiaas:
    app = typer.Typer()
    register(app)

    def run(*arguments: str, **options: Any) -> Any:
        whole = [*arguments, "--url", server.url]
        return CliRunner().invoke(app, whole, env={"COLUMNS": "200"}, **options)

    return run


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "flowers.csv"
    path.write_text("a,label\n1,x\n2,y\n3,x\n")
    return str(path)


@pytest.fixture
def filled(aiaas: Aiaas, rows: str, server: FakeServer) -> Aiaas:
    """With a data set and a model."""
    assert aiaas("upload", "flowers", rows).exit_code == 0
    with Client(server.url) as client:
        client.models.deploy("m", b"one")
        client.models.deploy("m", b"two")
    return aiaas


def document(done: Any) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refusal(done: Any, code: int = 1) -> str:
    """The one line that says why a command ended."""
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit)
    line: str = done.stderr.strip()
    assert "\n" not in line
    return line


def test_a_file_is_uploaded_and_looked_at(aiaas: Aiaas, rows: str) -> None:
    done = aiaas("upload", "flowers", rows, "--kind", "a=category", "--note", "n")
    assert done.exit_code == 0, done.output
    assert "flowers@1: 3 rows" in done.stderr
    assert "category" in done.stdout
    again = document(aiaas("upload", "flowers", rows, "--json"))
    assert (again["number"], again["created_now"]) == (1, False)
    assert "flowers" in aiaas("datasets").stdout
    (told,) = document(aiaas("datasets", "--json"))
    assert told["rows"] == 3
    assert document(aiaas("datasets", "flowers", "--json"))["versions"][0]["number"] == 1
    assert "versions" not in document(aiaas("datasets", "flowers@1", "--json"))


def test_rows_are_fetched_and_erased(filled: Aiaas, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    target = tmp_path / "rows.parquet"
    assert filled("datasets", "flowers", "-o", str(target)).exit_code == 0
    assert pd.read_parquet(target)["a"].to_list() == [1, 2, 3]
    assert refusal(filled("datasets", "flowers@1", "--delete", input="n\n")).endswith(
        "nothing was erased"
    )
    assert "erased versions: 1" in filled("datasets", "flowers@1", "--delete", "-y").stderr
    assert filled("datasets", "flowers@1").exit_code == 0  # it is remembered


def test_what_is_not_there_is_offered_by_its_nearest_name(filled: Aiaas) -> None:
    assert "did you mean 'flowers'" in refusal(filled("datasets", "flower"))
    assert "it has 1" in refusal(filled("datasets", "flowers@7"))
    text = refusal(filled("train", "mlp-classifier", "--dataset", "flovers"))
    assert "did you mean 'flowers'" in text
    text = refusal(filled("train", "mlp-clasifier", "--dataset", "flowers"))
    assert "did you mean 'mlp-classifier'" in text
    assert "did you mean 'mlp-classifier'" in refusal(filled("recipes", "mpl-classifier"))


def test_a_model_is_trained_in_the_background(filled: Aiaas, server: FakeServer) -> None:
    job = document(
        filled(
            *("train", "mlp-classifier", "--dataset", "flowers@1", "--target", "label"),
            *("--param", "epochs=2", "--param", "optimiser=sgd", "--workers", "2", "--test", "0.4"),
            *("--try", "epochs=[1,2]", "--method", "random", "--balanced", "--json"),
            *("--validation", "0.1"),
        )
    )
    spec = server.jobs.get(job["id"]).spec
    assert (spec["model"], spec["dataset"]) == ("flowers-mlp-classifier", "flowers@1")
    assert spec["params"] == {"epochs": 2, "optimiser": "sgd"}
    assert (spec["target"], spec["workers"], spec["split"]["test"]) == ("label", 2, 0.4)
    assert (spec["search"]["params"], spec["search"]["method"]) == ({"epochs": [1, 2]}, "random")
    assert spec["class_weight"] == "balanced"
    assert spec["split"]["validation"] == 0.1
    done = filled("train", "mlp-classifier", "-d", "flowers", "--model", "named")
    assert "next: aiaas jobs" in done.stderr


def test_watching_shows_how_it_comes_on_and_what_it_made(filled: Aiaas) -> None:
    done = filled("train", "mlp-classifier", "-d", "flowers", "--watch")
    assert done.exit_code == 0, done.output
    assert "train flowers-mlp-classifier: succeeded" in done.stderr
    for text in ("flowers-mlp-classifier@1", "metric accuracy", "0.875", "reading 3 rows"):
        assert text in done.stdout
    made = document(filled("train", "mlp-classifier", "-d", "flowers", "--watch", "--json"))
    assert made["result"]["versions"] == [1]


def test_a_job_that_fails_fails_the_command(filled: Aiaas, server: FakeServer) -> None:
    server.job_result(JobError(code="diverged", message="NaN at step 3"), log=["one", "two"])
    text = refusal(filled("train", "mlp-classifier", "-d", "flowers", "-w", "--json"))
    assert "diverged: NaN at step 3; its log: aiaas jobs" in text
    (job,) = server.jobs.every("failed", "", "")
    assert filled("jobs", job.id).exit_code == 1
    assert filled("jobs", job.id, "--watch").exit_code == 1
    assert filled("jobs", job.id[:8], "--log").stdout == "one\ntwo\n"


def test_parameters_of_a_recipe_are_listed(aiaas: Aiaas) -> None:
    assert "A network of dense layers" in aiaas("recipes").stdout
    for arguments in (("recipes", "mlp-classifier"), ("train", "mlp-classifier", "--help-recipe")):
        out = aiaas(*arguments).stdout
        for text in ("epochs", "integer", "10", "from 1", "Passes.", "adam, sgd", "none"):
            assert text in out
    assert document(aiaas("recipes", "--json"))[0]["name"] == "mlp-classifier"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("evaluate", "m@1"), "evaluate"),
        (("compare", "m@1", "m@2"), "compare"),
        (("score", "m", "--keep", "a"), "score"),
        (("optimise", "m@1", "--try", "fp16", "--promote", "fast"), "optimise"),
        (("explain-job", "m@1", "--rows", "10"), "explain"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_other_jobs_are_begun_alike(
    filled: Aiaas, server: FakeServer, arguments: tuple[str, ...], kind: str
) -> None:
    table = [{"model": "m@1", "accuracy": 0.5, "rows": [1]}, {"model": "m@2", "accuracy": 0.75}]
    server.job_result({"table": table}, kind=kind)
    done = filled(*arguments, "--dataset", "flowers", "--watch")
    assert done.exit_code == 0, done.output
    assert "0.75" in done.stdout
    assert len(server.jobs.every("succeeded", kind, "m")) == 1
    assert "'nobody'" in refusal(
        filled(arguments[0], *["nobody@1"] * (1 + (kind == "compare")), "-d", "flowers")
    )


def test_jobs_are_listed_followed_and_ended(filled: Aiaas, server: FakeServer) -> None:
    server.job_result(MADE, hold=True, progress=[EPOCH], log=["hello"])
    job = document(filled("train", "mlp-classifier", "-d", "flowers", "--json"))["id"]
    out = filled("jobs").stdout
    assert job[:12] in out
    assert "training, epochs 1 of 2, loss 0.5" in out
    assert [one["id"] for one in document(filled("jobs", "--state", "running", "--json"))] == [job]
    assert document(filled("jobs", "--kind", "score", "--json")) == []
    assert document(filled("jobs", job, "--cancel", "--json"))["state"] == "cancelled"
    lines = filled("jobs", job, "--events").stdout.splitlines()
    assert [line.split()[3] for line in lines] == ["state", "state", "log", "progress", "state"]
    assert "loss=0.5" in lines[3]
    assert json.loads(filled("jobs", job, "--events", "--json").stdout.splitlines()[2])["data"] == {
        "line": "hello"
    }
    assert "is forgotten" in filled("jobs", job, "--delete").stderr
    assert "no job" in refusal(filled("jobs", job))


def test_wrong_use_is_told_in_a_line(filled: Aiaas) -> None:
    assert "--dataset" in refusal(filled("train", "mlp-classifier"), 2)
    assert "name=value, got 'epochs'" in refusal(
        filled("train", "mlp-classifier", "-d", "flowers", "-p", "epochs"), 2
    )
    assert "expected one of them" in refusal(filled("jobs", "x", "--log", "--cancel"), 2)
    assert "expected a job" in refusal(filled("jobs", "--log"), 2)
    assert "--state: expected one of" in refusal(filled("jobs", "--state", "done"), 2)
    assert "take the name" in refusal(filled("datasets", "--delete"), 2)
    assert "targets.0" in refusal(filled("optimise", "m", "-d", "flowers", "--try", "int4"), 2)


def test_the_report_of_a_version_is_fetched(
    filled: Aiaas, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.job_result(MADE, files={"report.html": b"<html>"})
    with Client(server.url) as client:
        job = client.jobs.train("m", recipe="mlp-classifier", dataset="flowers")
        client.models.deploy("m", b"three", lineage={"job": job.id})
    assert filled("report", "m@3").exit_code == 0
    assert (tmp_path / "m-3.html").read_bytes() == b"<html>"
    assert filled("report", "m", "-o", "r.html").exit_code == 0
    assert "made by no job" in refusal(filled("report", "m@1"))
