"""Which Ray a training may run on, and whether it has any use for one.

Whoever runs a cluster can run code in the process of a job that joins it: results come back as
pickles. So a job may name the clusters of the operator's list only, or `ray://local`, a Ray that
its own process starts and that ends with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import Final

from aiaas_client.protocol.jobs import TrainSpec
from aiaas_server.core.errors import InvalidInput, NotSupported
from aiaas_server.jobs.recipes import AnyRecipe

LOCAL: Final = "ray://local"
_ADDRESS: Final = re.compile(r"ray://(?:[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(\d{1,5})")


def check_cluster(
    spec: TrainSpec,
    found: AnyRecipe,
    allowed: Collection[str] | None,
    find: Callable[[str], object] = find_spec,
) -> None:
    """See that a training can run where it asks to.

    Args:
        allowed: Addresses of the setting `ray_clusters`; None where they have been looked at.
        find: Finds a module by its name; None where there is none.
    Raises:
        InvalidInput: It is no address of Ray, or the training would not use it.
        NotSupported: Ray is not installed here, or the operator does not offer that cluster.
    """
    address = spec.cluster
    if address is None:
        return
    _check_address(address)
    _check_use(spec, found)
    modules = ("ray",) if address == LOCAL else ("ray", "grpc")
    missing = [module for module in modules if find(module) is None]
    if missing:
        raise NotSupported(
            f"cluster: this server has no {' and no '.join(missing)}: "
            'pip install "aiaas-client[ray]"'
        )
    if allowed is not None and address != LOCAL and address not in allowed:
        offered = ", ".join((LOCAL, *allowed))
        raise NotSupported(
            f"cluster: this server does not offer {address}: expected one of {offered} "
            "(the operator's setting ray_clusters)"
        )


def _check_address(address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if address != LOCAL and (match is None or not 0 < int(match[1]) < 65_536):
        raise InvalidInput(f"cluster: expected ray://host:port or {LOCAL}, got {address[:64]!r}")


def _check_use(spec: TrainSpec, found: AnyRecipe) -> None:
    """Networks take one worker and more; whatever else is spread needs two."""
    if "torch" in found.modules and found.parallel:
        return
    if not (found.parallel or spec.folds or spec.search is not None):
        raise InvalidInput(
            f"cluster: recipe '{found.name}' trains in one process, and there are no folds and no "
            "search to spread: leave the cluster away"
        )
    if spec.workers < 2:
        raise InvalidInput(f"cluster: {spec.cluster} would have one worker: expected workers=2 up")
