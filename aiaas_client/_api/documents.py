"""Calls whose bodies and answers are documents of `protocol`, by the name of their class.

`"jobs.Job"` is `protocol.jobs.Job`. The classes are loaded when they are needed, since pydantic is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlencode

from aiaas_client import _errors as errors
from aiaas_client._api.call import JSON_BODY, OK, Call, Response
from aiaas_client._api.management import (
    OK_OR_CREATED,
    Method,
    Part,
    Query,
    registry_call,
    validated,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

ACCEPTED = OK_OR_CREATED | {202}


def kind_of(name: str) -> Any:
    """The class of a document."""
    module, _, kind = name.partition(".")
    return getattr(import_module(f"aiaas_client.protocol.{module}"), kind)


def made(name: str, members: Mapping[str, Any], model: str | None = None) -> Any:
    """Make a request document of what a caller gave.

    Args:
        name: Of its class.
        members: Those to be sent.
        model: The model it is about, for the error.
    Raises:
        InputError: A member that it cannot have; the text names it, and the nearest that it has.
    """
    from pydantic import ValidationError

    kind = kind_of(name)
    try:
        return kind.model_validate(dict(members))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or kind.__name__
        text = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            text = f"there is no such member{_hint(kind, first['loc'])}"
        elif first.get("ctx", {}).get("pattern") == f"^{_tenant_name()}$":
            text = "expected at most 63 lower-case letters, digits and hyphens, no hyphen first"
        raise errors.InputError(
            f"{where}: {text}, got {str(first.get('input'))[:64]!r}", model=model
        ) from None


def _hint(kind: Any, where: Sequence[int | str]) -> str:
    """What a document, or the one inside it that is meant, has in place of an unknown member."""
    for step in where[:-1]:
        field = kind.model_fields.get(step)
        inner = (field.annotation, *get_args(field.annotation)) if field else ()
        kind = next((one for one in inner if hasattr(one, "model_fields")), None)
        if kind is None:
            return ""
    known = list(kind.model_fields)
    close = get_close_matches(str(where[-1]), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def _tenant_name() -> str:
    from aiaas_client.protocol.tenants import TENANT_NAME

    return TENANT_NAME


def document_call(
    method: Method,
    answer: str,
    path: str,
    *,
    body: BaseModel | None = None,
    query: Query | None = None,
    retryable: bool | None = None,
) -> Call[Any]:
    """A request whose answer is a document.

    A POST carries an `Idempotency-Key`: sending it again, as retries do, has it carried out once.

    Args:
        answer: The name of its class.
    """
    content = b"" if body is None else body.model_dump_json(exclude_unset=True).encode()
    headers: list[tuple[bytes, bytes]] = [JSON_BODY] if content else []
    if method == "POST":
        headers.append((b"Idempotency-Key", os.urandom(16).hex().encode()))
    return registry_call(
        method,
        with_query(path, query or {}),
        partial(_read, answer),
        headers=tuple(headers),
        content=[content] if content else None,
        content_length=len(content),
        retryable=method in ("GET", "PUT", "POST") if retryable is None else retryable,
        accept=ACCEPTED if method == "POST" else OK,
    )


def page_call(
    item: str, path: str, after: str | None, limit: int, query: Query | None = None
) -> Call[Part]:
    """A part of a list."""
    whole = {**(query or {}), "limit": limit, "after": after}
    return registry_call("GET", with_query(path, whole), partial(_read_part, item))


def with_query(path: str, query: Query) -> str:
    """The path with what is told of the query."""
    told = {key: value for key, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(told)}" if told else path


def _read(kind: str, response: Response) -> Any:
    return validated(kind_of(kind), response.json())


def _read_part(kind: str, response: Response) -> Part:
    page = validated(kind_of("management.Page"), response.json())
    one = kind_of(kind)
    return Part([validated(one, item) for item in page.items], page.next)
