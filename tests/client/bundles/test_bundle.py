"""The files of a version are found, checked and hashed before anything is sent."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from aiaas_client import Golden, InputError, MissingFileError
from aiaas_client._bundles.bundle import Bundle, gathered, hashed


def bundle(source: Any, **beside: Any) -> Bundle:
    return hashed(gathered(source, **beside))


def content(found: Bundle, name: str) -> bytes:
    part = found.parts[name]
    return part.read(0, part.size)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    place = tmp_path / "m"
    place.mkdir()
    (place / "model.onnx").write_bytes(b"onnx")
    (place / "labels.txt").write_bytes(b"a\nb\n")
    (place / ".hidden").write_bytes(b"")
    (place / "bundle.json").write_bytes(b"{}")
    return place


def large(tmp_path: Path, location: str = "weights.bin") -> Path:
    """A model whose weights are beside it."""
    weights = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    graph = helper.make_graph([], "g", [], [], [weights])
    model = helper.make_model(graph)
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location, 0, 16)
    tensor.ClearField("raw_data")
    path = tmp_path / "large.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_is_the_model(tmp_path: Path) -> None:
    (tmp_path / "digits.onnx").write_bytes(b"onnx")
    (tmp_path / "other.txt").write_bytes(b"")
    for source in (tmp_path / "digits.onnx", str(tmp_path / "digits.onnx")):
        (file,) = bundle(source).files
        assert (file.name, file.size) == ("model.onnx", 4)
        assert file.sha256 == hashlib.sha256(b"onnx").hexdigest()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_the_model(kind: Any) -> None:
    assert content(bundle(kind(b"onnx")), "model.onnx") == b"onnx"


def test_a_model_of_the_onnx_package_is_the_model() -> None:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    assert content(bundle(model), "model.onnx") == model.SerializeToString()


def test_a_directory_is_a_bundle_without_what_an_export_adds(directory: Path) -> None:
    assert [file.name for file in bundle(directory).files] == ["labels.txt", "model.onnx"]


def test_equal_files_make_equal_bundles(directory: Path, tmp_path: Path) -> None:
    labels = {"labels.txt": directory / "labels.txt"}
    assert bundle(b"onnx", assets=labels).digest == bundle(directory).digest
    assert bundle(b"onnx", assets={"labels.txt": b"a\n"}).digest != bundle(directory).digest


def test_weights_beside_a_model_go_with_it(tmp_path: Path) -> None:
    path = large(tmp_path)
    with pytest.raises(MissingFileError, match=r"weights\.bin"):
        bundle(path)
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    card = {"task": "tabular"}
    found = bundle(path, card=card)
    assert [file.name for file in found.files] == ["model.json", "model.onnx", "weights.bin"]
    told = json.loads(content(found, "model.json"))
    assert told == {**card, "assets": {"weights.bin": hashlib.sha256(bytes(16)).hexdigest()}}


def test_weights_elsewhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="plain file name"):
        bundle(large(tmp_path, "../weights.bin"))


def test_a_card_that_declares_all_digests_stays_as_it_is(directory: Path) -> None:
    digest = hashlib.sha256(b"a\nb\n").hexdigest()
    text = json.dumps({"task": "t", "assets": {"labels.txt": digest}}, indent=7)
    (directory / "model.json").write_text(text, "utf-8")
    assert content(bundle(directory), "model.json") == text.encode()


def test_a_card_is_told_the_digests_it_lacks(directory: Path) -> None:
    text = json.dumps({"task": "t", "labels": "ä", "assets": {"labels.txt": ""}})
    (directory / "model.json").write_text(text, "utf-8")
    told = json.loads(content(bundle(directory), "model.json"))
    assert told["assets"] == {"labels.txt": hashlib.sha256(b"a\nb\n").hexdigest()}
    assert told["labels"] == "ä"


def test_a_card_may_be_a_path_or_an_object(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(b'{"task": "t"}')
    assert json.loads(content(bundle(b"m", card=tmp_path / "c.json"), "model.json"))["task"] == "t"
    card = SimpleNamespace(model_dump=lambda mode: {"task": "u"})
    assert json.loads(content(bundle(b"m", card=card), "model.json")) == {"task": "u"}


def test_a_golden_set_may_be_a_document_a_path_or_made_of_arrays(tmp_path: Path) -> None:
    golden = Golden({"x": [1]}, {"y": [1]})
    (tmp_path / "g.json").write_bytes(golden.to_bytes())
    for one in (golden, golden.document(), tmp_path / "g.json"):
        found = json.loads(content(bundle(b"m", golden=one), "golden.json"))
        assert found == golden.document()


def refused(source: Any, **beside: Any) -> str:
    with pytest.raises(InputError) as raised:
        bundle(source, **beside)
    return str(raised.value)


def test_what_is_missing_or_empty_is_named(tmp_path: Path, directory: Path) -> None:
    assert str(tmp_path / "no.onnx") in refused(tmp_path / "no.onnx")
    (tmp_path / "empty.onnx").touch()
    assert "is empty" in refused(tmp_path / "empty.onnx")
    assert "is empty" in refused(b"")
    assert "got int" in refused(5)
    assert "asset 'a.txt': no file" in refused(b"m", assets={"a.txt": tmp_path / "a.txt"})
    assert "expected a path or bytes, got int" in refused(b"m", assets={"a.txt": 5})
    assert "card: no file" in refused(b"m", card=tmp_path / "no.json")
    assert "golden: no file" in refused(b"m", golden=tmp_path / "no.json")


def test_a_directory_without_a_model_says_what_may_have_been_meant(tmp_path: Path) -> None:
    place = tmp_path / "m"
    place.mkdir()
    assert "it is empty" in refused(place)
    (place / "notes.txt").touch()
    assert refused(place).endswith("expected model.onnx in it")
    (place / "digits.onnx").touch()
    assert f"did you mean '{place / 'digits.onnx'}'" in refused(place)
    (place / "2").mkdir()
    (place / "2" / "model.onnx").touch()
    assert f"did you mean '{place / '2'}'" in refused(place)


def test_directories_in_a_bundle_are_refused(directory: Path) -> None:
    (directory / "inside").mkdir()
    assert "the directory 'inside'" in refused(directory)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "-a", "ä.txt", "a" * 129])
def test_names_that_are_no_plain_file_are_refused(name: str) -> None:
    assert "expected a name of letters" in refused(b"m", assets={name: b""})


def test_assets_take_no_other_files_place(directory: Path) -> None:
    assert "meaning of its own" in refused(b"m", assets={"model.json": b"{}"})
    assert "already" in refused(directory, assets={"labels.txt": b""})
    many = {f"a{number}": b"" for number in range(256)}
    assert "at most 256 files, got 257" in refused(b"m", assets=many)


def test_a_card_that_is_none_or_of_other_files_is_refused(directory: Path) -> None:
    (directory / "model.json").write_bytes(b"{")
    assert "expected JSON" in refused(directory)
    (directory / "model.json").write_bytes(b"[]")
    assert "expected a JSON object, got list" in refused(directory)
    (directory / "model.json").write_bytes(b'{"assets": [1]}')
    assert "expected names and digests" in refused(directory)
    (directory / "model.json").write_bytes(b'{"assets": {"labels.txt": "00"}}')
    assert "it says sha256 00" in refused(directory)
    assert "card: " in refused(b"m", card={"task": object()})


def test_a_file_that_shrinks_while_it_is_sent_is_named(directory: Path) -> None:
    part = bundle(directory).parts["model.onnx"]
    assert part.read(1, 2) == b"nn"
    (directory / "model.onnx").write_bytes(b"o")
    with pytest.raises(InputError, match="was changed"):
        part.read(0, 4)
    (directory / "model.onnx").unlink()
    with pytest.raises(InputError, match="No such file"):
        part.read(0, 4)


def test_reading_is_told_as_it_goes_on(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(bytes(3 << 20))
    told: list[int] = []
    hashed(gathered(directory), told.append)
    assert sum(told) == (3 << 20) + 4
    assert max(told) == 1 << 20


def test_the_document_of_a_golden_set_may_hold_arrays() -> None:
    x, y = np.ones((1, 2), np.float32), np.zeros((1,), np.int64)
    given = {"inputs": {"x": x}, "outputs": {"y": [0]}, "rtol": np.float64(0.5), "atol": 1e-5}
    found = json.loads(content(bundle(b"m", golden=given), "golden.json"))
    assert found == Golden({"x": x}, {"y": y}, rtol=0.5).document()
    labels = {"inputs": {"x": x}, "labels": y, "metric": "accuracy", "floor": 0.9}
    found = json.loads(content(bundle(b"m", golden=labels), "golden.json"))
    assert found == Golden({"x": x}, labels=y, floor=0.9).document()
    assert "golden: inputs: 'x': " in refused(b"m", golden={"inputs": {"x": object()}})
