"""What a caller hands in, made into exactly the tensors the model declares, or refused by name.

A value may be an array, a number, nested lists, text, anything with `__array__`, `__dlpack__` or
`to_numpy` (torch, jax, pandas, polars, PIL): none of those packages is imported here.

Casts never change a number silently. Integers and booleans go wherever every value fits exactly.
Floats go to any float type: they are rounded to nearest (numpy's own default is FP64, models want
FP32), but a finite number that would become infinite is refused. Floats never become integers.
A list that mixes integers and floats is a list of floats, as in numpy. Masked values are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aiaas_client._errors import (
    DtypeError,
    InputError,
    MissingInputError,
    ShapeError,
    UnknownInputError,
)
from aiaas_client.protocol.tensors import (
    DATATYPES,
    TensorError,
    as_bytes_elements,
    datatype_of,
    dtype_of,
    masked_values,
    object_array,
)

if TYPE_CHECKING:
    from aiaas_client.protocol.messages import ModelMetadata, TensorMetadata
    from aiaas_client.protocol.tensors import Array

NOTHING_OPTIONAL: Collection[str] = frozenset()
_MANTISSA_BITS = {"FP16": 11, "BF16": 8, "FP32": 24, "FP64": 53}


def prepare(
    metadata: ModelMetadata | None,
    inputs: Mapping[str, object],
    *,
    model: str = "",
    optional: Collection[str] = NOTHING_OPTIONAL,
    item: bool = False,
) -> dict[str, Array]:
    """Check and convert the inputs of one call, in the model's own order.

    Args:
        metadata: The model's signature; None (a server that has no such document) sends the
            values with the datatypes they have.
        inputs: Values by input name.
        model: For the messages.
        optional: Inputs that may be left out.
        item: The values are one item without batch dimension; it is added where the model has
            one (see `takes_batches`).
    Returns:
        Row-major arrays of the declared dtypes; no copy where none is needed.
    Raises:
        MissingInputError, UnknownInputError, ShapeError, DtypeError: naming the tensor, what was
            expected and what came.
    """
    if metadata is None or not metadata.inputs:
        return {name: _untyped(name, value, model, item) for name, value in inputs.items()}
    _check_names(metadata.inputs, inputs, model, optional)
    batched = item and takes_batches(metadata)
    return {
        spec.name: _tensor(spec, inputs[spec.name], model, batched)
        for spec in metadata.inputs
        if spec.name in inputs
    }


def takes_batches(metadata: ModelMetadata | None) -> bool:
    """Whether every input begins with a dimension that can stand for items (-1 or 1)."""
    if metadata is None:
        return True
    return all(spec.shape and spec.shape[0] in (-1, 1) for spec in metadata.inputs)


def bind(metadata: ModelMetadata | None, value: object, *, model: str = "") -> Mapping[str, object]:
    """Name a value given without a name.

    A mapping is taken as it is. Anything else goes to the model's only input; a data frame is
    spread by column name over the inputs of a model that has several.

    Raises:
        InputError: the model has several inputs, or no metadata tells their names.
    """
    if isinstance(value, Mapping):
        return value
    if metadata is None or not metadata.inputs:
        raise InputError(f"model {model!r}: name the inputs, its metadata does not", model=model)
    if len(metadata.inputs) == 1:
        return {metadata.inputs[0].name: value}
    if hasattr(value, "columns") and hasattr(value, "to_numpy"):
        return _columns(metadata.inputs, value)
    known = _quoted(spec.name for spec in metadata.inputs)
    raise InputError(f"model {model!r}: expected a mapping of {known}, got one value", model=model)


def bind_all(
    metadata: ModelMetadata | None,
    value: object,
    keywords: Mapping[str, object],
    *,
    model: str = "",
) -> Mapping[str, object]:
    """As `bind`, with what was given by name beside the value; None is no value.

    Raises:
        InputError: as `bind`; or an input was given twice.
    """
    if value is None:
        return keywords
    named = bind(metadata, value, model=model)
    if not keywords:
        return named
    twice = sorted(named.keys() & keywords.keys())
    if twice:
        text = f"model {model!r}: input {twice[0]!r} was given twice"
        raise InputError(text, tensor=twice[0], model=model)
    return {**named, **keywords}


def _columns(specs: Sequence[TensorMetadata], frame: Any) -> dict[str, object]:
    inputs: dict[str, object] = {str(name): frame[name].to_numpy() for name in frame.columns}
    for spec in specs:
        column = inputs.get(spec.name)
        if isinstance(column, np.ndarray) and len(spec.shape) == 2 and spec.shape[1] in (1, -1):
            inputs[spec.name] = column.reshape(-1, 1)  # (rows,) -> (rows, 1)
    return inputs


def _check_names(
    specs: Sequence[TensorMetadata],
    inputs: Mapping[str, object],
    model: str,
    optional: Collection[str],
) -> None:
    known = [spec.name for spec in specs]
    for name in inputs:
        if name not in known:
            raise UnknownInputError(
                _unknown(name, known, model),
                tensor=name,
                expected=_quoted(known),
                got=repr(name),
                model=model,
            )
    missing = [name for name in known if name not in inputs and name not in optional]
    if missing:
        came = _quoted(inputs) if inputs else "none"
        expected = _quoted(known)
        raise MissingInputError(
            f"model {model!r}: missing input {_quoted(missing)}; expected {expected}, got {came}",
            tensor=missing[0],
            expected=expected,
            got=came,
            model=model,
        )


def _unknown(name: str, known: Sequence[str], model: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"model {model!r}: unknown input {name!r}; {hint}expected {_quoted(known)}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _tensor(spec: TensorMetadata, value: object, model: str, batched: bool) -> Array:
    expected = spec.shape[1:] if batched else spec.shape
    if type(value) is np.ndarray and value.flags.c_contiguous:  # nothing to do, as a rule
        row = DATATYPES.get(spec.datatype)
        same = row is not None and row.itemsize > 0 and value.dtype == row.dtype
        if same and fits(value.shape, expected):
            return value[np.newaxis] if batched else value
    array = _as_array(spec.name, value, spec.datatype, model)
    _check_shape(spec.name, array.shape, expected, model)
    array = _cast(spec, array, model)
    return array[np.newaxis] if batched else array


def check_shapes(
    metadata: ModelMetadata | None, inputs: Mapping[str, object], *, model: str = ""
) -> None:
    """Compare the shapes of arrays with those that are declared.

    Raises:
        ShapeError: naming the tensor, what was expected and what came.
    """
    for spec in metadata.inputs if metadata is not None else ():
        value = inputs.get(spec.name)
        if isinstance(value, np.ndarray):
            _check_shape(spec.name, value.shape, spec.shape, model)


def _check_shape(name: str, shape: Sequence[int], expected: Sequence[int], model: str) -> None:
    if fits(shape, expected):
        return
    want, got = _shown(expected), _shown(shape)
    text = f"input {name!r}: expected shape {want}, got {got}"
    raise ShapeError(text, tensor=name, expected=want, got=got, model=model)


def fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether a shape is the declared one, where -1 stands for any size."""
    if len(shape) != len(expected):
        return False
    for got, want in zip(shape, expected, strict=True):  # noqa: SIM110  # no generator: each call
        if want not in (-1, got):
            return False
    return True


def _shown(shape: Sequence[int]) -> str:
    return str(tuple(int(dimension) for dimension in shape))


def _untyped(name: str, value: object, model: str, item: bool) -> Array:
    array = _as_array(name, value, "", model)
    try:
        datatype = datatype_of(array)
        if datatype == "BYTES":
            array = object_array(as_bytes_elements(array)).reshape(array.shape)
    except TensorError as error:
        raise DtypeError(f"input {name!r}: {error}", tensor=name, model=model) from None
    array = np.asarray(array, order="C")
    return array[np.newaxis] if item else array


def _as_array(name: str, value: object, datatype: str, model: str) -> Array:
    masked = _masked(value)
    if masked:
        text = f"input {name!r}: {masked} values are masked; expected an array with all filled in"
        raise DtypeError(text, tensor=name, got="masked values", model=model)
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    try:
        return _convert(value, datatype)
    except (TypeError, ValueError, RuntimeError, BufferError, OverflowError) as error:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            text = f"input {name!r}: expected lists of equal length at every level, got ragged ones"
            raise ShapeError(text, tensor=name, got="ragged lists", model=model) from error
        got = type(value).__name__
        text = f"input {name!r}: no array can be made of a {got}"
        raise DtypeError(text, tensor=name, got=got, model=model) from error


def _masked(value: object) -> int:
    """How many values of a masked array, or of a list of such, are hidden under a mask."""
    if isinstance(value, np.ndarray):
        return masked_values(value)
    if not isinstance(value, list | tuple) or not value:
        return 0
    kinds = set(map(type, value))
    if not any(issubclass(kind, np.ndarray | list | tuple) for kind in kinds):
        return 0
    return sum(map(_masked, value))


def _convert(value: Any, datatype: str) -> Array:
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # torch: off the graph and the device
        value = value.detach().cpu()
    if hasattr(value, "to_numpy"):
        return _of_frame(value)
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    if isinstance(value, str | bytes | bytearray) or datatype == "BYTES":
        return _objects(value)
    array = np.asarray(value)
    if array.dtype.kind in "SUO":  # numpy's fixed-width text would cut trailing zero bytes
        return _objects(value)
    return _unrounded(array, _objects(value)) if _has_huge(array) else array


def _has_huge(array: Array) -> bool:
    """Whether numpy may have made floats of integers below and above 2**63, which it rounds."""
    if array.dtype != np.float64 or not array.size:
        return False
    with np.errstate(invalid="ignore"):
        return bool((np.abs(array) >= 2.0**63).any())


def _unrounded(array: Array, objects: Array) -> Array:
    """The array, or the integers that it was made of."""
    elements = objects.reshape(-1).tolist()
    whole = all(isinstance(element, int | np.integer) for element in elements)
    return _integers(elements).reshape(objects.shape) if whole else array


def _of_frame(value: Any) -> Array:
    """A column or a frame of pandas, polars and their kin.

    A frame of signed and unsigned columns would come as floats.
    """
    array = np.asarray(value.to_numpy())
    if array.dtype != np.float64 or not hasattr(value, "columns"):
        return array
    columns = [np.asarray(value[name].to_numpy()) for name in value.columns]
    if any(column.ndim != 1 or column.dtype.kind not in "biu" for column in columns):
        return array
    return _unrounded(array, np.stack([c.astype(object) for c in columns], axis=1))


def _objects(value: Any) -> Array:
    array = np.array(value, dtype=object)
    if any(isinstance(element, list | tuple | np.ndarray) for element in array.flat):
        raise ValueError("ragged")
    return array


def _cast(spec: TensorMetadata, array: Array, model: str) -> Array:
    if spec.datatype == "BYTES":
        return _to_bytes(spec, array, model)
    try:
        target = dtype_of(spec.datatype)
    except TensorError as error:
        raise DtypeError(
            f"input {spec.name!r}: {error}", tensor=spec.name, expected=spec.datatype, model=model
        ) from None
    if array.dtype == target:
        return np.asarray(array, order="C")
    if array.dtype == object:
        array = _numbers(spec, array, model)
    if array.size == 0 and array.dtype == np.float64:
        return np.zeros(array.shape, target)  # what numpy makes of an empty list
    return _lossless(spec, array, target, model)


def _to_bytes(spec: TensorMetadata, array: Array, model: str) -> Array:
    if array.dtype.kind not in "OSUT":
        raise _wrong_dtype(spec, array, model)
    try:
        elements = as_bytes_elements(array)
    except TensorError as error:
        raise DtypeError(
            f"input {spec.name!r}: {error}", tensor=spec.name, expected=spec.datatype, model=model
        ) from None
    return object_array(elements).reshape(array.shape)


def _numbers(spec: TensorMetadata, array: Array, model: str) -> Array:
    """An object array, such as a data frame's mixed columns, as numbers.

    Integers that no type of numpy holds together stay objects.
    """
    try:
        numbers = _unrounded(np.asarray(array.tolist()), array)
    except (TypeError, ValueError, OverflowError):
        numbers = array
    huge = numbers.dtype == object and all(isinstance(n, int) for n in numbers.flat)
    if not (numbers.dtype.kind in "biuf" or huge) or numbers.shape != array.shape:
        raise _wrong_dtype(spec, array, model)
    return numbers


def _integers(elements: list[Any]) -> Array:
    if set(map(type, elements)) <= {bool, np.bool_}:
        return np.array(elements, np.bool_)
    for dtype in (np.int64, np.uint64):
        try:
            return np.array(elements, dtype)
        except OverflowError:
            continue
    return object_array([int(element) for element in elements])


def _lossless(spec: TensorMetadata, array: Array, target: np.dtype[Any], model: str) -> Array:
    have, want = _kind(array.dtype), _kind(target)
    if have == "O":  # integers, see `_numbers`
        have = "i"
    if have not in "biuf" or (have == "f" and want != "f"):
        raise _wrong_dtype(spec, array, model)
    if have == "f":
        return _round(spec, array, target, model)
    if have != "b" and array.size and not _holds(spec.datatype, want, target, array):
        low, high = int(array.min()), int(array.max())
        kind = "integers" if array.dtype == object else str(array.dtype)
        span = f"{kind} with values from {low} to {high}, which do not all fit exactly"
        raise _dtype_error(spec, span, model)
    return array.astype(target, order="C")


def _kind(dtype: np.dtype[Any]) -> str:
    return "f" if dtype.name == "bfloat16" else dtype.kind


def _holds(datatype: str, kind: str, target: np.dtype[Any], array: Array) -> bool:
    """Whether every integer of a non-empty array has an exact place in the target type."""
    low, high = int(array.min()), int(array.max())
    if kind == "b":
        return low >= 0 and high <= 1
    if kind == "f":
        return _exact(datatype, target, array, max(-low, high))
    bounds = np.iinfo(target)
    return int(bounds.min) <= low and high <= int(bounds.max)


def _exact(datatype: str, target: np.dtype[Any], array: Array, largest: int) -> bool:
    if largest <= 1 << _MANTISSA_BITS[datatype]:
        return True
    with np.errstate(over="ignore"):
        cast = array.astype(target).astype(np.float64)
    if not np.isfinite(cast).all():
        return False
    pairs = zip(cast.flat, array.flat, strict=True)
    return all(int(got) == int(want) for got, want in pairs)


def _round(spec: TensorMetadata, array: Array, target: np.dtype[Any], model: str) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        cast = array.astype(target, order="C")
    if np.isinf(cast).sum() != np.isinf(array).sum():
        largest = float(np.abs(array[np.isfinite(array)]).max())
        out = f"{array.dtype} with {largest:g}, which is out of its range"
        raise _dtype_error(spec, out, model)
    return cast


def _wrong_dtype(spec: TensorMetadata, array: Array, model: str) -> DtypeError:
    got = str(array.dtype)
    if array.dtype == object:
        kinds = sorted({type(element).__name__ for element in array.flat})
        got = f"objects ({', '.join(kinds[:4])})"
    elif array.dtype.kind in "SUT":
        got = "text"
    return _dtype_error(spec, got, model)


def _dtype_error(spec: TensorMetadata, got: str, model: str) -> DtypeError:
    return DtypeError(
        f"input {spec.name!r}: expected {spec.datatype}, got {got}",
        tensor=spec.name,
        expected=spec.datatype,
        got=got,
        model=model,
    )
