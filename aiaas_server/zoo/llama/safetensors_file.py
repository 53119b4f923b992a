"""Tensors of safetensors files, read where they lie: one file, or shards with an index.

A file is the length of its header as 8 bytes, the header in JSON (`name -> dtype, shape,
data_offsets`), then the numbers, little endian. Every place is checked against the file's size.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.zoo.llama.checkpoint import Weight
from aiaas_server.zoo.llama.config import UnusableCheckpoint

INDEX: Final = "model.safetensors.index.json"
# bfloat16 is the upper half of a float32.
DTYPES: Final = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
MOST_HEADER: Final = 100 << 20  # bytes; what the format's own reader takes


@dataclass(frozen=True, slots=True)
class _Tensor:
    path: Path
    offset: int
    kind: str
    shape: tuple[int, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        stored = np.dtype(DTYPES[self.kind])
        numbers: Array = np.fromfile(
            self.path, stored, count=math.prod(self.shape), offset=self.offset
        ).reshape(self.shape)
        if self.kind == "BF16":
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        return numbers.astype(dtype or np.float32, copy=False)


def read_tensors(directory: Path) -> dict[str, Weight]:
    """All tensors of a directory's `model.safetensors`, or of the shards that its index names.

    Raises:
        UnusableCheckpoint: There are none, or a file is damaged.
    """
    if (directory / INDEX).is_file():
        places = _index(directory / INDEX)
        shards = {shard: _tensors(directory / shard) for shard in set(places.values())}
        missing = [name for name, shard in places.items() if name not in shards[shard]]
        if missing:
            raise UnusableCheckpoint(f"tensor '{missing[0]}' is not in {places[missing[0]]}")
        return {name: shards[shard][name] for name, shard in places.items()}
    if (directory / "model.safetensors").is_file():
        return _tensors(directory / "model.safetensors")
    raise UnusableCheckpoint(f"expected model.safetensors or {INDEX} in {directory.name}")


def _index(path: Path) -> dict[str, str]:
    try:
        places = json.loads(path.read_text("utf-8"))["weight_map"]
        return {str(name): _plain(shard) for name, shard in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableCheckpoint(f"{path.name}: {error}") from None


def _plain(name: Any) -> str:
    if not isinstance(name, str) or Path(name).name != name:
        raise UnusableCheckpoint(f"{INDEX}: expected plain file names, got {str(name)[:60]!r}")
    return name


def _tensors(path: Path) -> dict[str, Weight]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(MOST_HEADER, size - 8):
                raise UnusableCheckpoint(f"{path.name}: a header of {length} bytes in {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: _tensor(path, name, told, 8 + length) for name, told in header.items()}
    except FileNotFoundError:
        raise UnusableCheckpoint(f"{path.name} is missing") from None
    except UnusableCheckpoint:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableCheckpoint(f"{path.name} is no safetensors file: {error}") from None


def _tensor(path: Path, name: str, told: dict[str, Any], base: int) -> _Tensor:
    kind = told["dtype"]
    if kind not in DTYPES:
        raise UnusableCheckpoint(
            f"tensor '{name}': expected one of {', '.join(DTYPES)}, got {str(kind)[:20]}"
        )
    shape = tuple(int(n) for n in told["shape"])
    begin, end = (int(n) for n in told["data_offsets"])
    wanted = math.prod(shape) * np.dtype(DTYPES[kind]).itemsize
    if min((begin, *shape), default=0) < 0 or end - begin != wanted:
        raise UnusableCheckpoint(
            f"tensor '{name}': expected {wanted} bytes for {shape}, got {end - begin}"
        )
    if base + end > (size := path.stat().st_size):
        raise UnusableCheckpoint(f"{path.name} ends at {size}, within tensor '{name}'")
    return _Tensor(path, base + begin, kind, shape)
