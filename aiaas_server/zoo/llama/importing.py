"""A local checkpoint into a repository: read, written, compared, and only then there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.describe.stored import name_problem
from aiaas_server.core.session import OpenSession
from aiaas_server.zoo.entry import Bundle, LargeFile
from aiaas_server.zoo.llama.bundle import make_bundle
from aiaas_server.zoo.llama.checkpoint import Checkpoint
from aiaas_server.zoo.llama.config import UnusableCheckpoint
from aiaas_server.zoo.llama.parity import Parity, compare, judge
from aiaas_server.zoo.llama.projections import Precision
from aiaas_server.zoo.pull import Pulled, write_bundle

# Called with the bytes written so far and those of the whole file.
Progress = Callable[[int, int], None]


class Imported(NamedTuple):
    """What an import gave.

    Attributes:
        parity: Of graph and checkpoint; None where this version was there already.
        slot_bytes: Keys and values of one answer that fills the context.
    """

    pulled: Pulled
    parity: Parity | None
    context: int
    slot_bytes: int


def import_llm(
    path: Path,
    models: Path,
    open_session: OpenSession,
    *,
    name: str = "",
    precision: Precision = "float32",
    context: int = 0,
    licence: str = "",
    progress: Progress = lambda done, total: None,
) -> Imported:
    """Turn a checkpoint of the Llama family into a bundle of a repository.

    Args:
        path: A GGUF file, or a directory with `config.json`, `tokenizer.json` and safetensors.
        name: Of the model; "" makes one of the file's or the directory's name.
        context: Most tokens, prompt and answer together; 0 is what the checkpoint allows.
        licence: Of the weights, where the checkpoint does not tell.
    Raises:
        UnusableCheckpoint: What is there cannot be imported, or the graph says something else than
            the checkpoint; nothing is left behind.
        LoadFailed: The runtime refuses the graph.
    """
    name = name or _name_of(path)
    if problem := name_problem(name):
        raise UnusableCheckpoint(f"name '{name}': {problem}")
    checkpoint = read_checkpoint(path)
    bundle = make_bundle(
        name,
        checkpoint,
        precision=precision,
        context=context,
        card={"description": f"{path.name}, {precision} weights"},
        assets=_licences(path),
    )
    most: int = bundle.card["generation"]["context"]
    found: list[Parity] = []

    def check(directory: Path) -> None:
        session = open_session(directory / "model.onnx", ModelConfig())
        try:
            found.append(compare(session, checkpoint, most))
        finally:
            session.close()
        judge(found[0], precision)

    lineage = {"imported": path.name, "weights": precision, "files": _digests(path)}
    licence = licence or checkpoint.licence
    pulled = write_bundle(_watched(bundle, progress), licence, lineage, models, check)
    slot = most * checkpoint.config.bytes_per_token()
    return Imported(pulled, found[0] if found else None, most, slot)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what is at a path.

    Raises:
        UnusableCheckpoint: Nothing that can be imported.
    """
    if path.is_dir():
        from aiaas_server.zoo.llama.hugging_face import read_directory

        return read_directory(path)
    if path.suffix == ".gguf" and path.is_file():
        from aiaas_server.zoo.llama.gguf_file import read_gguf

        return read_gguf(path)
    state = "a file of another kind" if path.exists() else "nothing there"
    raise UnusableCheckpoint(f"{path}: expected a .gguf file or a directory, got {state}")


def _name_of(path: Path) -> str:
    """`SmolLM2-135M-Instruct.Q4_1.gguf` -> `smollm2-135m-instruct.q4_1`."""
    name = path.resolve().name.removesuffix(".gguf").lower()
    return re.sub(r"[^a-z0-9._-]+", "-", name).strip("-._")


def _licences(path: Path) -> dict[str, bytes]:
    if not path.is_dir():
        return {}
    return {p.name: p.read_bytes() for p in sorted(path.glob("LICENSE*")) if p.is_file()}


def _digests(path: Path) -> list[dict[str, Any]]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return [{"file": file.name, "sha256": _digest(file)} for file in files]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _watched(bundle: Bundle, progress: Progress) -> Bundle:
    """The same bundle, which tells how far writing it has come."""

    def watched(large: LargeFile) -> LargeFile:
        def chunks() -> Iterator[bytes | memoryview]:
            done = 0
            for chunk in large.chunks():
                yield chunk
                done += len(chunk)
                progress(done, large.size)

        return LargeFile(large.size, chunks)

    return replace(bundle, weights={n: watched(large) for n, large in bundle.weights.items()})
