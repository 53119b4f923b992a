"""Parquet, NPZ, IDX and directories of images: what is taken, and what is refused by name."""

from __future__ import annotations

import datetime
import gzip
import io
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_server.core.errors import InvalidInput, PayloadTooLarge
from tests.server.job_process.uploading import (
    idx_of,
    npz_of,
    parquet_of,
    picture,
    read,
    zip_of,
)

PNG = picture()
IMAGES = np.arange(5 * 28 * 28, dtype=np.uint8).reshape(5, 28, 28)
LABELS = np.array([3, 1, 4, 1, 5], np.uint8)
TRAIN, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def test_each_type_of_parquet_becomes_a_kind(tmp_path: Path) -> None:
    zoned = pa.timestamp("ms", "Europe/Berlin")
    found = read(
        tmp_path,
        {
            "a.parquet": parquet_of(
                {
                    "int": pa.array([1, None], pa.int8()),
                    "huge": pa.array([2**63, 1], pa.uint64()),
                    "half": pa.array(np.array([1, np.nan], np.float16)),
                    "money": [Decimal("1.5"), None],
                    "flag": [True, None],
                    "word": pa.array(["a", "b"]).dictionary_encode(),
                    "text": pa.array(["x" * 200, None], pa.large_string()),
                    "zoned": pa.array([0, 3_600_000], zoned),
                    "day": [datetime.date(2020, 1, 1), None],
                    "none": pa.nulls(2),
                    "list": [[1, 2], [3, 4]],
                    "matrix": pa.array([[[1.0, 2.0], [3.0, 4.0]]] * 2),
                    "bits": [[True, False], [False, True]],
                    "picture": [PNG, None],
                    "of others": [{"bytes": PNG, "path": "1.png"}] * 2,
                }
            )
        },
    )
    assert found.kinds == {
        "int": "integer", "huge": "number", "half": "number", "money": "number", "flag": "boolean",
        "word": "category", "text": "text", "zoned": "time", "day": "time", "none": "number",
        "list": "array", "matrix": "array", "bits": "array", "picture": "image",
        "of others": "image",
    }  # fmt: skip
    assert {n: c.missing for n, c in found.columns.items() if c.missing} == {
        "int": 1, "half": 1, "money": 1, "flag": 1, "text": 1, "day": 1, "none": 2, "picture": 1,
    }  # fmt: skip
    assert found.columns["matrix"].shape == [2, 2]
    table = found.table
    assert table["matrix"].tolist() == [[[1.0, 2.0], [3.0, 4.0]]] * 2
    assert table["zoned"].tolist() == [0, 3_600_000_000_000]
    assert table["bits"].dtype == np.uint8
    assert table["picture"].tolist() == [PNG, None]


def test_what_pandas_writes_is_read_without_its_index(tmp_path: Path) -> None:
    held = io.BytesIO()
    frame = pd.DataFrame({"a": [1, 2], "c": pd.Categorical(["x", "y"])}, index=pd.Index([5, 7]))
    frame.to_parquet(held)
    assert read(tmp_path, {"a.parquet": held.getvalue()}).kinds == {"a": "integer", "c": "category"}


TURNED: dict[str, tuple[list[Any], ColumnKind, list[Any]]] = {
    "numbers as labels": ([1, 2], "category", ["1", "2"]),
    "booleans as labels": ([True, False], "category", ["true", "false"]),
    "texts as numbers": (["1", "2.5"], "number", [1.0, 2.5]),
    "numbers as whole ones": ([1.0, 2.0], "integer", [1, 2]),
    "whole numbers as numbers": ([1, 2], "number", [1.0, 2.0]),
    "numbers as booleans": ([0, 1, None], "boolean", [False, True, None]),
    "booleans as numbers": ([True, False], "integer", [1, 0]),
}


@pytest.mark.parametrize(("values", "kind", "expected"), TURNED.values(), ids=TURNED)
def test_a_typed_column_is_read_as_another_kind(
    values: list[Any], kind: ColumnKind, expected: list[Any], tmp_path: Path
) -> None:
    found = read(tmp_path, {"a.parquet": parquet_of({"a": values})}, {"a": kind})
    assert (found.kinds["a"], found.table["a"].tolist()) == (kind, expected)


BAD_PARQUET: dict[str, tuple[dict[str, Any], dict[str, ColumnKind], str]] = {
    "ragged": ({"l": [[1, 2], [3]]}, {}, "a.parquet, row 2, column 'l': expected 2 numbers.*got 1"),
    "ragged inside": ({"l": [[[1], [2]], [[1], [2, 3]]]}, {}, "row 2, .*expected 1 numbers.*got 2"),
    "a gap in a list": ({"l": [[1, 2], [3, None]]}, {}, "row 2.*numbers throughout"),
    "no list": ({"l": [[1, 2], None]}, {}, "row 2.*expected a list of numbers, got nothing"),
    "empty lists": ({"l": pa.array([[], []], pa.list_(pa.int8()))}, {}, "got an empty list"),
    "lists of texts": ({"l": [["a"], ["b"]]}, {}, "column 'l': expected lists of numbers"),
    "no picture": ({"p": [PNG, b"hello"]}, {}, "row 2, column 'p': expected a picture"),
    "half a picture": ({"p": [PNG, PNG[:40]]}, {}, "row 2, column 'p': .*damaged or cut off"),
    "an object": ({"s": [{"a": 1}]}, {}, "column 's': expected numbers, .*struct<a: int64>"),
    "infinite": ({"f": [1.0, float("inf")]}, {}, "row 2, column 'f': expected a finite number"),
    "far away": ({"t": pa.array([2**38], pa.timestamp("s"))}, {}, "row 1.*from 1677 to 2262"),
    "no whole number": ({"a": [1.0, 1.5]}, {"a": "integer"}, "row 2.*a whole number, got 1.5"),
    "no boolean": ({"a": [0, 2]}, {"a": "boolean"}, "row 2.*expected 0 or 1, got '2'"),
    "no number": ({"a": ["1", "x"]}, {"a": "number"}, "row 2.*expected a number, got 'x'"),
    "a list as a number": ({"a": [[1]]}, {"a": "integer"}, "kind array cannot be read as integer"),
    "no rows": ({"a": pa.array([], pa.int64())}, {}, "a.parquet: expected rows, got none"),
    "no columns": ({}, {}, "at least one column"),
}


@pytest.mark.parametrize(("columns", "kinds", "message"), BAD_PARQUET.values(), ids=BAD_PARQUET)
def test_parquet_that_no_data_set_can_be_is_told_by_row_and_column(
    columns: dict[str, Any], kinds: dict[str, ColumnKind], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(tmp_path, {"a.parquet": parquet_of(columns)}, kinds)


def test_arrays_by_name_become_columns(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "a.npz": npz_of(
                x=np.arange(12, dtype=">f4").reshape(3, 2, 2),
                bits=np.ones((3, 2), bool),
                y=np.array([1, 2, 3], ">i4"),
                f=np.array([1, np.nan, 2], np.float32),
                s=np.array(["a", "b", "a"]),
                b=np.array([b"a", b"b", b"a"]),
                t=np.array(["2020-01-01", "NaT", "2020-01-03"], "M8[D]"),
                ok=np.array([True, False, True]),
            )
        },
    )
    assert found.kinds == {
        "x": "array", "bits": "array", "y": "integer", "f": "number", "s": "category",
        "b": "category", "t": "time", "ok": "boolean",
    }  # fmt: skip
    assert found.table["x"].tolist() == np.arange(12.0).reshape(3, 2, 2).tolist()
    assert (found.columns["f"].missing, found.columns["t"].missing) == (1, 1)


BAD_NPZ: dict[str, tuple[dict[str, Any], str]] = {
    "pickles": ({"x": np.array([{}], object)}, "array 'x': .*Python objects, which are not read"),
    "other lengths": ({"x": np.zeros(3), "y": np.zeros(4)}, "in 'y' as in 'x', 3, got 4"),
    "a single value": ({"x": np.array(1)}, "array 'x': expected rows, got a single value"),
    "no rows": ({"x": np.zeros((0, 3))}, "expected rows, got none"),
    "rows of nothing": ({"x": np.zeros((3, 0))}, "rows of shape .0. hold nothing"),
    "complex": ({"x": np.zeros(3, complex)}, "got complex128 of shape"),
    "infinite": ({"x": np.array([1, np.inf])}, "row 2, column 'x': expected a finite number"),
    "not UTF-8": ({"x": np.array([b"\xff"])}, "array 'x': expected UTF-8"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD_NPZ.values(), ids=BAD_NPZ)
def test_arrays_that_no_data_set_can_be_are_named(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(tmp_path, {"a.npz": npz_of(**arrays)})


def test_idx_files_are_known_by_their_names(tmp_path: Path) -> None:
    plain, packed = idx_of(IMAGES), gzip.compress(idx_of(IMAGES))
    for images, labels in ((packed, gzip.compress(idx_of(LABELS))), (plain, idx_of(LABELS))):
        found = read(tmp_path, {TRAIN_LABELS: labels, TRAIN: images})
        assert found.kinds == {"image": "array", "label": "integer"}
        assert found.columns["image"].shape == [28, 28]
        assert (found.table["image"] == IMAGES).all()
        assert found.table["label"].tolist() == LABELS.tolist()
    wide = idx_of(np.array([[1.5, -2.0]], np.float32), 13)
    assert read(tmp_path, {"images.idx": wide}).table["image"].tolist() == [[1.5, -2.0]]


HUGE = struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**31, 2**31)
BAD_IDX: dict[str, tuple[dict[str, bytes], type[Exception], str]] = {
    "cut off": ({TRAIN: idx_of(IMAGES)[:-3]}, InvalidInput, r"expected 3920 bytes .* got 3917"),
    "longer": ({TRAIN: idx_of(IMAGES) + b"x"}, InvalidInput, "got more"),
    "a broken gzip": ({TRAIN: gzip.compress(idx_of(IMAGES))[:50]}, InvalidInput, "cut off"),
    "another file": ({TRAIN: b"GIF89a"}, InvalidInput, "not an IDX file: it begins with"),
    "a half header": ({TRAIN: idx_of(IMAGES)[:9]}, InvalidInput, "cut off in its header"),
    "no role": ({"x-ubyte": idx_of(IMAGES)}, InvalidInput, "'images' or 'labels' in the name"),
    "labels alone": ({TRAIN_LABELS: idx_of(LABELS)}, InvalidInput, "an IDX file with 'images'"),
    "two of a role": (
        {TRAIN: idx_of(IMAGES), "t10k-images-idx3-ubyte": idx_of(IMAGES)},
        InvalidInput,
        "are two data sets",
    ),
    "another number": (
        {TRAIN: idx_of(IMAGES), TRAIN_LABELS: idx_of(LABELS[:4])},
        InvalidInput,
        "expected 5 labels, one for each image of .*, got 4",
    ),
    "images as labels": (
        {TRAIN: idx_of(IMAGES), TRAIN_LABELS: idx_of(IMAGES)},
        InvalidInput,
        "one label a row",
    ),
    "huge": ({TRAIN: HUGE}, PayloadTooLarge, "max_dataset_bytes"),
}


@pytest.mark.parametrize(("files", "kind", "message"), BAD_IDX.values(), ids=BAD_IDX)
def test_idx_files_that_do_not_fit_are_named(
    files: dict[str, bytes], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        read(tmp_path, files)


def test_folders_are_the_classes_of_pictures(tmp_path: Path) -> None:
    red = picture(255)
    content = zip_of(
        {
            "all/dogs/2.png": red,
            "all/cats/1.png": PNG,
            "all/cats/.DS_Store": b"",
            "__MACOSX/a/b": b"",
        }
    )
    table = read(tmp_path, {"a.zip": content}).table
    assert table["label"].tolist() == ["cats", "dogs"]
    assert table["file"].tolist() == ["all/cats/1.png", "all/dogs/2.png"]
    assert table["image"].tolist() == [PNG, red]


BAD_ZIPS: dict[str, tuple[bytes, type[Exception], str]] = {
    "out of it": (zip_of({"../a/1.png": PNG}), InvalidInput, "a path inside of the directory"),
    "absolute": (zip_of({"/a/1.png": PNG}), InvalidInput, "a path inside of the directory"),
    "of Windows": (zip_of({"a\\1.png": PNG}), InvalidInput, "a path inside of the directory"),
    "a drive": (zip_of({"c:/a/1.png": PNG}), InvalidInput, "a path inside of the directory"),
    "no class": (zip_of({"1.png": PNG}), InvalidInput, "expected CLASS/PICTURE, got '1.png'"),
    "damaged": (zip_of({"a/1.png": PNG[:40]}), InvalidInput, "a/1.png: expected a picture, got"),
    "no picture": (zip_of({"a/x.txt": b"hello"}), InvalidInput, "a/x.txt: expected a picture"),
    "nothing": (zip_of({}), InvalidInput, "expected pictures in folders by class, got none"),
    "no zip": (b"PK\3\4junk", InvalidInput, "not a .zip file that can be read"),
    "a bomb": (zip_of({"a/1.png": b"\0" * 2**24}), PayloadTooLarge, "at most 1000000 bytes"),
}


@pytest.mark.parametrize(("content", "kind", "message"), BAD_ZIPS.values(), ids=BAD_ZIPS)
def test_directories_that_cannot_be_read_name_the_picture(
    content: bytes, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        read(tmp_path, {"a.zip": content}, most=10**6)


PACKED = {
    "a.npz": npz_of(x=np.zeros((10**5, 8))),
    "a.parquet": parquet_of({"a": ["x" * 100] * 10**5}),
    "b.parquet": parquet_of({"a": pa.nulls(2 * 10**6)}),
}


@pytest.mark.parametrize("name", PACKED)
def test_what_is_small_only_as_long_as_it_is_packed_is_refused(name: str, tmp_path: Path) -> None:
    assert len(PACKED[name]) < 10**5
    with pytest.raises(PayloadTooLarge, match=rf"{name}: .*1000000 bytes.*max_dataset_bytes"):
        read(tmp_path, {name: PACKED[name]}, most=10**6)


@pytest.mark.parametrize("name", ["a.npz", "a.parquet", "a.zip"])
@pytest.mark.parametrize("content", [b"", b"junk", b"PK\3\4", b"PAR1" * 5], ids=repr)
def test_files_that_are_something_else_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=name):
        read(tmp_path, {name: content})
