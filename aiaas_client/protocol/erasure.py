"""Erasing a tenant: what is asked, how far it is, and the signed certificate of what went.

A certificate is signed by Ed25519 over its document without `signature`, as `canonical` writes it.
Whoever has the server's public key from elsewhere can verify it without the server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from aiaas_client.protocol.documents import Asked, Told

FORMAT: Final = "aiaas-erasure/1"
STAYS: Final = (
    "usage totals, without content",
    "statements",
    "audit entries: that it was done, and by whom",
    "the tenant's name, which is never used again",
)
"""What erasing a tenant leaves."""

Line = Annotated[str, Field(min_length=1, max_length=1024)]


class EraseRequest(Asked):
    """Erase a tenant.

    Attributes:
        confirm: The tenant's name once more.
        backups: What the operator has to see to elsewhere, as lines of the certificate: where
            backups lie, and when they are gone.
    """

    confirm: str = ""
    backups: Annotated[list[Line], Field(max_length=100)] = Field(default_factory=list)


class Certificate(Told):
    """What went, signed.

    Attributes:
        id: Of the erasure.
        requested, finished: Seconds since 1970, UTC.
        requested_by: The key that asked for it.
        counts: How many of each kind: `models`, `versions`, `datasets`, `files`, `jobs`, ….
        models, datasets: Names.
        artefacts: SHA-256 of each file whose bytes are gone.
        data_keys: Names of the keys that opened them, destroyed before the bytes.
        keys: Ids of the tenant's keys, revoked.
        verified: Whether nothing of it was found afterwards, in the store and in the database.
        backups: As the operator told.
        stays: What is left.
        public_key: By which the signature is verified; 32 bytes, hexadecimal.
        signature: 64 bytes, hexadecimal.
    """

    shown = ("tenant", "finished", "verified", "counts")

    format: str = FORMAT
    id: str
    tenant: str
    requested: float
    requested_by: str
    finished: float
    counts: dict[str, int] = Field(default_factory=dict)
    models: list[str] = Field(default_factory=list)
    datasets: list[str] = Field(default_factory=list)
    artefacts: list[str] = Field(default_factory=list)
    data_keys: list[str] = Field(default_factory=list)
    keys: list[str] = Field(default_factory=list)
    verified: bool = False
    backups: list[str] = Field(default_factory=list)
    stays: list[str] = Field(default_factory=lambda: list(STAYS))
    public_key: str = ""
    signature: str = ""


class TenantErasure(Told):
    """How far the erasure of a tenant is.

    Attributes:
        state: The tenant's keys are refused from the first moment on, whatever it is.
        certificate: Once it is done.
    """

    shown = ("tenant", "state", "certificate")

    id: str
    tenant: str
    state: Literal["running", "done"]
    created: float
    created_by: str = ""
    certificate: Certificate | None = None


def canonical(document: Mapping[str, Any]) -> bytes:
    """What is signed of a certificate: all but its signature, one way only."""
    signed = {name: value for name, value in document.items() if name != "signature"}
    return json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
