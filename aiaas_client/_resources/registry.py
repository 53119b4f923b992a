"""What a registry knows of its models: `client.models.about`, `versions`, `history` and the like.

Lists give everything there is, or as much as `limit` says, however many requests that takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import management as calls
from aiaas_client._errors import InputError
from aiaas_client._resources.numbers import number_of

if TYPE_CHECKING:
    from aiaas_client._api.management import Part
    from aiaas_client._send.work import Work
    from aiaas_client.protocol.management import Policy

# What a call gives, or an awaitable of it.
OneModel = TypeVar("OneModel")
OneVersion = TypeVar("OneVersion")
ManyModels = TypeVar("ManyModels")
ManyVersions = TypeVar("ManyVersions")
Entries = TypeVar("Entries")  # of a history
OneDiff = TypeVar("OneDiff")
Proof = TypeVar("Proof")  # of an erasure


class Registry(Generic[OneModel, OneVersion, ManyModels, ManyVersions, Entries, OneDiff, Proof]):
    """What there is in a registry, and what came before it."""

    _sender: Any
    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    def registered(self, *, limit: int | None = None) -> ManyModels:
        """Give the models of the registry by name, each with who serves; at most `limit`.

        `list` gives what the server has loaded, this what the registry holds.

        Raises:
            NotSupportedError: this server has no registry.
        """
        found: ManyModels = self._carry_out(pages(calls.models, limit), self._sender)
        return found

    def about(self, name: str) -> OneModel:
        """Give what the registry knows of a model: its latest version, and who serves.

        Raises:
            NotFoundError: there is no such model.
            NotSupportedError: this server has no registry.
        """
        found: OneModel = self._sender.send(calls.model(name))
        return found

    def versions(self, name: str, *, limit: int | None = None) -> ManyVersions:
        """Give the versions of a model, the newest first, erased ones too; at most `limit`.

        Raises:
            NotFoundError: there is no such model.
        """
        steps = pages(lambda after, most: calls.versions(name, after, most), limit)
        found: ManyVersions = self._carry_out(steps, self._sender)
        return found

    def version(self, name: str, version: str | int) -> OneVersion:
        """Give one version by its number, an alias or "latest".

        Raises:
            NotFoundError: there is no such model or version.
        """
        found: OneVersion = self._sender.send(calls.version(name, version))
        return found

    def history(self, name: str, *, limit: int | None = None) -> Entries:
        """Give what was done to a model, the newest first: who, when, before, after; at most
        `limit` entries.

        Raises:
            NotFoundError: there is no such model.
        """
        steps = pages(lambda after, most: calls.history(name, after, most), limit)
        found: Entries = self._carry_out(steps, self._sender)
        return found

    def diff(self, name: str, old: str | int, new: str | int) -> OneDiff:
        """Tell how two versions differ: files, card, signature, report, metrics, lineage.

        Raises:
            NotFoundError: there is no such model or version.
        """
        found: OneDiff = self._sender.send(calls.diff(name, old, new))
        return found

    def update(
        self,
        name: str,
        *,
        description: str | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        etag: str = "",
    ) -> OneModel:
        """Change what a model says of itself, or its rules.

        Args:
            name: The model.
            description: In place of the former one.
            policy: All its rules, in place of the former ones.
            etag: Of the model as it was read: it is not changed if somebody else was faster.
        Raises:
            PreconditionFailedError: the model is no longer as `etag` says.
        """
        members: dict[str, Any] = {}
        if description is not None:
            members["description"] = description
        if policy is not None:
            rules = calls.members_of("Policy", name, policy)
            members["policy"] = calls.asked("Policy", name, **rules).model_dump()
        if not members:
            raise InputError("update: expected a description or a policy", model=name)
        patch = calls.asked("ModelPatch", name, **members)
        found: OneModel = self._sender.send(calls.update_model(name, patch, etag))
        return found

    def delete(
        self,
        name: str,
        version: str | int | None = None,
        *,
        force: bool = False,
        replacement: str | int | None = None,
    ) -> Proof:
        """Erase one version of a model, or the model with all its versions, for good.

        Args:
            name: The model.
            version: Which one, its number or an alias; all of them by default.
            force: Even if it serves, is aliased or pinned.
            replacement: The version that takes the place of the erased one then.
        Returns:
            What was removed, and that nothing of it is left.
        Raises:
            ConflictError: it serves, is aliased or pinned.
            NotFoundError: there is no such model or version.
        """
        if version is None:
            if replacement is not None:
                raise InputError("delete: replacement: expected a version to replace", model=name)
            found: Proof = self._sender.send(calls.delete_model(name, force=force))
            return found
        proof: Proof = self._carry_out(_delete(name, version, force, replacement), self._sender)
        return proof


def _delete(name: str, version: str | int, force: bool, replacement: str | int | None) -> Work[Any]:
    number = yield from number_of(name, version)
    other = None if replacement is None else (yield from number_of(name, replacement))
    return (yield calls.delete_version(name, number, force=force, replacement=other))


def pages(ask: Callable[[str | None, int], Any], limit: int | None) -> Work[list[Any]]:
    """Ask for one part after another."""
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected a number from 1 on, or None for all, got {limit!r}")
    found: list[Any] = []
    after: str | None = None
    while limit is None or len(found) < limit:
        most = calls.PAGE_ITEMS if limit is None else min(limit - len(found), calls.PAGE_ITEMS)
        part: Part = yield ask(after, most)
        found += part.items
        if part.following is None or part.following == after:
            break
        after = part.following
    return found if limit is None else found[:limit]
