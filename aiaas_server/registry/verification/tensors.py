"""Declared sizes of tensors against the bytes that are there, in numbers that cannot overflow."""

from __future__ import annotations

from typing import Any, Final

import onnx

from aiaas_client.protocol.tensors import element_count
from aiaas_server.core.errors import Rejected

_MAX_BYTES: Final = 2**63 - 1
_T: Final = onnx.TensorProto
_BITS: Final[dict[int, int]] = {
    number: bits
    for bits, names in (
        (2, ("UINT2", "INT2")),
        (6, ("FLOAT6E2M3", "FLOAT6E3M2")),
        (4, ("UINT4", "INT4", "FLOAT4E2M1")),
        (
            8,
            (
                "UINT8",
                "INT8",
                "BOOL",
                "FLOAT8E4M3FN",
                "FLOAT8E4M3FNUZ",
                "FLOAT8E5M2",
                "FLOAT8E5M2FNUZ",
                "FLOAT8E8M0",
            ),
        ),
        (16, ("UINT16", "INT16", "FLOAT16", "BFLOAT16")),
        (32, ("FLOAT", "INT32", "UINT32")),
        (64, ("DOUBLE", "INT64", "UINT64", "COMPLEX64")),
        (128, ("COMPLEX128",)),
    )
    for name, number in _T.DataType.items()
    if name in names
}
_TYPED: Final = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_EXTERNAL: Final = _T.EXTERNAL


def declared_bytes(tensor: Any) -> int:
    """What the dims of a tensor of numbers come to; of texts, what they take."""
    if tensor.data_type == _T.STRING:
        return sum(map(len, tensor.string_data))
    return -(-element_count(tensor.dims) * _BITS.get(tensor.data_type, 0) // 8)


def refuse_size(tensor: Any) -> None:
    """Hold the dims of a tensor against its values.

    Raises:
        Rejected: A dim is negative, the type unknown, or there are more or fewer bytes.
    """
    name = tensor.name[:64]
    if len(tensor.dims) > 64:
        raise Rejected(f"tensor '{name}': expected at most 64 dims, got {len(tensor.dims)}")
    if any(dim < 0 for dim in tensor.dims):
        raise Rejected(f"tensor '{name}': expected dims of 0 or more, got {list(tensor.dims)[:16]}")
    count = element_count(tensor.dims)
    if tensor.data_type == _T.STRING:
        if not tensor.external_data and len(tensor.string_data) != count:
            raise _misfit(name, tensor.dims, f"{count} texts", f"{len(tensor.string_data)}")
        return
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        raise Rejected(f"tensor '{name}': expected a datatype of ONNX, got {tensor.data_type}")
    size = -(-count * bits // 8)
    if size > _MAX_BYTES:
        raise Rejected(
            f"tensor '{name}': expected a size that a machine can address, got dims "
            f"{list(tensor.dims)[:16]}"
        )
    if tensor.data_location == _EXTERNAL or tensor.external_data:
        return  # held against the file that holds them
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != size:
            raise _misfit(name, tensor.dims, f"{size} bytes", f"{len(tensor.raw_data)}")
        return
    typed = sum(len(getattr(tensor, part)) for part in _TYPED)
    parts = 2 if tensor.data_type in (_T.COMPLEX64, _T.COMPLEX128) else 1
    accepted = {count * parts, size} if bits < 8 else {count * parts}
    if typed not in accepted:
        raise _misfit(name, tensor.dims, f"{count * parts} values", f"{typed}")


def _misfit(name: str, dims: Any, expected: str, got: str) -> Rejected:
    shown = list(dims)[:16]
    return Rejected(f"tensor '{name}': dims {shown}: expected {expected}, got {got}")
