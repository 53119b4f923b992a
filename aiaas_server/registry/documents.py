"""Rows of the registry as the documents of the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiaas_client.protocol.management import (
    Change,
    Diff,
    Difference,
    HistoryEntry,
    Model,
    Report,
    TensorSpec,
    Version,
)
from aiaas_server.registry.rows import HistoryRow, ModelRow, VersionRow
from aiaas_server.registry.serving import aliases_of
from aiaas_server.state.changes import ChangeRow


def model_document(row: ModelRow, latest: int | None, versions: int) -> Model:
    """A model.

    Args:
        latest: Its greatest verified version.
        versions: How many it has that are not erased.
    """
    return Model(
        name=row.name,
        description=row.description,
        latest=latest,
        versions=versions,
        serving=row.serving,
        policy=row.policy,
        created=row.created,
        created_by=row.created_by,
        etag=str(row.revision),
    )


def version_document(model: ModelRow, row: VersionRow, latest: int | None) -> Version:
    """A version, with what points at it and what share of the calls it gets."""
    signature = row.signature
    return Version(
        model=model.name,
        version=row.number,
        digest=row.digest,
        state=row.state,
        reason=row.reason,
        size=row.size,
        files=row.files,
        card=row.card,
        inputs=[TensorSpec.model_validate(spec) for spec in signature.get("inputs", ())],
        outputs=[TensorSpec.model_validate(spec) for spec in signature.get("outputs", ())],
        report=Report.model_validate(row.report),
        metrics=row.metrics,
        lineage=row.lineage,
        note=row.note,
        created=row.created,
        created_by=row.created_by,
        aliases=aliases_of(model.serving, row.number),
        share=model.serving.shares(latest).get(row.number, 0.0),
    )


def entry_document(row: HistoryRow) -> HistoryEntry:
    """An entry of the history."""
    values = row._asdict()
    del values["position"]
    return HistoryEntry(**values)


def change_document(row: ChangeRow) -> Change:
    """An entry of the change feed."""
    return Change(seq=row.seq, kind=row.kind, object=row.object, data=row.data, at=row.at)


def diff_document(model: ModelRow, old: VersionRow, new: VersionRow) -> Diff:
    """How `new` differs from `old`."""
    found = differences("", _compared(old), _compared(new))
    return Diff(
        model=model.name,
        old=old.number,
        new=new.number,
        same_bytes=old.digest == new.digest,
        differences=list(found),
    )


def differences(path: str, before: Any, after: Any) -> Iterator[Difference]:
    """Where two documents differ; objects member by member, all else as a whole."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            where = f"{path}.{key}" if path else str(key)
            yield from differences(where, before.get(key), after.get(key))
    elif before != after:
        yield Difference(path=path, before=before, after=after)


def _compared(row: VersionRow) -> dict[str, Any]:
    return {
        "files": {file.name: {"size": file.size, "sha256": file.sha256} for file in row.files},
        "card": row.card or {},
        "signature": {
            side: {spec["name"]: spec for spec in specs} for side, specs in row.signature.items()
        },
        "report": row.report,
        "metrics": row.metrics,
        "lineage": row.lineage,
        "note": row.note,
        "state": row.state,
    }
