"""`aiaas infer MODEL x=1,2,3`: tensors from the command line or from files, a table or JSON out."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aiaas_client._api.inference import InferResult
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import (
    AsJson,
    ModelName,
    Version,
    client_of,
    print_json,
)
from aiaas_client._errors import NotSupportedError
from aiaas_client._models.model import Model
from aiaas_client.protocol.messages import ModelMetadata, TensorMetadata
from aiaas_client.protocol.tensors import Array, datatype_of
from aiaas_client.protocol.texts import decode_text


def infer(
    model: ModelName,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="x=1,2,3 or x='[[1, 2]]' or x=@array.npy or x=@values.json or text=@notes.txt"
        ),
    ] = None,
    version: Version = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the outputs to this .npz file.")
    ] = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Run a model once on values from the command line or from files."""
    with client_of(server) as client:
        handle = client.model(model, version)
        result = handle.infer(_read_inputs(inputs or [], _specs(handle)))
        if output is not None:
            _write_npz(output, result)
    if as_json:
        print_json(_as_document(result))
    else:
        Console().print(_result_table(result))


def _specs(handle: Model) -> Mapping[str, TensorMetadata]:
    try:
        metadata: ModelMetadata = handle.metadata()
    except NotSupportedError:
        return {}
    return {spec.name: spec for spec in metadata.inputs}


def _read_inputs(
    arguments: Sequence[str], specs: Mapping[str, TensorMetadata]
) -> dict[str, object]:
    inputs: dict[str, object] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            raise UseError(f"expected NAME=VALUE or NAME=@FILE, got {argument!r}")
        if name in inputs:
            raise UseError(f"input {name!r} was given twice")
        inputs[name] = _value(name, text, specs.get(name))
    return inputs


def _value(name: str, text: str, spec: TensorMetadata | None) -> object:
    if not text.startswith("@"):
        return _shaped(_parsed(name, text, spec), spec)
    path = Path(text[1:])
    if not path.is_file():
        raise UseError(f"input {name!r}: no file {str(path)!r}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(_READERS)
        raise UseError(f"input {name!r}: expected a file of {known}, got {path.name!r}")
    try:
        return _with_batch(reader(path), spec)
    except (ValueError, EOFError, RecursionError) as error:
        raise UseError(f"input {name!r}: {path.name}: {error}") from None


def _read_npy(path: Path) -> object:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("expected one array, got an archive of several")
    return array


def _read_json(path: Path) -> object:
    return json.loads(decode_text(path.read_bytes()))


def _read_text(path: Path) -> object:
    return [decode_text(path.read_bytes())]


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".npy": _read_npy,
    ".json": _read_json,
    ".txt": _read_text,
}


def _parsed(name: str, text: str, spec: TensorMetadata | None) -> object:
    """A value from the command line: JSON, numbers between commas, or text.

    Raises:
        UseError: It is none of them, or text for an input that takes none.
    """
    takes_text = spec is None or spec.datatype == "BYTES"
    is_json = text.startswith(("[", '"'))
    if spec is not None and takes_text and not is_json:
        return [text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = str(error)
    with suppress(ValueError, RecursionError):
        return json.loads(f"[{text}]")
    if takes_text and not is_json:
        return [text]
    raise UseError(
        f"input {name!r}: expected numbers such as 1,2,3, JSON such as [[1, 2], [3, 4]], "
        f"or @FILE, got {text!r}: {problem}"
    )


def _shaped(value: object, spec: TensorMetadata | None) -> object:
    """Numbers written without brackets, in the declared shape if they fit it."""
    if spec is None:
        return value
    try:
        array = np.array(value, dtype=object if spec.datatype == "BYTES" else None)
        if array.ndim == len(spec.shape):
            return value
        first = next((axis for axis, size in enumerate(spec.shape) if size == -1), None)
        shape = [
            1 if size == -1 and axis != first else size for axis, size in enumerate(spec.shape)
        ]
        return array.reshape(shape).tolist()
    except ValueError:  # the handle tells what is wrong with it
        return value


def _with_batch(value: object, spec: TensorMetadata | None) -> object:
    """A file that holds one item gets the batch dimension."""
    rank = value.ndim if isinstance(value, np.ndarray) else _depth(value)
    if spec is None or rank != len(spec.shape) - 1 or spec.shape[0] not in (-1, 1):
        return value
    return value[np.newaxis] if isinstance(value, np.ndarray) else [value]


def _depth(value: object) -> int:
    return 1 + _depth(value[0]) if isinstance(value, list) and value else int(value == [])


def _write_npz(path: Path, result: InferResult) -> None:
    arrays = {name: _storable(name, array) for name, array in result.items()}
    with zipfile.ZipFile(path, "w") as archive:  # `np.savez` cannot take every output name
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _storable(name: str, array: Array) -> Array:
    if array.dtype == object:
        fixed = array.astype("S") if array.size else array.astype("S1")
        if fixed.tolist() != array.tolist():
            raise UseError(
                f"output {name!r}: texts that end in zero bytes have no .npz form; use --json"
            )
        return fixed
    return array if array.dtype.kind != "V" else array.astype(np.float32)  # BF16, exactly


def _as_document(result: InferResult) -> dict[str, Any]:
    return {
        "model_name": result.model_name,
        "model_version": result.model_version,
        "request_id": result.request_id,
        "seconds": round(result.timing.total, 6),
        "outputs": {
            name: {
                "datatype": datatype_of(array),
                "shape": list(array.shape),
                "data": _plain(array),
            }
            for name, array in result.items()
        },
    }


def _plain(array: Array) -> Any:
    if array.dtype != object:
        return array.tolist()
    texts = [element.decode("utf-8", "backslashreplace") for element in array.reshape(-1)]
    return np.array(texts, dtype=object).reshape(array.shape).tolist()


def _result_table(result: InferResult) -> Table:
    title = f"{result.model_name} {result.model_version}, {result.timing.total * 1000:.1f} ms"
    table = Table("output", "datatype", "shape", "values", box=None, title=escape(title))
    for name, array in result.items():
        shape = " x ".join(map(str, array.shape)) or "scalar"
        values = np.array2string(
            np.asarray(_plain(array)), threshold=16, edgeitems=4, precision=5, max_line_width=70
        )
        table.add_row(escape(name), datatype_of(array), shape, escape(values))
    return table
