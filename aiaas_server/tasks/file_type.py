"""File type from the first and last bytes of a file.

Payload: bytes. The first `block` bytes stripped of leading whitespace, their first `size`; the last
`block` bytes stripped of trailing whitespace, their last `size`; padded with `padding` at the end
and at the beginning; one row of both.

Example card (magika):

    {"task": "file-type", "labels": ["3gp", "ace", "ai"],
     "postprocessing": {"content_types": "content_types.json"}}

Source: Fratantonio et al. 2024, *Magika: AI-Powered Content-Type Detection*.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from aiaas_client.protocol.predictions import FileType
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Prepared
from aiaas_server.tasks.task import (
    TaskSettings,
    check_label_count,
    input_spec,
    output_spec,
    read_labels,
)
from aiaas_server.tasks.text import kind_of

UNKNOWN_MIME = "application/octet-stream"


class Preprocessing(TaskSettings):
    """How many bytes are read at each end, and what stands for none."""

    block: int = Field(default=4096, ge=1)
    size: int = Field(default=1024, ge=1)
    padding: int = 256


class Postprocessing(TaskSettings):
    """`content_types`: an asset, JSON: label -> `{"mime_type", "group", "description"}`.

    Files of fewer than `min_bytes` are told by whether they are text.
    """

    output: str = ""
    content_types: str = ""
    min_bytes: int = Field(default=8, ge=1)


class FileTypeTask:
    """The task of one version."""

    input: PayloadKind = "bytes"
    predictions: tuple[type[FileType], ...] = (FileType,)
    params = Params
    costs = False

    def __init__(
        self, card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
    ) -> None:
        self._pre = read_settings(Preprocessing, card.preprocessing, "preprocessing")
        self._post = read_settings(Postprocessing, card.postprocessing, "postprocessing")
        self._labels = read_labels(card, assets)
        self._input = input_spec(signature, "").name
        self._output = output_spec(signature, self._post.output)
        check_label_count(self._labels, self._output)
        self._types = _content_types(self._post.content_types, assets)

    def preprocess(self, payload: Any, params: Params) -> Prepared:
        """Both ends of the file as one row of int32."""
        if not isinstance(payload, bytes | bytearray | memoryview):
            raise InvalidInput(f"got {kind_of(payload)}; the bytes of a file are accepted")
        content = bytes(payload)
        if not content:
            raise InvalidInput("the file is empty; a file of 1 byte or more is accepted")
        row = ends(content, self._pre.block, self._pre.size, self._pre.padding)
        return Prepared({self._input: row[None]}, 1, content[: self._post.min_bytes])

    def postprocess(
        self, tensors: Mapping[str, Array], prepared: Prepared, params: Params
    ) -> FileType:
        """The best label with what is known of it."""
        if len(prepared.context) < self._post.min_bytes:
            return self._named("txt" if _is_text(prepared.context) else "unknown", 1.0)
        scores = tensors[self._output.name][0]
        best = int(scores.argmax())
        return self._named(self._labels[best], float(scores[best]))

    def _named(self, label: str, score: float) -> FileType:
        about = self._types.get(label, {})
        return FileType(
            label=label,
            score=score,
            mime=about.get("mime_type") or UNKNOWN_MIME,
            group=about.get("group") or "",
            description=about.get("description") or "",
        )


def ends(content: bytes, block: int, size: int, padding: int) -> Array:
    """The row of the model: int32 `(2 * size,)`."""
    row = np.full(2 * size, padding, np.int32)
    first = content[:block].lstrip()[:size]
    last = content[-block:].rstrip()[-size:]
    row[: len(first)] = np.frombuffer(first, np.uint8)
    row[2 * size - len(last) :] = np.frombuffer(last, np.uint8)
    return row


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _content_types(name: str, assets: Assets) -> dict[str, dict[str, Any]]:
    if not name:
        return {}
    try:
        types = json.loads(assets.read_text(name))
    except ValueError:
        raise LoadFailed(f"asset '{name}' is not JSON") from None
    if not isinstance(types, dict):
        raise LoadFailed(f"asset '{name}' must be an object of label -> content type")
    return types


open_task = FileTypeTask
