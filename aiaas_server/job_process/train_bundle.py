"""What a training leaves: card, golden set and reference beside the exported model."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np

from aiaas_client.protocol.management import CARD_FILE, GOLDEN_FILE
from aiaas_server import __version__
from aiaas_server.job_process.served import Served
from aiaas_server.job_process.train_parity import evenly
from aiaas_server.jobs.recipes import AnyRecipe
from aiaas_server.jobs.table import Table

Array = np.ndarray[Any, Any]

_GOLDEN_ROWS: Final = 100
_GOLDEN_BYTES: Final = 8 << 20  # of the instances
_REFERENCE_ROWS: Final = 2000
_CLEAR: Final = 1e-3  # another machine's rounding must not turn a golden label
_RTOL, _ATOL = 1e-3, 1e-4
# Module -> distribution, where they differ.
_DISTRIBUTIONS: Final = {"sklearn": "scikit-learn", "PIL": "pillow"}


def write_card(directory: Path, card: Mapping[str, Any], **said: Any) -> None:
    """Write `model.json`: what the recipe said, and what the engine adds."""
    document = {**card, **said}
    text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)
    (directory / CARD_FILE).write_text(text + "\n", "utf-8")


def write_golden(directory: Path, served: Served, learned: Table) -> int:
    """Write `golden.json`: rows of the training with the answers of the bundle; tells how many."""
    rows = _clear_rows(served, learned.take(evenly(learned.rows, _GOLDEN_ROWS)))
    payloads = served.payloads(rows)
    answers = served.predict(payloads)
    instances: list[Any] = []
    predictions: list[Any] = []
    size = 0
    for payload, answer in zip(payloads, answers, strict=True):
        instance = _instance(payload)
        size += len(json.dumps(instance))
        if instances and size > _GOLDEN_BYTES:
            break
        instances.append(instance)
        predictions.append(answer.model_dump(mode="json"))
    golden = {"instances": instances, "predictions": predictions, "rtol": _RTOL, "atol": _ATOL}
    text = json.dumps(golden, ensure_ascii=False, allow_nan=False)
    (directory / GOLDEN_FILE).write_text(text + "\n", "utf-8")
    return len(instances)


def _clear_rows(served: Served, rows: Table) -> Table:
    scores = served.answers(rows).scores
    if scores is None or scores.shape[1] < 2:
        return rows
    best = np.sort(scores, axis=1)
    clear = np.flatnonzero(best[:, -1] - best[:, -2] > _CLEAR)
    return rows.take(clear) if len(clear) else rows


def _instance(payload: Any) -> Any:
    if isinstance(payload, bytes):
        return {"b64": base64.b64encode(payload).decode("ascii")}
    return payload


def write_reference(path: Path, served: Served, learned: Table) -> bool:
    """Write tensors in and out of rows of the training; False where rows have no common shape."""
    task = served.model.task
    if task is None:
        return False
    rows = learned.take(evenly(learned.rows, _REFERENCE_ROWS))
    prepared = [task.preprocess(one, task.params()) for one in served.payloads(rows)]  # type: ignore[union-attr]
    names = list(prepared[0].tensors)
    shapes = {one.tensors[name].shape[1:] for one in prepared for name in names[:1]}
    if len(shapes) != 1 or any(one.rows != 1 for one in prepared):
        return False
    inputs = {name: np.concatenate([one.tensors[name] for one in prepared]) for name in names}
    outputs = served.infer(inputs)
    tensors = {f"in:{name}": array for name, array in inputs.items()}
    tensors |= {f"out:{name}": array for name, array in outputs.items()}
    if any(array.dtype == object for array in tensors.values()):
        return False
    np.savez_compressed(path, **tensors)  # type: ignore[arg-type]
    return True


def libraries(found: AnyRecipe) -> dict[str, str]:
    """Versions of what was trained with."""
    names = ("numpy", "onnxruntime", *(_DISTRIBUTIONS.get(name, name) for name in found.modules))
    told = {}
    for name in names:
        try:
            told[name] = version(name)
        except PackageNotFoundError:  # another build of it, such as onnxruntime-gpu
            continue
    return told


def code_version() -> str:
    """Of this package."""
    return __version__
