"""What the zoo knows of a model, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

from aiaas_server.zoo.packages import PackagedFile

# Makes the content of a large file, piece by piece and anew at each call.
Chunks = Callable[[], Iterator[bytes | memoryview]]


class LargeFile(NamedTuple):
    """A file that is written as it is made; `size` in bytes."""

    size: int
    chunks: Chunks


@dataclass(frozen=True, slots=True)
class Bundle:
    """One model version as it is written: `model.onnx`, `model.json`, the assets.

    Attributes:
        name: Of the model in the repository.
        model: The ONNX file.
        card: The content of `model.json` without assets and lineage; empty for a model that only
            another one's task runs.
        assets: Files beside the model by name.
        config: The content of `config.json` at the model's level; empty leaves it to the server.
        weights: Files that the ONNX file refers to, by name.
    """

    name: str
    model: bytes
    card: Mapping[str, Any] = field(default_factory=dict)
    assets: Mapping[str, bytes] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, LargeFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One model of the zoo.

    Attributes:
        name: What `aiaas pull` calls it.
        task: What it does.
        purpose: What it is for, in one line.
        licence: Of the weights, as an SPDX expression, and of what comes with them.
        megabytes: To download the first time.
        files: What is fetched; the licence texts among them.
        make: The bundles, once the files are there; the first is the one to call.
        needs: What must be installed to make or serve it, beyond the server and its tasks.
        module: What can be imported once that is installed.
    """

    name: str
    task: str
    purpose: str
    licence: str
    megabytes: float
    files: tuple[PackagedFile, ...]
    make: Callable[[], tuple[Bundle, ...]]
    needs: str = ""
    module: str = ""

    @property
    def lacks(self) -> bool:
        """Whether what it needs is not installed here."""
        return bool(self.module) and find_spec(self.module) is None
