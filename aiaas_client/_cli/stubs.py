"""Typed wrappers of a model, as Python source made from its metadata."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import indent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiaas_client.protocol.messages import ModelMetadata, TensorMetadata

_ELEMENTS: Mapping[str, str] = {
    "BOOL": "np.bool_",
    "FP16": "np.float16",
    "FP32": "np.float32",
    "FP64": "np.float64",
    "BYTES": "np.object_",
    **{
        f"{kind}{bits}": f"np.{kind.lower()}{bits}"
        for kind in ("INT", "UINT")
        for bits in (8, 16, 32, 64)
    },
}
_TAKEN_BY_ARGUMENTS = ("self", "deadline", "inputs")
_TAKEN_BY_FIELDS = ("result",)


def generate(metadata: ModelMetadata) -> str:
    """Write a module that wraps one model: a class of outputs, a client class, its async twin.

    Names that are no Python identifiers are changed into ones; the wire keeps the real names. The
    result compiles and passes `mypy --strict`.

    Args:
        metadata: The model as the server describes it.
    """
    kind = _class_name(metadata.name)
    parts = [
        _HEAD.format(model=_text(metadata.name)),
        _outputs_class(kind, metadata),
        _client_class(kind, metadata, asynchronous=False),
        _client_class(kind, metadata, asynchronous=True),
    ]
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


_HEAD = '''
"""Typed wrapper of the model {model}, made by `aiaas stubs`.

Make it again when the model changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aiaas_client import AsyncClient, Client, InferResult
'''


def _outputs_class(kind: str, metadata: ModelMetadata) -> str:
    names = _identifiers((spec.name for spec in metadata.outputs), _TAKEN_BY_FIELDS)
    fields = [
        f"{name}: npt.NDArray[{_element(spec.datatype)}]\n"
        f'"""Output {_text(spec.name)}: {_shape(spec)}."""'
        for name, spec in zip(names, metadata.outputs, strict=True)
    ]
    fields.append('result: InferResult\n"""The whole answer: timing, attempts, request id."""')
    read = [
        f"{name}=result[{spec.name!r}]," for name, spec in zip(names, metadata.outputs, strict=True)
    ]
    return (
        "@dataclass(frozen=True, eq=False)\n"
        f"class {kind}Outputs:\n"
        f'    """What the model {_text(metadata.name)} answers."""\n\n'
        + indent("\n".join(fields), "    ")
        + "\n\n    @classmethod\n"
        f"    def of(cls, result: InferResult) -> {kind}Outputs:\n"
        '        """The outputs of an answer under their Python names."""\n'
        "        return cls(\n"
        + indent("\n".join([*read, "result=result,"]), " " * 12)
        + "\n        )"
    )


def _client_class(kind: str, metadata: ModelMetadata, *, asynchronous: bool) -> str:
    client = "AsyncClient" if asynchronous else "Client"
    name = f"Async{kind}" if asynchronous else kind
    methods = [
        _method(kind, metadata, "infer", "one batch", asynchronous),
        _method(kind, metadata, "infer_one", "one item, without batch dimension", asynchronous),
    ]
    head = (
        f"class {name}:\n"
        f'    """The model {_text(metadata.name)}; `client` stays the caller\'s."""\n\n'
        f"    def __init__(self, client: {client}, version: str | int | None = None) -> None:\n"
        f"        self.model = client.model({metadata.name!r}, version)\n"
    )
    return head + "\n" + "\n\n".join(indent(method, "    ") for method in methods)


def _method(kind: str, metadata: ModelMetadata, verb: str, what: str, asynchronous: bool) -> str:
    names = _identifiers((spec.name for spec in metadata.inputs), _TAKEN_BY_ARGUMENTS)
    specs = list(zip(names, metadata.inputs, strict=True))
    arguments = [f"{name}: npt.ArrayLike,  # {_shape(spec)}" for name, spec in specs]
    told = [f"{spec.name!r}: {name}," for name, spec in specs]
    start, wait = ("async def", "await ") if asynchronous else ("def", "")
    return (
        f"{start} {verb}(\n    self,\n    *,\n"
        + indent("\n".join([*arguments, "deadline: float | None = None,"]), "    ")
        + f'\n) -> {kind}Outputs:\n    """Run the model on {what}; `deadline` in seconds."""\n'
        "    inputs: dict[str, Any] = {\n"
        + indent("\n".join(told), " " * 8)
        + ("\n" if told else "")
        + "    }\n"
        f"    return {kind}Outputs.of({wait}self.model.{verb}(inputs, deadline=deadline))"
    )


def _element(datatype: str) -> str:
    return _ELEMENTS.get(datatype, "Any")  # BF16 has no numpy type to name


def _shape(spec: TensorMetadata) -> str:
    return f"{spec.datatype} {tuple(spec.shape)}"


def _text(name: str) -> str:
    """A model's or tensor's name where it can do no harm inside a docstring."""
    return "'" + re.sub(r"[^A-Za-z0-9._:/ -]", "?", name) + "'"


def _class_name(name: str) -> str:
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    joined = "".join(word[0].upper() + word[1:] for word in words) or "Model"
    return joined if joined[0].isalpha() else f"Model{joined}"


def _identifiers(names: Iterable[str], taken: Sequence[str]) -> list[str]:
    """Python identifiers for tensor names, all different and none of `taken`."""
    used = set(taken)
    found = []
    for name in names:
        word = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not word.isidentifier() or keyword.iskeyword(word) or word.startswith("__"):
            word = f"tensor_{word.strip('_')}"
        while word in used:
            word += "_"
        used.add(word)
        found.append(word)
    return found
