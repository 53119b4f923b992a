"""What a person hands to `predict`, as the JSON instance that travels.

Text stays text. Files come as `Path`, bytes, PIL images, or arrays: uint8 of two or three
dimensions is a picture and travels as PNG, `(samples, rate)` is a recording and travels as WAV.
Records come as mappings or pandas rows, rows of values as lists or one-dimensional arrays. Dates
and times travel as ISO 8601 texts, missing values as null.

A PIL image has the answer of its file: it is turned upright before its EXIF data is lost.
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
from typing import Any, Protocol

import numpy as np

from aiaas_client._errors import InputError
from aiaas_client.protocol import pictures
from aiaas_client.protocol.tensors import Array, masked_values

LARGE_FILE = 1 << 20  # bytes from which base64 inside JSON is not worth its cost
SLOW_BYTES = 64 << 10
MOST_CHANNELS = 8
HIGHEST_RATE = 192_000  # samples a second
# Floats are samples from -1 to 1; resampling overshoots a little. Larger ones are of another scale.
LOUDEST = 2.0
MOST_WAV_BYTES = 2**32 - 64
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})  # as they are
ACCEPTED = (
    "text, bytes, a Path, a PIL image, an array, (samples, rate), a record or a list of values"
)


class HasArray(Protocol):
    """numpy arrays, PIL images and what else describes its memory so."""

    @property
    def __array_interface__(self) -> Any: ...


# One payload, and many of them: a list of numbers is one record.
Payload = (
    str | bytes | PathLike[str] | Mapping[str, Any] | list[float] | HasArray | tuple[Array, int]
)
Payloads = (
    list[str]
    | list[bytes]
    | list[Path]
    | list[PathLike[str]]
    | list[dict[str, Any]]
    | list[list[float]]
)


def is_many(value: object) -> bool:
    """Whether it is a list of payloads, or a frame or array of rows, instead of one payload."""
    if is_frame(value):
        return True
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8:
            return value.ndim == 4
        return value.ndim == 2 or (value.ndim == 1 and value.dtype.kind in "OUST")
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
    names = [str(name) for name in frame.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the frame has two columns '{twice}'; a record has one value a name")
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
    if isinstance(value, tuple) and value:
        value = value[0]  # of (samples, rate)
    size = len(value) if isinstance(value, bytes) else getattr(value, "nbytes", 0)
    return size > SLOW_BYTES or hasattr(value, "getbands")


def _plain(value: Any) -> Any:
    """Its JSON form; files become `{"b64": text}`."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return {"b64": base64.b64encode(bytes(value)).decode("ascii")}
    if isinstance(value, PathLike):
        return _plain(Path(value).read_bytes())
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, np.generic):
        return _array(np.asarray(value))
    if isinstance(value, tuple) and len(value) == 2:
        file = recording(*value)
        if file is not None:
            return _plain(file)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _foreign(value)


def _foreign(value: Any) -> Any:
    """Objects of other libraries, told by what they can do."""
    if hasattr(value, "save") and hasattr(value, "getbands"):  # PIL
        return _plain(_png_of(value))
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


def _png_of(image: Any) -> bytes:
    """A PNG file with what the image's own file would show."""
    buffer = io.BytesIO()
    try:
        deep = pictures.is_deep(image)
        turned = pictures.upright(image)
        if turned is not image:  # nothing may turn it again
            turned.info = {k: v for k, v in turned.info.items() if k == "transparency"}
        if turned.mode not in PNG_MODES:
            turned = pictures.flat_rgb(turned, deep=deep)
        turned.save(buffer, "PNG", compress_level=1)
    except Exception as error:  # pillow raises whatever a damaged file made it stumble on
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"the picture cannot be sent: {reason}") from error
    return buffer.getvalue()


def _array(array: Array) -> Any:
    if hidden := masked_values(array):
        raise InputError(f"{hidden} of {array.size} values are masked; fill them in first")
    array = np.asarray(array)
    if array.dtype == np.uint8 and array.ndim in (2, 3):
        return _plain(png(array))
    if array.dtype.kind == "M":
        return _dates(np.datetime_as_string(array).tolist())
    if array.dtype.kind in "mcV":
        raise InputError(f"got an array of {array.dtype}; accepted: {ACCEPTED}")
    return _plain(array.tolist())


def _dates(texts: Any) -> Any:
    if isinstance(texts, list):
        return [_dates(text) for text in texts]
    return None if texts == "NaT" else texts


def recording(samples: Any, rate: Any) -> bytes | None:
    """The WAV file of `(samples, rate)`; None when the pair is none, but two values of a row."""
    if _is_number(samples) and isinstance(rate, np.ndarray) and rate.ndim:
        raise InputError("recording: expected (samples, rate), got (rate, samples)")
    if not hasattr(samples, "__array__") or not getattr(samples, "shape", ()):
        return None
    try:
        whole = int(rate)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if whole != rate:
        raise InputError(f"recording: expected a whole number of samples a second, got {rate!r}")
    return wav(np.asanyarray(samples), whole)


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

    Floats a little above 1 (up to 2) are clipped.

    Raises:
        InputError: Another shape, datatype or scale, or a rate that nothing is recorded at.
    """
    _check_shape(samples, rate)
    whole = _sixteen_bits(samples)
    channels = 1 if whole.ndim == 1 else whole.shape[1]
    if whole.nbytes > MOST_WAV_BYTES:
        raise InputError(f"recording: {whole.nbytes:,} bytes of samples are no WAV file")
    data = np.ascontiguousarray(whole, "<i2").tobytes()
    block = 2 * channels
    head = struct.pack("<4sI8sIHHIIHH", b"RIFF", 36 + len(data), b"WAVEfmt ", 16, 1, channels,
                       rate, rate * block, block, 16)  # fmt: skip
    return head + struct.pack("<4sI", b"data", len(data)) + data


def _check_shape(samples: Array, rate: int) -> None:
    channels = samples.shape[1] if samples.ndim == 2 else 1
    if samples.ndim in (1, 2) and 1 <= channels <= MOST_CHANNELS and 1 <= rate <= HIGHEST_RATE:
        if samples.shape[0] == 0:
            raise InputError("recording: expected 1 sample or more, got none")
        return
    turned = samples.ndim == 2 and samples.shape[0] <= MOST_CHANNELS < channels
    hint = "; this looks like (channels, samples): hand in its transpose, .T" if turned else ""
    raise InputError(
        f"recording: expected (samples,) or (samples, channels) of up to {MOST_CHANNELS} channels "
        f"and a rate of 1 to {HIGHEST_RATE:,}, got {samples.shape} at {rate}{hint}"
    )


def _sixteen_bits(samples: Array) -> Array:
    if hidden := masked_values(samples):
        raise InputError(f"recording: {hidden} samples are masked")
    samples = np.asarray(samples)
    if samples.dtype.kind == "i" and samples.dtype.itemsize == 2:
        return samples
    if samples.dtype.kind != "f":
        raise InputError(f"recording: expected floats or int16, got {samples.dtype}")
    if not np.isfinite(samples).all():
        raise InputError("recording: samples must be finite")
    loudest = float(np.abs(samples).max())
    if loudest > LOUDEST:
        raise InputError(
            f"recording: expected floats from -1 to 1, got {loudest:,g}; "
            "divide samples of int16 size by 32,768, or hand them in as int16"
        )
    wide = samples.astype(np.result_type(samples, np.float32), copy=False)  # float16 has 11 bits
    whole: Array = np.round(np.clip(wide, -1, 1) * 32767).astype("<i2")
    return whole


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
