"""Calls that erase a tenant, and tell how far that is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiaas_client import _errors as errors
from aiaas_client._api.call import JSON_BODY, Call, Response
from aiaas_client._api.documents import ACCEPTED
from aiaas_client._api.management import ROOT, registry_call, validated

if TYPE_CHECKING:
    from aiaas_client.protocol.erasure import TenantErasure


def erase(tenant: str, backups: Sequence[str] = ()) -> Call[TenantErasure]:
    """`POST /api/v1/tenants/{t}/erase`."""
    content = json.dumps({"confirm": tenant, "backups": list(backups)}).encode()
    path = f"{_path(tenant)}/erase"
    return registry_call(
        "POST",
        path,
        _read,
        headers=(JSON_BODY,),
        content=[content],
        content_length=len(content),
        accept=ACCEPTED,
    )


def erasure(tenant: str) -> Call[TenantErasure]:
    """`GET /api/v1/tenants/{t}/erasure`."""
    return registry_call("GET", f"{_path(tenant)}/erasure", _read)


def _path(tenant: str) -> str:
    if not tenant:
        raise errors.InputError("tenant: expected a name, got ''")
    return f"{ROOT}/tenants/{quote(tenant, safe='')}"


def _read(response: Response) -> TenantErasure:
    from aiaas_client.protocol.erasure import TenantErasure

    return validated(TenantErasure, response.json())
