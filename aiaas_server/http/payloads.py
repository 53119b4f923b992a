"""Payloads out of request bodies: JSON instances, the simple form, and raw bodies."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.task import PayloadKind
from aiaas_server.http.errors import HttpError

BINARY_KINDS = frozenset({"image", "audio", "bytes"})
# Content types of raw bodies; whatever is not listed is JSON, as curl's own default is.
RAW_KINDS: Mapping[str, PayloadKind] = {
    "text/plain": "text",
    "application/octet-stream": "bytes",
}
RAW_FAMILIES: Mapping[str, PayloadKind] = {"image": "image", "audio": "audio"}
# Members of the simple form that hold the payload.
SIMPLE_KINDS: Mapping[str, PayloadKind] = {
    "text": "text",
    "image": "image",
    "audio": "audio",
    "features": "features",
    "bytes": "bytes",
}
# Members that together are one payload of a text embedding.
COMPARED = ("texts", "query", "documents")
OTHERS = ("model", "version", "task", "top_k", "params")


class Simple(NamedTuple):
    """A body of the simple form.

    Attributes:
        kind: Of the payloads.
        many: The member was a list of payloads, and the answer is a list.
        model, task: As named; empty where not.
        version: 0 is the latest.
    """

    kind: PayloadKind
    payloads: list[Any]
    many: bool
    model: str
    version: int
    task: str
    params: dict[str, Any]


def raw_kind(content_type: str) -> PayloadKind | None:
    """What kind of payload a raw body of this content type is; None is JSON.

    Raises:
        HttpError: 415 for multipart bodies.
    """
    name = content_type.partition(";")[0].strip().lower()
    family = name.partition("/")[0]
    if family == "multipart":
        raise HttpError(
            415,
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            "multipart bodies are not accepted; send JSON, or the file itself as the body with "
            "its own Content-Type such as image/png or audio/wav",
        )
    return RAW_KINDS.get(name) or RAW_FAMILIES.get(family)


def raw_payload(kind: PayloadKind, body: bytes) -> Any:
    """The payload that a raw body is."""
    if kind != "text":
        return body
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput("the text is not UTF-8; a text in UTF-8 is accepted") from None


def payload_of(kind: PayloadKind, instance: Any) -> Any:
    """The payload that a JSON instance is, for a task of that kind.

    `{"b64": text}` becomes bytes; `{"image": ...}` and the like are taken off.

    Raises:
        InvalidInput: It cannot be such a payload; says what is accepted.
    """
    if isinstance(instance, dict) and len(instance) == 1 and kind != "features":
        (name,) = instance
        if SIMPLE_KINDS.get(name) == kind:
            instance = instance[name]
    if kind in BINARY_KINDS:
        return _bytes_of(kind, instance)
    if kind == "any" and isinstance(instance, dict) and set(instance) == {"b64"}:
        return _bytes_of(kind, instance)
    return instance


def simple_form(body: Mapping[str, Any]) -> Simple:
    """Read a JSON body of `POST /predict`.

    Raises:
        InvalidInput: No payload, several, or an unknown member.
    """
    known = (*SIMPLE_KINDS, *COMPARED, *OTHERS)
    unknown = [name for name in body if name not in known]
    if unknown:
        raise InvalidInput(f"unknown member {unknown[0][:64]!r}; known: {', '.join(known)}")
    named = [name for name in SIMPLE_KINDS if name in body]
    compared = {name: body[name] for name in COMPARED if name in body}
    if len(named) + bool(compared) != 1:
        got = ", ".join([*named, *compared]) or "none"
        raise InvalidInput(
            f"expected exactly one of {', '.join(SIMPLE_KINDS)}, got {got}: "
            'for example {"text": "..."}'
        )
    params = _member(body, "params", dict, {})
    if body.get("top_k") is not None:
        params = {**params, "top_k": body["top_k"]}
    rest = (
        _member(body, "model", str, ""),
        _member(body, "version", int, 0),
        _member(body, "task", str, "text-embedding" if compared else ""),
        params,
    )
    if compared:
        return Simple("text", [compared], False, *rest)
    kind = SIMPLE_KINDS[named[0]]
    value = body[named[0]]
    many = isinstance(value, list) and (kind != "features" or _is_list_of_records(value))
    instances = value if many else [value]
    if not instances:
        raise InvalidInput(f"'{named[0]}' is an empty list")
    return Simple(kind, instances, many, *rest)


def _is_list_of_records(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, list | dict) for value in values)


def _member(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {str: "a text", int: "a whole number", dict: "an object"}[kind]
        raise InvalidInput(f"'{name}': expected {wanted}")
    return value


def _bytes_of(kind: str, instance: Any) -> bytes:
    accepted = (
        f'{{"b64": "..."}} with the {kind if kind in ("image", "audio") else "file"}\'s bytes'
    )
    if isinstance(instance, dict) and set(instance) == {"b64"}:
        instance = instance["b64"]
    if not isinstance(instance, str):
        raise InvalidInput(f"expected {accepted}, got {type(instance).__name__}")
    if instance.startswith("data:"):
        instance = instance.partition(",")[2]
    try:
        return base64.b64decode(instance, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"not base64; expected {accepted}") from None
