"""The three layouts of a repository, and what is found in them."""

from __future__ import annotations

import os

import pytest

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import LoadFailed
from aiaas_server.repository.repository import Repository


def numbers(stored):
    return [version.number for version in stored.versions]


def test_tritons_layout_is_read(make_repository):
    root = make_repository(
        {"a": {1: b"x", 10: b"x", 2: b"x"}, "b": b"x"},
        configs={"a": "max_batch_size: 3", "c": '{"max_batch_size": 4}'},
    )
    (root / "a" / "notes").mkdir()
    (root / "a" / "007").mkdir()
    (root / "a" / "0").mkdir()
    (root / "not-a-model").mkdir()
    (root / ".git").mkdir()
    (root / "readme.md").touch()
    repository = Repository(root)
    assert repository.names() == ["a", "b", "c"]
    a = repository.find("a")
    assert numbers(a) == [1, 2, 10]
    assert a.config.max_batch_size == 3
    assert a.versions[0].path == root / "a" / "1" / "model.onnx"
    assert repository.find("c").config.max_batch_size == 4
    assert numbers(repository.find("c")) == []


def test_bare_files_are_models_of_one_version_and_a_directory_stands_above(make_repository):
    root = make_repository({"a": {3: b"x"}})
    for name in ("a.onnx", "b.onnx"):
        (root / name).write_bytes(b"x")
    repository = Repository(root)
    assert repository.names() == ["a", "b"]
    assert numbers(repository.find("a")) == [3]
    assert numbers(repository.find("b")) == [1]
    assert repository.find("b").versions[0].path == root / "b.onnx"


def test_one_file_is_a_repository(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"x")
    repository = Repository(tmp_path / "net.onnx")
    assert repository.names() == ["net"]
    assert numbers(repository.find("net")) == [1]


def test_the_configuration_may_name_another_model_file(make_repository):
    root = make_repository({"a": b"x"}, configs={"a": 'default_model_filename: "net.onnx"'})
    assert Repository(root).find("a").versions[0].path.name == "net.onnx"


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/1", "/etc", "A", "a\x00"])
def test_only_names_in_the_listing_are_found(make_repository, name):
    assert Repository(make_repository({"a": b"x"})).find(name) is None


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("{", "configuration: Invalid JSON"),
        ("max_batch_size: many", "config.pbtxt: "),
        ('name: "other"', "expected the name 'a' of its directory, got 'other'"),
    ],
    ids=["json", "text", "other name"],
)
def test_an_unusable_configuration_is_a_problem_of_that_model(make_repository, config, problem):
    stored = Repository(make_repository({"a": b"x"}, configs={"a": config})).find("a")
    assert problem in stored.problem
    assert numbers(stored) == [1]


def test_a_configuration_that_is_not_text_or_too_large_is_a_problem(make_repository):
    root = make_repository({"a": b"x", "b": b"x"})
    (root / "a" / "config.json").write_bytes(b"\xff\xfe")
    (root / "b" / "config.json").write_bytes(b" " * (1024 * 1024 + 1))
    assert "not UTF-8" in Repository(root).find("a").problem
    assert "larger than" in Repository(root).find("b").problem


def test_stamps_change_with_files_and_configuration(make_repository):
    root = make_repository({"a": b"x"})
    repository = Repository(root)
    before = repository.find("a")
    assert repository.find("a") == before
    (root / "a" / "1" / "model.onnx").write_bytes(b"longer")
    changed = repository.find("a")
    assert changed.versions[0].stamp != before.versions[0].stamp
    (root / "a" / "1" / "weights.bin").write_bytes(b"w")
    assert repository.find("a").versions[0].stamp != changed.versions[0].stamp
    (root / "a" / "config.json").write_text("{}")
    assert repository.find("a").stamp != before.stamp


def test_uploaded_files_exist_while_they_are_needed(make_repository):
    repository = Repository(make_repository({"a": b"x"}))
    files = {"2/model.onnx": b"m", "2/weights.bin": b"w", "3/model.onnx": b"n"}
    with repository.upload("new", ModelConfig(), files) as stored:
        assert numbers(stored) == [2, 3]
        place = stored.versions[0].path
        assert place.read_bytes() == b"m"
        assert (place.parent / "weights.bin").read_bytes() == b"w"
    assert not place.exists()


@pytest.mark.parametrize("path", ["/1/m", "1/../m", "1/..", "-1/m", "01/m", "1/a/b", "1\\m", "m"])
def test_uploads_stay_in_a_version_directory(make_repository, path):
    repository = Repository(make_repository({"a": b"x"}))
    with pytest.raises(LoadFailed), repository.upload("new", ModelConfig(), {path: b"m"}):
        pass


def test_labels_are_lines(make_repository):
    root = make_repository({"a": b"x"})
    repository = Repository(root)
    (root / "a" / "labels.txt").write_bytes("eins\r\nzwei\n\n鳥\n".encode())
    model = repository.find("a")
    assert repository.labels(model, model.versions[0], "labels.txt") == ("eins", "zwei", "", "鳥")
    with pytest.raises(LoadFailed, match=r"'none\.txt' cannot be read") as caught:
        repository.labels(model, model.versions[0], "none.txt")
    assert str(root) not in caught.value.message


def test_a_repository_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(LoadFailed, match="does not exist"):
        Repository(tmp_path / "none")
    (tmp_path / "a.txt").touch()
    with pytest.raises(LoadFailed, match=r"neither a directory nor an \.onnx file"):
        Repository(tmp_path / "a.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_model_that_cannot_be_read_is_left_out(make_repository):
    root = make_repository({"a": b"x", "b": b"x"})
    (root / "a").chmod(0)
    try:
        assert Repository(root).names() == ["b"]
    finally:
        (root / "a").chmod(0o755)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../models", "a/1", ".git", "not-a-model", "a\n", "x" * 5000, "\ud800"],
)
def test_only_what_is_listed_is_found(make_repository, name):
    root = make_repository({"a": b"x"})
    (root / ".git" / "1").mkdir(parents=True)
    (root / "not-a-model").mkdir()
    repository = Repository(root)
    assert name not in repository.names()
    assert repository.find(name) is None
