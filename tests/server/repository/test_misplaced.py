"""What lies in a repository and cannot be served is listed, with what to do."""

from __future__ import annotations

import json

import pytest

from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings

PIPELINE = json.dumps({"format_version": 1, "task": "pipeline", "steps": [{"model": "a"}]})


def written(root, files):
    (root / "m").mkdir()
    for name, content in files.items():
        (root / "m" / name).parent.mkdir(exist_ok=True)
        (root / "m" / name).write_text(content)
    return Repository(root)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "the directory is empty: a model lies at m/1/model.onnx"),
        ({"model.onnx": "x"}, "model.onnx lies in no version directory: move it to m/1/model.onnx"),
        ({"net.onnx": "x"}, "net.onnx lies in no version directory"),
        ({"v1/model.onnx": "x"}, "'v1' is no version: rename it to '1'"),
        ({"007/model.onnx": "x"}, "'007' is no version: rename it to '7'"),
        ({"model.json": PIPELINE}, "model.json lies in no version directory: move it to m/1/"),
        ({"production/model.onnx": "x"}, "'production' is no version: its model is served from"),
    ],
    ids=["empty", "no version", "other name", "v1", "leading zeros", "card", "word"],
)
def test_a_directory_without_a_version_is_told_with_what_to_do(tmp_path, files, said):
    repository = written(tmp_path, files)
    assert said in repository.misplaced()["m"]
    assert str(tmp_path) not in repository.misplaced()["m"]
    assert repository.names() == []
    assert repository.find("m") is None


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config.pbtxt": "max_batch_size: 4"}, "no version directory: expected m/1"),
        ({"config.pbtxt": "", "model.onnx": "x"}, "move it to m/1/model.onnx"),
        ({"1/model.pt": "x"}, "model.pt (PyTorch) is not served: expected an ONNX model"),
        ({"1/model.py": "x", "config.pbtxt": 'backend: "python"'}, "backend 'python' is not"),
        ({"config.pbtxt": 'platform: "ensemble" ensemble_scheduling {}'}, "ensemble"),
    ],
    ids=["only config", "config and model", "other format", "python", "ensemble"],
)
def test_a_model_that_cannot_be_served_says_what_to_do(tmp_path, files, said):
    repository = written(tmp_path, files)
    assert repository.names() == ["m"]
    assert said in repository.find("m").problem
    assert repository.misplaced() == {}


def test_a_pipelines_card_that_lies_bare_is_told_and_other_files_are_not(tmp_path):
    (tmp_path / "best.json").write_text(PIPELINE)
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "net.onnx").write_bytes(b"x")
    (tmp_path / "net.json").write_text(PIPELINE)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "today.txt").touch()
    (tmp_path / "lost+found").mkdir()
    repository = Repository(tmp_path)
    assert repository.names() == ["net"]
    assert list(repository.misplaced()) == ["best"]
    assert "move it to best/1/model.json" in repository.misplaced()["best"]


def test_a_model_stands_above_a_directory_of_its_name_that_holds_none(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"x")
    (tmp_path / "net").mkdir()
    repository = Repository(tmp_path)
    assert repository.misplaced() == {}
    assert repository.find("net").problem == ""


async def test_index_and_log_tell_what_to_do_and_a_repaired_one_is_loaded(
    make_repository, onnx_models, caplog
):
    root = make_repository({"good": onnx_models.scale()})
    (root / "flat").mkdir()
    (root / "flat" / "model.onnx").write_bytes(onnx_models.scale())
    pool = ModelPool(Repository(root), open_session, Settings(watch=True, watch_interval=1000))
    await pool.start()
    try:
        entry = next(entry for entry in pool.index() if entry["name"] == "flat")
        assert entry["state"] == "UNAVAILABLE"
        assert "move it to flat/1/model.onnx" in entry["reason"]
        assert "move it to flat/1/model.onnx" in caplog.text
        (root / "flat" / "1").mkdir()
        (root / "flat" / "model.onnx").rename(root / "flat" / "1" / "model.onnx")
        for _ in range(2):  # what changes is loaded when it is seen a second time
            await pool.poll()
        assert pool.is_ready("flat")
        await pool.refresh()
        assert [entry["state"] for entry in pool.index()] == ["READY", "READY"]
    finally:
        await pool.close()
