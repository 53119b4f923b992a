"""What the references of a job mean: `m@production` is a version, `d@latest` a data set.

They are resolved when a job is asked for, so that it works with what there was then: its spec says
`m@3` and `d@1` from there on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from aiaas_client.protocol.datasets import Dataset
from aiaas_client.protocol.jobs import read_model_ref
from aiaas_client.protocol.management import Version
from aiaas_server.core.errors import Conflict, NotFound
from aiaas_server.datasets.rows import document, get_ready
from aiaas_server.registry import models
from aiaas_server.registry.documents import version_document
from aiaas_server.registry.rows import VersionRow
from aiaas_server.registry.traffic import resolve
from aiaas_server.state.database import Connection


class Referred(NamedTuple):
    """A version that a job is about."""

    version: Version
    row: VersionRow

    @property
    def ref(self) -> str:
        """`name@number`."""
        return f"{self.version.model}@{self.version.version}"


class References(NamedTuple):
    """What a spec names.

    Attributes:
        spec: With `name@number` in place of what was written.
        datasets, versions: By those.
    """

    spec: dict[str, Any]
    datasets: dict[str, Dataset]
    versions: dict[str, Referred]


def resolved(connection: Connection, tenant: str, spec: dict[str, Any]) -> References:
    """Look up all that a spec names.

    Raises:
        NotFound: There is no such model, version or data set, or its rows are erased.
        Conflict: A version is erased, or its bytes are damaged.
    """
    found = References(dict(spec), {}, {})
    if "dataset" in spec:
        dataset = document(get_ready(connection, tenant, spec["dataset"]))
        found.spec["dataset"] = dataset.ref
        found.datasets[dataset.ref] = dataset
    # The model of a training is a name to be given, not one to be looked up.
    if spec["kind"] != "train" and "model" in spec:
        one = the_version(connection, tenant, spec["model"])
        found.spec["model"] = one.ref
        found.versions[one.ref] = one
    if "models" in spec:
        several = [the_version(connection, tenant, ref) for ref in spec["models"]]
        found.spec["models"] = [one.ref for one in several]
        found.versions.update({one.ref: one for one in several})
    return found


def the_version(connection: Connection, tenant: str, ref: str) -> Referred:
    """A version that is whole; of a name alone, the one that most calls without a version get.

    Raises:
        NotFound: There is no such model or version in the registry.
        Conflict: It is erased or damaged.
    """
    name, version = read_model_ref(ref)
    model = models.get_model(connection, tenant, name)
    latest = models.latest_version(connection, model.id)
    if version is None:
        shares = model.serving.shares(latest)
        if not shares:
            raise NotFound(f"model '{name}' has no version that answers calls: name one, {name}@1")
        version = max(shares, key=lambda number: shares[number])
    row = resolve(connection, model, version)
    if row.state != "verified":
        why = f" ({row.reason})" if row.reason else ""
        raise Conflict(f"version {row.number} of model '{name}' is {row.state}{why}")
    return Referred(version_document(model, row, latest), row)
