"""JSON text by orjson, which reads and writes number lists several times faster.

orjson refuses `NaN` and `Infinity` on input and silently writes them as `null`, and the protocol
needs them both ways: such texts take pydantic-core's slower road, and only such texts.

Reading holds the interpreter, on whichever thread it is done, and a text of a few megabytes can be
millions of tiny lists and objects: seconds in which nobody is answered. Such texts are refused by
counting brackets and members first, which costs a millisecond a megabyte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from aiaas_client.protocol.jsontext import PYDANTIC_JSON

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_NATIVE_KINDS = "biuf"
_SMALL_TEXT = 256 * 1024  # bytes in which even the tiniest parts are soon read
MAX_PARTS = 400_000  # lists, objects and members of objects: about 100 ms of reading


class OrjsonText:
    """`JsonText` on orjson."""

    def loads(self, data: bytes | bytearray | memoryview) -> Any:
        """Parse one UTF-8 JSON text, non-finite number tokens included.

        Raises:
            ValueError: Not JSON, deeper than the parser goes, bytes left over, or too many parts.
        """
        if len(data) > _SMALL_TEXT:
            _refuse_many_parts(bytes(data))
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            text = bytes(data)
            if b"NaN" in text or b"Infinity" in text:
                return PYDANTIC_JSON.loads(text)
            raise

    def dumps(self, value: Any) -> bytes:
        """Write JSON; arrays become lists and keep their `NaN` and `Infinity`."""
        try:
            text = orjson.dumps(value, default=_plain, option=_OPTIONS)
        except TypeError as error:
            if "64-bit" not in str(error):
                raise
            return PYDANTIC_JSON.dumps(_listed(value))  # an integer of any length is JSON, too
        # A non-finite number left a `null` behind. A real null or a text that says so
        # only costs the second writing.
        return PYDANTIC_JSON.dumps(_listed(value)) if b"null" in text else text


def _refuse_many_parts(text: bytes) -> None:
    if text.count(b"[") + text.count(b"{") + text.count(b'":') > MAX_PARTS:
        raise ValueError(
            f"more than {MAX_PARTS:,} lists, objects and members; "
            "send fewer at a time, or tensors as binary data or flat lists"
        )


def _plain(value: Any) -> Any:
    """Give orjson a form it knows of what it does not: strided, rank 0 and bfloat16 arrays."""
    if isinstance(value, np.ndarray):
        return _as_list(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _listed(value: Any) -> Any:
    """Replace every array in a document by nested lists of Python numbers."""
    if isinstance(value, np.ndarray):
        return _as_list(value)
    if isinstance(value, dict):
        return {key: _listed(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(member) for member in value]
    return value.item() if isinstance(value, np.generic) else value


def _as_list(array: np.ndarray[Any, np.dtype[Any]]) -> Any:
    if array.dtype.kind in _NATIVE_KINDS or array.dtype == object:
        return array.tolist()
    return array.astype(np.float32).tolist()  # bfloat16 fits in float32 exactly


FAST_JSON = OrjsonText()
