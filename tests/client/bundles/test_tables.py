"""What becomes a data set: the files that are sent, and what is refused before anything is."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client import InputError, MissingFileError
from aiaas_client._bundles.bundle import hashed
from aiaas_client._bundles.tables import gathered


def contents(source: Any, scratch: Path) -> dict[str, bytes]:
    """The files by name; each upload has a directory of its own."""
    scratch.mkdir(exist_ok=True)
    parts = gathered(source, scratch)
    return {name: part.read(0, part.length()) for name, part in parts.items()}


def pictures(root: Path) -> Path:
    for name in ("cat/b.png", "cat/a.PNG", "dog/deep/c.jpg"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 50)
    (root / "README.txt").write_text("how these were taken")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"x")
    return root


def test_a_file_goes_as_it_is_under_a_plain_name(tmp_path: Path) -> None:
    path = tmp_path / "my data (1).csv"
    path.write_text("a,b\n1,2\n")
    assert contents(path, tmp_path / "s") == {"my-data-1-.csv": b"a,b\n1,2\n"}
    assert contents(str(path), tmp_path / "s") == contents([path], tmp_path / "s")


def test_idx_files_are_called_by_what_they_hold(tmp_path: Path) -> None:
    images, labels = tmp_path / "t10k.gz", tmp_path / "y"
    images.write_bytes(gzip.compress(b"images"))
    labels.write_bytes(b"labels")
    found = gathered({"images": images, "labels": str(labels)}, tmp_path)
    assert {name: part.place for name, part in found.items()} == {
        "images.idx.gz": images,
        "labels.idx": labels,
    }


def test_arrays_become_one_npz_with_equal_bytes_for_equal_arrays(tmp_path: Path) -> None:
    arrays = {"x": np.arange(6.0).reshape(3, 2), "y": ["a", "b", "c"], "ok": [True, False, True]}
    (name, content), *others = contents(arrays, tmp_path / "one").items()
    assert (name, others) == ("data.npz", [])
    found = np.load(io.BytesIO(content))
    assert found["x"].tolist() == arrays["x"].tolist()  # type: ignore[attr-defined]
    assert found["y"].tolist() == ["a", "b", "c"]
    assert contents(arrays, tmp_path / "two") == {name: content}


@pytest.mark.parametrize("backend", ["pandas", "polars"])
def test_frames_become_parquet(tmp_path: Path, backend: str) -> None:
    library = pytest.importorskip(backend)
    frame = library.DataFrame({"a": [1, 2], "text": ["x", None]})
    (content,) = contents(frame, tmp_path / "s").values()
    again = library.read_parquet(io.BytesIO(content))
    assert list(again.columns) == ["a", "text"]
    assert again["a"].to_list() == [1, 2]
    assert contents(frame, tmp_path / "t")["data.parquet"] == content


def test_the_index_of_a_frame_is_left_out(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2]}, index=[10, 20])
    content = contents(frame, tmp_path / "s")["data.parquet"]
    assert list(pd.read_parquet(io.BytesIO(content)).columns) == ["a"]


def test_a_directory_becomes_one_zip_the_same_each_time(tmp_path: Path) -> None:
    root = pictures(tmp_path / "animals")
    first = gathered(root, tmp_path)
    archive = zipfile.ZipFile(tmp_path / "images.zip")
    assert archive.namelist() == ["cat/a.PNG", "cat/b.png", "dog/deep/c.jpg"]
    assert {one.compress_type for one in archive.infolist()} == {zipfile.ZIP_STORED}
    assert archive.read("dog/deep/c.jpg") == b"dog/deep/c.jpg" * 50
    before = hashed(first).digest
    for path in root.rglob("*.*"):
        path.touch()  # another time of change
    assert hashed(gathered(root, tmp_path)).digest == before


def test_links_that_lead_out_of_a_directory_are_refused(tmp_path: Path) -> None:
    root = pictures(tmp_path / "animals")
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (root / "cat" / "z.png").symlink_to(root / "cat" / "b.png")  # inside: fine
    gathered(root, tmp_path)
    (root / "cat" / "out.png").symlink_to(secret)
    with pytest.raises(InputError, match=r"out\.png'.*not followed"):
        gathered(root, tmp_path)
    (root / "cat" / "out.png").unlink()
    (root / "bird").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"bird'.*not followed"):
        gathered(root, tmp_path)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (5, "data: expected a pandas or polars frame, .*got int"),
        ([], "got nothing in it"),
        ({"x": [[1], [1, 2]]}, "column 'x'"),
        ({"x": [1, 2], "y": [1]}, "as many rows in each column: 'x' has 2, 'y' has 1"),
        ({"x": [object()]}, "column 'x': expected an array of numbers"),
        ({"x": np.float64(1)}, "column 'x'.*rows first"),
        ({"pictures": "a", "labels": "b"}, "expected paths of images and labels, got 'pictures'"),
        ([5], "expected the path of a file, got int"),
        (["a.csv"] * 9, "no file or directory 'a.csv'"),
    ],
)
def test_what_is_no_table_is_refused(source: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=text):
        gathered(source, tmp_path)


def test_files_that_are_not_right_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere.csv"):
        gathered(tmp_path / "nowhere.csv", tmp_path)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match=r"empty\.csv' is empty"):
        gathered(tmp_path / "empty.csv", tmp_path)
    (tmp_path / "flat").mkdir()
    with pytest.raises(InputError, match="expected a folder of them for each class"):
        gathered(tmp_path / "flat", tmp_path)
    (tmp_path / "flat" / "1.png").write_bytes(b"x")
    with pytest.raises(InputError, match="in a folder that is called as its class"):
        gathered(tmp_path / "flat", tmp_path)
    with pytest.raises(InputError, match="expected a file, got the directory"):
        gathered([tmp_path / "flat"], tmp_path)


def test_frames_that_no_table_can_be_are_refused(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    with pytest.raises(InputError, match="two columns 'a'"):
        gathered(pd.DataFrame([[1, 2]], columns=["a", "a"]), tmp_path)
    with pytest.raises(InputError, match="no column"):
        gathered(pd.DataFrame(), tmp_path)
    with pytest.raises(InputError, match="cannot be written as Parquet"):
        gathered(pd.DataFrame({"a": [1, "x"]}), tmp_path)
