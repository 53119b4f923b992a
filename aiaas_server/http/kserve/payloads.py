"""Payloads out of request bodies: JSON instances, the simple form, and raw bodies."""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.errors import InvalidInput, bare
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


def json_hint(content_type: str) -> str:
    """The end of a refusal of what is no JSON: how a body is told to be something else."""
    if "json" in content_type.lower():
        return ""
    came = f"Content-Type {content_type[:64]!r}" if content_type else "no Content-Type"
    known = ", ".join([*RAW_KINDS, *(f"{family}/*" for family in RAW_FAMILIES)])
    return f"; {came} is read as JSON, a raw payload is sent as one of {known}"


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

    Pure, and a matter of microseconds whether it is right or wrong, but for the bytes of a file: of
    many instances any slice can be read at any time.

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
    named, compared = [], {}
    for name in body:
        if name in SIMPLE_KINDS:
            named.append(name)
        elif name in COMPARED:
            compared[name] = body[name]
        elif name not in OTHERS:
            known = ", ".join((*SIMPLE_KINDS, *COMPARED, *OTHERS))
            raise InvalidInput(f"unknown member {name[:64]!r}; known: {known}")
    if len(named) + bool(compared) != 1:
        got = ", ".join([name for name in (*SIMPLE_KINDS, *COMPARED) if name in body]) or "none"
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


def instances_form(document: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Read a JSON body of KServe's V1 predict: its instances and params.

    Raises:
        InvalidInput: No instances, or params that are no object.
    """
    instances = document.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InvalidInput("'instances': expected a list of one or more instances")
    params: dict[str, Any] = {}
    for name in ("parameters", "params"):
        given = document.get(name) or {}
        if not isinstance(given, dict):
            raise InvalidInput(f"'{name}': expected an object")
        params |= given
    if document.get("top_k") is not None:
        params["top_k"] = document["top_k"]
    return instances, params


def payloads_of(kind: PayloadKind, instances: Sequence[Any]) -> list[Any]:
    """The payloads of JSON instances, or an `InvalidInput` in the place of one that is none."""
    return [_payload_or_error(kind, instance) for instance in instances]


def _payload_or_error(kind: PayloadKind, instance: Any) -> Any:
    try:
        return payload_of(kind, instance)
    except InvalidInput as error:
        return bare(error)  # kept beside thousands of others


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
    if isinstance(instance, dict) and len(instance) == 1 and "b64" in instance:
        instance = instance["b64"]
    if not isinstance(instance, str):
        raise InvalidInput(f"expected {_accepted(kind)}, got {type(instance).__name__}")
    if instance.startswith("data:"):
        instance = instance.partition(",")[2]
    try:
        return binascii.a2b_base64(instance, strict_mode=True)
    except ValueError:
        raise InvalidInput(f"not base64; expected {_accepted(kind)}") from None


def _accepted(kind: str) -> str:
    file = kind if kind in ("image", "audio") else "file"
    return f'{{"b64": "..."}} with the {file}\'s bytes'
