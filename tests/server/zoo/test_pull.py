"""`aiaas pull` writes ready bundles; `aiaas zoo` lists them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aiaas_server.cli import app
from aiaas_server.core.describe.card import CARD_NAME, read_card
from aiaas_server.zoo import commands
from aiaas_server.zoo.entries import ENTRIES
from aiaas_server.zoo.entry import Bundle, LargeFile
from aiaas_server.zoo.pull import UnknownModel, pull, write_bundle

invoke = CliRunner().invoke


def test_the_list_tells_task_size_licence_and_purpose() -> None:
    shown = invoke(app, ["zoo"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for entry in ENTRIES.values():
        line = next(line for line in shown.stdout.splitlines() if line.startswith(entry.name))
        assert entry.task in line
        assert entry.licence in line
        assert entry.purpose in line
    rows = json.loads(invoke(app, ["zoo", "--json"]).stdout)
    assert [row["name"] for row in rows] == list(ENTRIES)


def test_an_unknown_name_is_told_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"no model 'resnet'; it has minilm, efficientnet-lite0"):
        pull("resnet", tmp_path)
    shown = invoke(app, ["pull", "resnet", "--models", str(tmp_path)])
    assert shown.exit_code == 1
    assert "aiaas: the zoo has no model 'resnet'" in shown.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_a_bundle_has_its_model_card_assets_and_licence(name: str, tmp_path: Path) -> None:
    first, *helpers = pull(name, tmp_path)
    assert first.path == tmp_path / first.name / "1"
    card = read_card((first.path / CARD_NAME).read_bytes())
    assert card.task == ENTRIES[name].task
    assert card.licence == ENTRIES[name].licence
    sources = card.lineage["sources"]
    assert {source["sha256"] for source in sources} == {f.sha256 for f in ENTRIES[name].files}
    for asset, digest in card.assets.items():
        content = (first.path / asset).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    for done in (first, *helpers):
        assert (done.path / "model.onnx").stat().st_size > 10_000
        assert done.is_new
    assert not list(tmp_path.rglob(".pull-*"))


@pytest.mark.slow
def test_what_is_there_is_left_alone_and_what_differs_becomes_a_version(tmp_path: Path) -> None:
    (done,) = pull("digits-cnn", tmp_path)
    (again,) = pull("digits-cnn", tmp_path)
    assert (again.version, again.is_new) == (1, False)
    card = done.path / CARD_NAME
    card.write_text(card.read_text("utf-8").replace("handwritten", "typed"), "utf-8")
    (second,) = pull("digits-cnn", tmp_path)
    assert (second.version, second.is_new) == (2, True)
    assert "typed" in card.read_text("utf-8")


@pytest.mark.slow
def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    shown = invoke(app, ["pull", "layout", "faces", "--models", str(tmp_path)])
    assert shown.exit_code == 0
    assert f"layout version 1 ready: {tmp_path / 'layout' / '1'}" in shown.stdout
    assert "faces-onet version 1 ready" in shown.stdout
    assert (
        "faces version 1 was there"
        in invoke(app, ["pull", "faces", "--models", str(tmp_path)]).stdout
    )
    config = json.loads((tmp_path / "layout" / "config.json").read_text("utf-8"))
    assert config == {"max_batch_size": 0}


def large(content: bytes) -> Bundle:
    """A bundle with weights beside the graph, which come in pieces."""
    pieces = [content[i : i + 3] for i in range(0, len(content), 3)]
    weights = {"model.onnx.data": LargeFile(len(content), lambda: iter(pieces))}
    return Bundle("large", b"graph", weights=weights)


def test_weights_beside_a_graph_are_written_and_compared_piece_by_piece(tmp_path: Path) -> None:
    def write(content: bytes) -> tuple[int, bool]:
        done = write_bundle(large(content), "MIT", {}, tmp_path)
        assert (done.path / "model.onnx.data").read_bytes() == content
        assert (done.path / "model.onnx").read_bytes() == b"graph"
        return done.version, done.is_new

    assert write(b"0123456789") == (1, True)
    assert write(b"0123456789") == (1, False)
    assert write(b"0123456780") == (2, True)
    assert write(b"01234567890") == (3, True)  # longer
    assert write(b"012345678") == (4, True)  # shorter
    assert write(b"0123456789") == (1, False)
    assert not list(tmp_path.rglob(".pull-*"))


def test_a_bundle_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"012"
        raise OSError("no space left")

    weights = {"model.onnx.data": LargeFile(9, chunks)}
    bundle = replace(large(b""), config={"max_batch_size": 0}, weights=weights)
    with pytest.raises(OSError, match="no space left"):
        write_bundle(bundle, "MIT", {}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    write_bundle(large(b"0"), "MIT", {}, tmp_path)
    with pytest.raises(OSError, match="no space left"):
        write_bundle(bundle, "MIT", {}, tmp_path)
    assert {p.name for p in (tmp_path / "large").iterdir()} == {"1", "config.json"}


@pytest.mark.parametrize("is_there", [True, False])
def test_what_a_model_needs_is_told_only_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    module = "json" if is_there else "no_such_module"
    entry = replace(ENTRIES["digits-cnn"], needs="an extra", module=module)
    monkeypatch.setattr(commands, "find", lambda name: entry)
    monkeypatch.setattr(commands, "pull_model", lambda *args, **options: ())
    shown = invoke(app, ["pull", "digits-cnn", "--models", str(tmp_path)])
    assert shown.exit_code == 0
    assert ("digits-cnn needs: an extra" in shown.stderr) is not is_there


def test_every_need_names_what_shows_that_it_is_met() -> None:
    assert all(bool(entry.needs) == bool(entry.module) for entry in ENTRIES.values())
