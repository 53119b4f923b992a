"""The files of a candidate: its own graph, and all else as its parent has it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiaas_client.protocol.management import CARD_FILE, GOLDEN_FILE, MODEL_FILE
from aiaas_client.protocol.texts import decode_text
from aiaas_server.job_process.optimising.made import Feed
from aiaas_server.job_process.served import Served


def copy_beside(
    parent: Path, directory: Path, weights: frozenset[str], *, rows_alone: bool = False
) -> None:
    """Copy what lies beside the parent's graph but `weights`: the new graph has its own.

    Args:
        rows_alone: The card no longer says that requests may be joined: that was told of the
            parent's graph, and a server would go by it whatever it sees of this one.
    """
    for path in sorted(parent.iterdir()):
        if path.name != MODEL_FILE and path.name not in weights and path.is_file():
            shutil.copyfile(path, directory / path.name)
    if not weights and not rows_alone:
        return
    document = _card(directory)
    assets = document.get("assets", {})
    document["assets"] = {name: one for name, one in assets.items() if name not in weights}
    if rows_alone:
        document.pop("batching", None)
    _write(directory, document)


def describe(directory: Path, metrics: Mapping[str, Any], lineage: Mapping[str, Any]) -> None:
    """Have the card tell the candidate's own metrics and lineage in place of its parent's."""
    document = {**_card(directory), "metrics": dict(metrics), "lineage": dict(lineage)}
    golden = directory / GOLDEN_FILE
    if document.get("assets", {}).get(GOLDEN_FILE):
        digest = hashlib.sha256(golden.read_bytes()).hexdigest()
        document["assets"] = {**document["assets"], GOLDEN_FILE: digest}
    _write(directory, document)


def _card(directory: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(decode_text((directory / CARD_FILE).read_bytes()))
    return document


def _write(directory: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=1)
    (directory / CARD_FILE).write_text(text, "utf-8")


def write_reference(served: Served, samples: Sequence[Feed], path: Path) -> bool:
    """Write what the version got and answers, for the profile of its traffic.

    Returns:
        False where there is none: pieces of different shapes, texts, or a model of one row.
    """
    if not served.model.signature.max_batch_size:
        return False
    shapes = {tuple((name, one.shape[1:]) for name, one in feed.items()) for feed in samples}
    if len(shapes) != 1:
        return False
    names = [name for name, _ in next(iter(shapes))]
    inputs = {name: np.concatenate([feed[name] for feed in samples]) for name in names}
    outputs = served.infer(inputs)
    arrays = {f"in:{name}": one for name, one in inputs.items()}
    arrays |= {f"out:{name}": one for name, one in outputs.items()}
    if any(one.dtype == object for one in arrays.values()):
        return False
    np.savez(path, allow_pickle=False, **arrays)
    return True
