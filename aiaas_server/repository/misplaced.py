"""Directories of a repository that hold no model where one is looked for, and what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from aiaas_server.core.describe.card import CARD_NAME, read_card
from aiaas_server.core.errors import LoadFailed

_MAX_CARD_BYTES: Final = 1024 * 1024
_NEVER: Final = ("lost+found", "__pycache__")
_ALMOST: Final = re.compile(r"[vV]?[-_.]?0*([1-9][0-9]{0,17})")
# What other servers keep under a version: it is named, since it lies in the right place.
_OTHERS: Final = {
    "model.plan": "TensorRT",
    "model.pt": "PyTorch",
    "model.pt2": "PyTorch",
    "model.savedmodel": "TensorFlow",
    "model.graphdef": "TensorFlow",
    "model.py": "Python",
    "model.xml": "OpenVINO",
    "model.dali": "DALI",
    "model.ort": "onnxruntime's own format",
}


def what_to_do(directory: Path) -> str:
    """Why a directory without a version is no model, and what to do; "" for an unrelated one.

    Unrelated is one that holds files, and nothing that looks like a part of a model.
    """
    if directory.name in _NEVER:
        return ""
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        return f"the directory cannot be read: {error.strerror}"
    name = directory.name
    if not entries:
        return f"the directory is empty: a model lies at {name}/1/model.onnx"
    for entry in entries:
        if entry.suffix == ".onnx" and entry.is_file():
            return (
                f"{entry.name} lies in no version directory: move it to {name}/1/model.onnx, with "
                "the files beside it that belong to it"
            )
    for entry in entries:
        if entry.is_dir() and (found := _ALMOST.fullmatch(entry.name)):
            return (
                f"'{entry.name}' is no version: rename it to '{found[1]}'; the name of a version "
                "directory is a positive integer"
            )
    if (directory / CARD_NAME).is_file():
        return f"{CARD_NAME} lies in no version directory: move it to {name}/1/{CARD_NAME}"
    for entry in entries:
        if entry.is_dir() and _holds_model(entry):
            return (
                f"'{entry.name}' is no version: its model is served from {name}/1, and a model of "
                f"its own has a directory beside {name}"
            )
    return ""


def stray_pipeline(file: Path) -> str:
    """What to do about a card of a pipeline that lies in no directory; "" for another file."""
    if file.suffix != ".json" or not file.is_file() or file.with_suffix(".onnx").is_file():
        return ""
    try:
        if file.stat().st_size > _MAX_CARD_BYTES or not read_card(file.read_bytes()).steps:
            return ""
    except (OSError, LoadFailed):
        return ""
    return f"{file.name} lies in no version directory: move it to {file.stem}/1/{CARD_NAME}"


def other_format(version: Path) -> str:
    """What a version directory holds instead of an ONNX model; "" for nothing that is known."""
    for filename, kind in _OTHERS.items():
        if (version / filename).exists():
            return f"{filename} ({kind}) is not served: expected an ONNX model, model.onnx"
    return ""


def _holds_model(directory: Path) -> bool:
    try:
        return any(
            entry.suffix == ".onnx" or entry.name == CARD_NAME for entry in directory.iterdir()
        )
    except OSError:
        return False
