"""What the files of `tasks/` share: reading their part of the card, and checking it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from aiaas_server.core.describe.card import Assets, Card
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.signature import Signature, TensorSpec

Share = Annotated[float, Field(ge=0, le=1)]  # of one: a score, an overlap
Floats = npt.NDArray[np.float32]


class TaskSettings(BaseModel):
    """Base of a task's settings in the card: an unknown key is refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def need(module: str) -> Any:
    """Import a library of the extra `tasks` when a task is opened.

    Raises:
        LoadFailed: It is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        package = module.partition(".")[0]
        raise LoadFailed(
            f"the package '{package}' is missing: pip install \"aiaas-client[tasks]\""
        ) from None


def read_labels(card: Card, assets: Assets) -> tuple[str, ...]:
    """The card's labels, from the card itself or the asset it names; empty when it has none.

    The asset is a JSON list, a JSON object of index -> label, or text of one label a line.

    Raises:
        LoadFailed: The asset is missing or none of these.
    """
    if not isinstance(card.labels, str):
        return card.labels
    text = assets.read_text(card.labels)
    if not card.labels.endswith(".json"):
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        labels = json.loads(text)
    except ValueError:
        raise LoadFailed(f"labels: asset '{card.labels}' is not JSON") from None
    if isinstance(labels, dict):
        labels = [labels.get(str(index)) for index in range(len(labels))]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise LoadFailed(f"labels: asset '{card.labels}' must be a list of texts")
    return tuple(labels)


def check_label_count(labels: Sequence[str], output: TensorSpec) -> None:
    """Compare the labels with the last dimension of the model's output (-1 fits any).

    Raises:
        LoadFailed: Both numbers.
    """
    size = output.shape[-1] if output.shape else 1
    if size >= 0 and size != len(labels):
        raise LoadFailed(f"labels: the card names {len(labels)}, output '{output.name}' has {size}")


def input_spec(signature: Signature, name: str) -> TensorSpec:
    """The input of that name; the model's only (or first) one when the name is empty.

    Raises:
        LoadFailed: The model has no such input; those it has are listed.
    """
    return _spec(signature.inputs, name, "input")


def output_spec(signature: Signature, name: str) -> TensorSpec:
    """The same for outputs."""
    return _spec(signature.outputs, name, "output")


def _spec(specs: Sequence[TensorSpec], name: str, what: str) -> TensorSpec:
    for spec in specs:
        if name in ("", spec.name):
            return spec
    listed = ", ".join(f"'{spec.name}'" for spec in specs) or "none"
    raise LoadFailed(f"the card names {what} '{name}', the model has {listed}")
