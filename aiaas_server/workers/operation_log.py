"""What a worker that starts later must be told: the operations so far, without superseded ones."""

from __future__ import annotations

from dataclasses import replace

from aiaas_server.http.operations import SETTINGS, Operation

_Subject = tuple[str, str]


class OperationLog:
    """The operations that all workers have carried out."""

    def __init__(self) -> None:
        self._operations: dict[_Subject, Operation] = {}

    def operations(self) -> list[Operation]:
        """In the order in which they are to be replayed."""
        return list(self._operations.values())

    def last(self, operation: Operation) -> Operation | None:
        """The operation that `operation` supersedes."""
        return self._operations.get(_key(operation))

    def remember(self, operation: Operation) -> Operation | None:
        """Add an operation; gives the one it replaces altogether, whose files nobody needs now.

        Changes of settings are merged, so that the log stays as short as there are settings,
        models and regions.
        """
        if operation.kind == "unregister":
            self._forget_regions(operation.name)
            return None
        key = _key(operation)
        old = self._operations.pop(key, None)
        if old is not None and operation.kind in SETTINGS:
            operation = replace(operation, body={**old.body, **operation.body})
        self._operations[key] = operation
        return old

    def _forget_regions(self, name: str) -> None:
        for key in list(self._operations):
            if key[0] == "region" and name in ("", key[1]):
                del self._operations[key]


def _key(operation: Operation) -> _Subject:
    if operation.kind in SETTINGS:
        return operation.kind, operation.name
    about = "model" if operation.kind in ("load", "unload") else "region"
    return about, operation.name
