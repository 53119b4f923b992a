"""Versions come and go: `client.models.deploy`, `export` and `import_`."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._resources.registry import OneVersion

if TYPE_CHECKING:
    from aiaas_client._bulk.progress import Report
    from aiaas_client._bundles.bundle import AnyGolden, Assets, Card, Source

Place = TypeVar("Place")  # a path, or an awaitable of it

COMMIT_TIMEOUT = 300.0
"""Seconds: a server may take a minute to verify a version."""
_NO_DEADLINE = 1e9  # seconds; of a large download


class Deploying(Generic[OneVersion, Place]):
    """What brings versions to a server, and copies of them back."""

    _sender: Any
    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    def deploy(
        self,
        name: str,
        source: Source,
        *,
        card: Card | None = None,
        assets: Assets | None = None,
        golden: AnyGolden | None = None,
        alias: str | None = None,
        version: int | None = None,
        note: str = "",
        metrics: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
        description: str | None = None,
        progress: bool | Report | None = None,
        timeout: float = COMMIT_TIMEOUT,
    ) -> OneVersion:
        """Bring a version to the registry; returns when it is verified and kept.

        The same bytes again are the same version: nothing is sent, and nothing changes. What breaks
        off on the way goes on where it was, within this call and with the next one.

        Args:
            name: The model; it is made with its first version.
            source: The path of an .onnx file, with its weights beside it, or of a directory that
                has `model.onnx` and what belongs to it, or a pipeline's `model.json`; bytes; or an
                `onnx.ModelProto`.
            card: What the model is for and how payloads become tensors: a document, the path of
                one, or an object with `model_dump()`. Digests of assets are filled in.
            assets: Files that belong to it, by name: paths or bytes.
            golden: Inputs and what must come of them: a `Golden`, a document, or a path.
            alias: Points at the version once it is verified.
            version: Its number; the next one by default.
            note: One line for the history.
            metrics: As measured by whoever made it.
            lineage: Where it comes from: `{"parent": 3, "dataset": "…"}`.
            description: Of the model.
            progress: True shows a bar for reading, sending and verifying (rich or tqdm if they are
                installed); a callable is told the bytes the server has, and their total.
            timeout: Seconds for each request; verifying is the longest.
        Returns:
            The version; its `created_now` is False where these bytes were it already.
        Raises:
            InputError: something is wrong with the files; nothing was sent.
            ModelRejectedError: the server looked at it and refuses it; the text says why.
            ConflictError: that version is there with other bytes, or these bytes are another
                version, or the name is taken.
            NotSupportedError: this server has no registry.
        """
        from functools import partial

        from aiaas_client._bundles.bundle import gathered
        from aiaas_client._bundles.flows import Wishes, deploy

        if alias is not None:
            from aiaas_client._api.management import checked_alias

            checked_alias(alias)
        given = {
            "alias": alias,
            "version": version,
            "note": note,
            "metrics": metrics,
            "lineage": lineage,
            "description": description,
        }
        members = {key: value for key, value in given.items() if value}
        gather = partial(gathered, source, card=card, assets=assets, golden=golden)
        steps = deploy(name, gather, Wishes(members, progress))
        sender = self._sender.with_options(timeout=timeout, deadline=timeout)
        found: OneVersion = self._carry_out(steps, sender)
        return found

    def export(
        self,
        name: str,
        directory: str | PathLike[str],
        version: str | int | None = None,
        *,
        overwrite: bool = False,
        timeout: float = COMMIT_TIMEOUT,
    ) -> Place:
        """Fetch the files of a version, byte for byte, with a `bundle.json` that says what they
        are.

        Args:
            name: The model.
            directory: Where they go; it is there as a whole in the end, or not at all. The same
                bundle may be there already.
            version: A number or an alias; the latest by default.
            overwrite: Replace another bundle that is there.
            timeout: Seconds that the server may be silent.
        Returns:
            The directory.
        Raises:
            InputError: something else is in its place.
            ProtocolError: what came is not what the version's digests say.
            NotFoundError: there is no such model or version.
        """
        from aiaas_client._bundles.flows import export

        steps = export(name, version, Path(directory), overwrite=overwrite)
        sender = self._sender.with_options(timeout=timeout, deadline=_NO_DEADLINE)
        found: Place = self._carry_out(steps, sender)
        return found

    def import_(
        self,
        directory: str | PathLike[str],
        name: str | None = None,
        *,
        alias: str | None = None,
        note: str = "",
        progress: bool | Report | None = None,
        timeout: float = COMMIT_TIMEOUT,
    ) -> OneVersion:
        """Deploy what `export` has written; it becomes a version with the same digest.

        Args:
            directory: Where it is.
            name: The model; the one it was exported from by default.
            alias, note, progress, timeout: As `deploy` takes them.
        Raises:
            InputError: it is no exported bundle, or its files are not what they were.
        """
        from aiaas_client._bundles.flows import Wishes, import_

        members = {key: value for key, value in {"alias": alias, "note": note}.items() if value}
        steps = import_(Path(directory), name, Wishes(members, progress))
        sender = self._sender.with_options(timeout=timeout, deadline=timeout)
        found: OneVersion = self._carry_out(steps, sender)
        return found
