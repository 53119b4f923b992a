"""The reference of a trained version: of the rows that it learned from, as it answers to them."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Card
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.monitor.profile import Profile, profile_from
from aiaas_server.registry.rows import VersionRow

_INPUT, _OUTPUT = "in:", "out:"
_MOST_BYTES: Final = 512 << 20  # unpacked

_log = logging.getLogger("aiaas_server")


def read_reference(version: VersionRow, path: Path) -> Profile | None:
    """The profile of an `.npz` of `in:<name>` and `out:<name>`, rows first; blocks.

    None, and a line in the log, where it makes none: a version is of use without one.
    """
    try:
        arrays = _arrays(path)
        inputs = _side(arrays, _INPUT)
        outputs = _side(arrays, _OUTPUT)
        asked, told = (_specs(version.signature[side]) for side in ("inputs", "outputs"))
        # Rows first in either case: a version that does not batch gets them one by one.
        signature = Signature("", asked, told, max_batch_size=1)
        card = None if version.card is None else Card.model_validate(version.card)
        return profile_from(signature, inputs, outputs, card=card, source="training")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        _log.warning("version %d: its training makes no reference: %s", version.number, error)
        return None


def _arrays(path: Path) -> dict[str, Array]:
    with zipfile.ZipFile(path) as packed:
        size = sum(entry.file_size for entry in packed.infolist())
    if size > _MOST_BYTES:
        raise ValueError(f"expected at most {_MOST_BYTES} bytes, got {size}")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _side(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    found = {}
    for name, array in arrays.items():
        if name.startswith(prefix):
            texts = array.dtype.kind in "US"
            found[name.removeprefix(prefix)] = array.astype(object) if texts else array
    return found


def _specs(documents: Sequence[Mapping[str, Any]]) -> list[TensorSpec]:
    return [TensorSpec(one["name"], one["datatype"], tuple(one["shape"])) for one in documents]
