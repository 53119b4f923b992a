"""`client.datasets`: tables on the server, immutable and numbered, for jobs to read."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import datasets as calls
from aiaas_client._errors import InputError
from aiaas_client._resources.dataset import AsyncDatasetHandle, DatasetHandle
from aiaas_client._resources.deploying import COMMIT_TIMEOUT
from aiaas_client._resources.registry import pages
from aiaas_client._resources.resource import Viewed
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import AsyncWhole, Whole, WithRawResponse
from aiaas_client._send.work import acarry_out, carry_out

if TYPE_CHECKING:
    from aiaas_client._bulk.progress import Report
    from aiaas_client._bundles.tables import Source
    from aiaas_client._bundles.uploads import UploadWishes
    from aiaas_client._send.work import Work
    from aiaas_client.protocol.datasets import ColumnKind, Dataset, DatasetErasure, Format

# What a call gives, or an awaitable of it.
OneDataset = TypeVar("OneDataset")
ManyDatasets = TypeVar("ManyDatasets")
Proofs = TypeVar("Proofs")  # of erasures


class DatasetCalls(Generic[OneDataset, ManyDatasets, Proofs]):
    """Data sets come, are read and go."""

    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`
    _handle: Any  # the class of a version's handle

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def upload(
        self,
        name: str,
        data: Source,
        *,
        format: Format | None = None,
        kinds: Mapping[str, ColumnKind] | None = None,
        note: str = "",
        description: str | None = None,
        progress: bool | Report | None = None,
        timeout: float = COMMIT_TIMEOUT,
    ) -> OneDataset:
        """Bring rows to the server; returns when it has read and kept them as a new version.

        The same rows again are the same version. What breaks off on the way goes on where it was,
        within this call and with the next one.

        Args:
            name: The data set; it is made with its first version.
            data: A pandas frame (its index is left out) or a polars frame; numpy arrays by name,
                rows first; the path of a CSV, Parquet, NPZ or IDX file, plain or gzipped, or a list
                of such; IDX files by role, `{"images": path, "labels": path}`; or the path of a
                directory of images, one folder a class.
            format: "csv", "parquet", "npz", "idx" or "images"; by the files' names by default.
            kinds: Columns that are of another kind than they look: `{"zip": "category"}`.
            note: One line for whoever looks at it later.
            description: Of the data set.
            progress: True shows a bar for reading and sending (rich or tqdm if they are installed);
                a callable is told the bytes the server has, and their total.
            timeout: Seconds for each request; the server's reading is the longest.
        Returns:
            The version; its `created_now` is False where these rows were it already.
        Raises:
            InputError: Something is wrong with the data; nothing was sent.
            BadRequestError: The server cannot read them; the text names row and column.
            PayloadTooLargeError: They are beyond the server's limit.
            NotSupportedError: This server keeps no data sets.
        """
        from aiaas_client._bundles.tables import gathered
        from aiaas_client._bundles.uploads import UploadWishes

        given = {"format": format, "kinds": kinds, "note": note, "description": description}
        members = {key: value for key, value in given.items() if value}
        steps = self._uploaded(name, partial(gathered, data), UploadWishes(members, progress))
        sender = self._sender.with_options(timeout=timeout, deadline=timeout)
        found: OneDataset = self._carry_out(steps, sender)
        return found

    def list(self, *, limit: int | None = None) -> ManyDatasets:
        """Give the latest version of each data set, by name; at most `limit`.

        Raises:
            NotSupportedError: This server keeps no data sets.
        """
        found: ManyDatasets = self._carry_out(pages(calls.datasets, limit), self._sender)
        return found

    def versions(self, name: str, *, limit: int | None = None) -> ManyDatasets:
        """Give the versions of a data set, the newest first, erased ones too; at most `limit`.

        Raises:
            NotFoundError: There is no such data set.
        """
        steps = pages(partial(calls.versions, name), limit)
        found: ManyDatasets = self._carry_out(steps, self._sender)
        return found

    def get(self, ref: str) -> OneDataset:
        """Give one version: `reviews@2`, or `reviews` for the latest.

        Raises:
            NotFoundError: There is no such data set or version.
        """
        found: OneDataset = self._carry_out(self._got(ref), self._sender)
        return found

    def delete(self, ref: str, *, all: bool = False) -> Proofs:
        """Erase the rows of one version, or of all of a data set, for good.

        Args:
            ref: `reviews@2`; with `all` the name alone.
            all: Every version.
        Returns:
            What was removed, a proof for each version.
        Raises:
            ConflictError: A job needs them now.
            NotFoundError: There is no such data set or version.
            InputError: It names no version, and `all` is not asked for.
        """
        found: Proofs = self._carry_out(_deleted(ref, all), self._sender)
        return found

    def _uploaded(self, name: str, gather: Any, wishes: UploadWishes) -> Work[Any]:
        from aiaas_client._bundles.uploads import upload

        document = yield from upload(name, gather, wishes)
        return self._handle(self._sender, document)

    def _got(self, ref: str) -> Work[Any]:
        name, number = calls.read_reference(calls.reference(ref))
        return self._handle(self._sender, (yield calls.version(name, number)))


def _deleted(ref: str, whole: bool) -> Work[list[DatasetErasure]]:
    text = calls.reference(ref)
    name, number = calls.read_reference(text)
    if whole == ("@" in text):
        expected = f"the name alone with all=True, got '{text}'"
        if not whole:
            expected = f"'{name}@NUMBER', or all=True for every version, got '{text}'"
        raise InputError(f"delete: expected {expected}")
    if whole:
        proofs: list[DatasetErasure] = yield calls.delete_all(name)
        return proofs
    if number is None:
        number = (yield calls.version(name)).number
    return [(yield calls.delete_version(name, number))]


@with_own_names
class Datasets(
    Viewed["RawDatasets"], DatasetCalls[DatasetHandle, "list[Dataset]", "list[DatasetErasure]"]
):
    """The data sets of a server, for threads."""

    _carry_out = staticmethod(carry_out)
    _handle = DatasetHandle


class RawDatasets(WithRawResponse, of=Datasets):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    upload = Whole(Datasets.upload)
    list = Whole(Datasets.list)
    versions = Whole(Datasets.versions)
    get = Whole(Datasets.get)
    delete = Whole(Datasets.delete)


@with_own_names
class AsyncDatasets(
    Viewed["RawAsyncDatasets"],
    DatasetCalls[
        Coroutine[Any, Any, AsyncDatasetHandle],
        Coroutine[Any, Any, "list[Dataset]"],
        Coroutine[Any, Any, "list[DatasetErasure]"],
    ],
):
    """The data sets of a server, on an event loop."""

    _carry_out = staticmethod(acarry_out)
    _handle = AsyncDatasetHandle


class RawAsyncDatasets(WithRawResponse, of=AsyncDatasets):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    upload = AsyncWhole(AsyncDatasets.upload)
    list = AsyncWhole(AsyncDatasets.list)
    versions = AsyncWhole(AsyncDatasets.versions)
    get = AsyncWhole(AsyncDatasets.get)
    delete = AsyncWhole(AsyncDatasets.delete)
