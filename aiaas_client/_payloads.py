"""What a person hands to `predict`, as the JSON instance that travels.

Text stays text. Files come as `Path`, bytes, PIL images, or arrays: uint8 of two or three
dimensions is a picture and travels as PNG, `(samples, rate)` is a recording and travels as WAV.
Records come as mappings or pandas rows, rows of values as lists or one-dimensional arrays.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from aiaas_client._errors import InputError
from aiaas_client.protocol.tensors import Array

LARGE_FILE = 1 << 20  # bytes from which base64 inside JSON is not worth its cost
SLOW_BYTES = 64 << 10
ACCEPTED = (
    "text, bytes, a Path, a PIL image, an array, (samples, rate), a record or a list of values"
)


def is_many(value: object) -> bool:
    """Whether it is a list of payloads, or a frame or array of rows, instead of one payload."""
    if is_frame(value):
        return True
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8:
            return value.ndim == 4
        return value.ndim == 2 or (value.ndim == 1 and value.dtype.kind in "OUS")
    if not isinstance(value, list) or not value:
        return False
    return not any(item is None or _is_number(item) for item in value)


def is_frame(value: object) -> bool:
    """Whether it is a pandas or polars frame."""
    return hasattr(value, "columns") and (hasattr(value, "to_dicts") or hasattr(value, "to_dict"))


def records_of(frame: Any) -> list[dict[str, Any]]:
    """The rows of a frame as records."""
    if hasattr(frame, "to_dicts"):
        rows: list[dict[str, Any]] = frame.to_dicts()  # polars
        return rows
    records: list[dict[str, Any]] = frame.to_dict("records")
    return records


def payloads_of(values: Any) -> Iterator[Any]:
    """The payloads of any iterable, the rows of a frame."""
    if isinstance(values, str | bytes | Mapping):
        kind = type(values).__name__
        raise InputError(f"expected many payloads, got one {kind}: use predict for it")
    return iter(records_of(values) if is_frame(values) else values)


def encode(value: Any, *, files: bool = False) -> bytes:
    """The JSON text of one payload.

    Args:
        value: The payload.
        files: A text is the path of a file, since the model takes pictures, sound or files.
    Raises:
        InputError: Nothing that can be sent; the message says what can.
        OSError: The file cannot be read.
    """
    plain = _plain(Path(value) if files and isinstance(value, str) else value)
    try:
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise InputError("the text holds half of a character (a lone surrogate)") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be sent: {error}; accepted: {ACCEPTED}") from None


def file_of(value: Any, *, files: bool = False) -> bytes | None:
    """The bytes of a payload that is a large file: they travel as they are. None for any other.

    Raises:
        OSError: The file cannot be read.
    """
    if files and isinstance(value, str):
        value = Path(value)
    if isinstance(value, PathLike):
        path = Path(value)
        return path.read_bytes() if path.stat().st_size >= LARGE_FILE else None
    if isinstance(value, bytes | bytearray | memoryview) and len(value) >= LARGE_FILE:
        return bytes(value)
    return None


def is_slow(value: Any, *, files: bool = False) -> bool:
    """Whether making its bytes reads a disk or takes long: not for an event loop."""
    if isinstance(value, PathLike) or (files and isinstance(value, str)):
        return True
    size = len(value) if isinstance(value, bytes) else getattr(value, "nbytes", 0)
    return size > SLOW_BYTES or hasattr(value, "getbands")


def _plain(value: Any) -> Any:
    """Its JSON form; files become `{"b64": text}`."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return {"b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, PathLike):
        return _plain(Path(value).read_bytes())
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], np.ndarray):
        return _plain(wav(value[0], int(value[1])))
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _foreign(value)


def _foreign(value: Any) -> Any:
    """Objects of other libraries, told by what they can do."""
    if hasattr(value, "save") and hasattr(value, "getbands"):  # PIL
        buffer = io.BytesIO()
        picture = value if value.mode in ("RGB", "RGBA", "L") else value.convert("RGB")
        picture.save(buffer, "PNG")
        return _plain(buffer.getvalue())
    if hasattr(value, "isoformat"):  # dates, and pandas' NaT
        text = value.isoformat()
        return None if text == "NaT" else text
    if hasattr(value, "to_dict"):  # a row of pandas
        return _plain(value.to_dict())
    if hasattr(value, "__array__"):
        return _array(np.asarray(value))
    if type(value).__name__ == "NAType":
        return None
    raise InputError(f"got {type(value).__name__}; accepted: {ACCEPTED}")


def _array(array: Array) -> Any:
    if array.dtype == np.uint8 and array.ndim in (2, 3):
        return _plain(png(array))
    if array.ndim == 0:
        return _plain(array.item())
    return [_plain(item) for item in array.tolist()]


def png(pixels: Array) -> bytes:
    """A PNG file of uint8 pixels: `(height, width)`, `(height, width, 1)`, `3` or `4`.

    Raises:
        InputError: Another shape.
    """
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    colour = {1: 0, 3: 2, 4: 6}.get(shape[-1] if len(shape) == 3 else 0)
    if colour is None or 0 in shape:
        raise InputError(
            f"picture: expected uint8 (height, width[, 1, 3 or 4]), got {pixels.shape}"
        )
    height, width, channels = shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter, none
    rows[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        check = struct.pack(">I", zlib.crc32(kind + data))
        parts += [struct.pack(">I", len(data)), kind, data, check]
    return b"".join(parts)


def wav(samples: Array, rate: int) -> bytes:
    """A WAV file of 16 bits: samples `(n,)` or `(n, channels)`, floats -1 to 1 or int16.

    Raises:
        InputError: Another shape or datatype, or a rate below 1.
    """
    if samples.ndim not in (1, 2) or rate < 1:
        raise InputError(
            f"recording: expected (n,) or (n, channels) and a rate of 1 or more, "
            f"got {samples.shape} at {rate}"
        )
    if samples.dtype.kind == "f":
        if not np.isfinite(samples).all():
            raise InputError("recording: samples must be finite")
        samples = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2")
    elif samples.dtype != np.int16:
        raise InputError(f"recording: expected floats or int16, got {samples.dtype}")
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    data = np.ascontiguousarray(samples, "<i2").tobytes()
    block = 2 * channels
    head = struct.pack("<4sI8sIHHIIHH", b"RIFF", 36 + len(data), b"WAVEfmt ", 16, 1, channels,
                       rate, rate * block, block, 16)  # fmt: skip
    return head + struct.pack("<4sI", b"data", len(data)) + data


def append_columns(frame: Any, columns: Mapping[str, Sequence[Any]]) -> Any:
    """A copy of a pandas or polars frame with more columns.

    Raises:
        InputError: The frame has a column of that name already.
    """
    taken = [name for name in columns if name in list(frame.columns)]
    if taken:
        raise InputError(f"the frame has a column '{taken[0]}' already; choose another prefix")
    if hasattr(frame, "hstack"):  # polars
        return frame.hstack(type(frame)(dict(columns)))
    return frame.assign(**{name: list(values) for name, values in columns.items()})


def scalar_fields(prediction: Any) -> dict[str, Any]:
    """The fields of a prediction that fit into a cell of a table."""
    fields: dict[str, Any] = {}
    for name, value in prediction:
        if isinstance(value, str | bool | int | float):
            fields[name] = value
        elif name == "vector":
            fields[name] = list(value)
        elif name == "values":
            fields |= {str(key): number for key, number in value.items()}
    return fields


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_)
