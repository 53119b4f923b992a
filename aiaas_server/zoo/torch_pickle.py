"""Read the arrays of a PyTorch checkpoint without PyTorch, and without trusting it.

A legacy file is five pickles (magic number, protocol, system, objects, storage keys) and then the
raw bytes of each storage; a newer one is a zip of one pickle and a file for each storage. A pickle
can name any function to call; this reader knows the few names that rebuild tensors and refuses
every other.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_state_dict(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a checkpoint by name, as arrays of their own shape.

    Raises:
        pickle.UnpicklingError: Not such a file, truncated, or naming something else than tensors.
    """
    if content.startswith(b"PK"):
        return _read_zip(content)
    file = io.BytesIO(content)
    if (magic := _Reader(file).load()) != MAGIC:
        raise pickle.UnpicklingError(f"expected a legacy PyTorch checkpoint, got magic {magic!r}")
    _Reader(file).load()
    _Reader(file).load()
    tensors: Mapping[str, Tensor] = _Reader(file).load()
    dtypes = {t.storage.key: t.storage.dtype for t in tensors.values()}
    keys: list[str] = _Reader(file).load()
    storages = {key: _read_storage(file, dtypes[key]) for key in keys}
    return {name: _array(tensor, storages) for name, tensor in tensors.items()}


def _read_zip(content: bytes) -> dict[str, npt.NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (objects,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        folder = objects.removesuffix("data.pkl")
        tensors: Mapping[str, Tensor] = _Reader(io.BytesIO(archive.read(objects))).load()
        kinds = {t.storage.key: t.storage.dtype for t in tensors.values()}
        storages = {
            key: np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)
            for key, dtype in kinds.items()
        }
    return {name: _array(tensor, storages) for name, tensor in tensors.items()}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a checkpoint")

    def persistent_load(self, pid: Any) -> Storage:
        _kind, dtype, key, *_rest = pid
        return Storage(key, dtype)


def _rebuild_tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_rest: Any
) -> Tensor:
    return Tensor(storage, offset, tuple(shape), tuple(stride))


def _read_storage(file: io.BytesIO, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    (count,) = struct.unpack("<q", file.read(8))
    raw = file.read(count * dtype.itemsize)
    if len(raw) != count * dtype.itemsize:
        raise pickle.UnpicklingError(f"expected {count * dtype.itemsize} bytes, got {len(raw)}")
    return np.frombuffer(raw, dtype)


def _array(tensor: Tensor, storages: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    values = storages[tensor.storage.key]
    steps = [(n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True)]
    if min([tensor.offset, *steps]) < 0 or tensor.offset + sum(steps) >= len(values):
        raise pickle.UnpicklingError(f"tensor of shape {tensor.shape} reaches out of its storage")
    strides = [s * values.itemsize for s in tensor.stride]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides).copy()
