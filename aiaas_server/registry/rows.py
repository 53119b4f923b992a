"""Rows as the registry hands them out: typed, and no objects of the database."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from aiaas_client.protocol.management import BundleFile, Policy, Serving
from aiaas_server.core.author import SERVER as SERVER  # in whose name rows are written
from aiaas_server.core.author import Author as Author

VersionState = Literal["verified", "corrupt", "erased"]
Document = dict[str, Any]


class ModelRow(NamedTuple):
    """A row of `models`."""

    id: str
    tenant: str
    name: str
    description: str
    policy: Policy
    serving: Serving
    revision: int
    created: float
    created_by: str


class VersionRow(NamedTuple):
    """A row of `versions`.

    Attributes:
        digest: Of the bundle: equal for equal files, whatever their order.
        signature: `{"inputs": [...], "outputs": [...]}` of `protocol.management.TensorSpec`.
        report: `protocol.management.Report` as a document.
    """

    model_id: str
    number: int
    digest: str
    state: VersionState
    reason: str
    size: int
    files: list[BundleFile]
    card: Document | None
    signature: Document
    report: Document
    metrics: Document
    lineage: Document
    note: str
    created: float
    created_by: str

    @property
    def user(self) -> str:
        """Under which its artefacts are kept."""
        return version_user(self.model_id, self.number)


class HistoryRow(NamedTuple):
    """A row of `history`."""

    seq: int
    model: str
    kind: str
    version: int | None
    before: Document | None
    after: Document | None
    position: int | None
    reason: str
    at: float
    by: str
    request_id: str


def version_user(model_id: str, number: int) -> str:
    """The user of a version's artefacts."""
    return f"{model_id}/{number}"


def draft_user(draft_id: str) -> str:
    """The user of a draft's artefacts."""
    return f"draft/{draft_id}"
