"""What to send to `/api/v1/datasets`, and how to read the answers."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiaas_client import _errors as errors
from aiaas_client._api.call import BINARY_BODY, DOWNLOAD, BytesLike, Call, DownloadCall, Response
from aiaas_client._api.documents import document_call, kind_of, page_call
from aiaas_client._api.management import (
    CREATED,
    NO_CONTENT,
    OK_OR_CREATED,
    PAGE_ITEMS,
    ROOT,
    Part,
    no_event,
    nothing,
    registry_call,
    validated,
)

if TYPE_CHECKING:
    from aiaas_client.protocol.datasets import (
        Dataset,
        DatasetDraft,
        DatasetErasure,
        DatasetRequest,
    )

DATASETS = f"{ROOT}/datasets"


def datasets(after: str | None = None, limit: int = PAGE_ITEMS) -> Call[Part]:
    """`GET /api/v1/datasets`: the latest version of each, by name."""
    return page_call("datasets.Dataset", DATASETS, after, limit)


def versions(name: str, after: str | None = None, limit: int = PAGE_ITEMS) -> Call[Part]:
    """`GET /api/v1/datasets/{d}/versions`: the newest first, erased ones too."""
    return page_call("datasets.Dataset", _path(name, "/versions"), after, limit)


def version(name: str, number: int | None = None) -> Call[Dataset]:
    """`GET /api/v1/datasets/{d}/versions/{n}`; the latest where no number is given."""
    return document_call("GET", "datasets.Dataset", _version_path(name, number))


def delete_version(name: str, number: int) -> Call[DatasetErasure]:
    """`DELETE /api/v1/datasets/{d}/versions/{n}`."""
    return document_call("DELETE", "datasets.DatasetErasure", _version_path(name, number))


def delete_all(name: str) -> Call[list[DatasetErasure]]:
    """`DELETE /api/v1/datasets/{d}`: every version, and the drafts."""
    return registry_call("DELETE", _path(name), _read_proofs, retryable=False)


def download(name: str, number: int) -> DownloadCall:
    """`GET /api/v1/datasets/{d}/versions/{n}/data`: the rows as a Parquet file."""
    path = _version_path(name, number, "/data")
    return DownloadCall(registry_call("GET", path, nothing, headers=(DOWNLOAD,)), no_event)


# Drafts


def create_draft(name: str, request: DatasetRequest) -> Call[DatasetDraft]:
    """`POST /api/v1/datasets/{d}/drafts`; an open draft of the same files is given again."""
    return document_call("POST", "datasets.DatasetDraft", _path(name, "/drafts"), body=request)


def draft(name: str, draft: str) -> Call[DatasetDraft]:
    """`GET /api/v1/datasets/{d}/drafts/{id}`."""
    return document_call("GET", "datasets.DatasetDraft", _draft_path(name, draft))


def drop_draft(name: str, draft: str) -> Call[None]:
    """`DELETE /api/v1/datasets/{d}/drafts/{id}`."""
    return registry_call("DELETE", _draft_path(name, draft), nothing, accept=NO_CONTENT)


def put_file(
    name: str, draft: str, file: str, offset: int, content: BytesLike
) -> Call[DatasetDraft]:
    """`PUT /api/v1/datasets/{d}/drafts/{id}/files/{name}?offset=N`: the bytes from there on.

    It is not repeated as it is: what has come of it is asked first.
    """
    return registry_call(
        "PUT",
        _draft_path(name, draft, f"/files/{quote(file, safe='')}?offset={offset}"),
        partial(_read, "datasets.DatasetDraft"),
        headers=(BINARY_BODY,),
        content=[content],
        content_length=len(content),
        retryable=False,
        accept=OK_OR_CREATED,
    )


def commit(name: str, draft: str) -> Call[Dataset]:
    """`POST /api/v1/datasets/{d}/drafts/{id}/commit`: have it read, then keep it."""
    call = document_call("POST", "datasets.Dataset", _draft_path(name, draft, "/commit"))
    return replace(call, parse=_read_committed)


# References


def checked_name(name: str) -> str:
    """Give the name of a data set.

    Raises:
        InputError: No server takes it.
    """
    from aiaas_client.protocol.names import NAME

    if re.fullmatch(NAME, str(name)) is None:
        raise errors.InputError(
            f"data set: expected letters, digits, '.', '_' and '-', at most 255 and none of the "
            f"last three first, got {str(name)[:80]!r}"
        )
    return name


def reference(dataset: Any) -> str:
    """`name@number` of whatever stands for a data set: a text, a document, a handle.

    Raises:
        InputError: It is none of these.
    """
    told = dataset if isinstance(dataset, str) else getattr(dataset, "ref", None)
    if not isinstance(told, str):
        raise errors.InputError(
            f"data set: expected a name, NAME@NUMBER or a data set, got {type(dataset).__name__}; "
            f"upload it first (client.datasets.upload)"
        )
    read_reference(told)
    return told


def read_reference(dataset: str) -> tuple[str, int | None]:
    """Name and number; None is the latest.

    Raises:
        InputError: It is no reference.
    """
    from aiaas_client.protocol.datasets import read_ref

    try:
        return read_ref(dataset)
    except (ValueError, TypeError) as error:
        raise errors.InputError(f"data set: {error}") from None


def _path(name: str, suffix: str = "") -> str:
    return f"{DATASETS}/{quote(checked_name(name), safe='')}{suffix}"


def _version_path(name: str, number: int | None, suffix: str = "") -> str:
    return _path(name, f"/versions/{'latest' if number is None else int(number)}{suffix}")


def _draft_path(name: str, draft: str, suffix: str = "") -> str:
    return _path(name, f"/drafts/{quote(draft, safe='')}{suffix}")


def _read(kind: str, response: Response) -> Any:
    return validated(kind_of(kind), response.json())


def _read_proofs(response: Response) -> list[DatasetErasure]:
    page = validated(kind_of("management.Page"), response.json())
    return [validated(kind_of("datasets.DatasetErasure"), one) for one in page.items]


def _read_committed(response: Response) -> Dataset:
    """A data set, 201 where it is a new one."""
    found: Dataset = _read("datasets.Dataset", response)
    return found.model_copy(update={"created_now": response.status == CREATED})
