"""A training's share of a Ray cluster: cores that it holds while it learns.

The process of the job is Ray's driver. When it ends, however it does, Ray ends what it has started
there; `ray://local` is a Ray of its own, whose processes end with it too.

Workers import this package where they run, so each node needs the same version of it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from aiaas_server.core.errors import NotSupported, StateUnavailable
from aiaas_server.jobs.cluster import LOCAL
from aiaas_server.jobs.recipes import AnyRecipe
from aiaas_server.jobs.recipes.recipe import Cluster

_PACKAGES: Final = Path(__file__).parents[3]
_DISTRIBUTIONS: Final = {"torch": "torch", "sklearn": "scikit-learn"}  # by module
_STORE: Final = 256 << 20  # bytes of shared memory; what is more goes to the disk
_PATIENCE: Final = 300.0  # seconds until workers are free
_GRACE: Final = "10"  # seconds after which a cluster ends the work of a process that has gone


@contextmanager
def joined(address: str, found: AnyRecipe, workers: int, threads: int) -> Iterator[Cluster]:
    """Hold workers of a cluster.

    Args:
        address: `ray://host:port` or `ray://local`.
        threads: Cores of the job, which its workers share; each takes one at least.
    Raises:
        StateUnavailable: It cannot be reached, or has too few free cores for too long.
        NotSupported: It has other versions than this server.
    """
    cores = max(threads // workers, 1)
    _prepare(address)
    import ray

    try:
        _connect(ray, address, workers * cores)
        cluster = _held(ray, workers, cores, address == LOCAL, found)
        _check_versions(ray, cluster, found)
        yield cluster
    finally:
        ray.shutdown()


def _prepare(address: str) -> None:
    """What Ray reads from the environment, when it is imported and when it starts others."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_CLIENT_RECONNECT_GRACE_PERIOD"] = _GRACE
    if address == LOCAL:
        # It listens on all of the machine's addresses: nobody else is to be let in.
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
        os.environ["PYTHONPATH"] = str(_PACKAGES)  # of its workers


def _connect(ray: Any, address: str, cores: int) -> None:
    if address != LOCAL:
        try:
            ray.init(address, log_to_driver=True, logging_level="warning")
        except (ConnectionError, RuntimeError) as error:  # also: another version of Ray or Python
            hint = "is it up, and does RAY_AUTH_TOKEN_PATH of this server name its token?"
            raise StateUnavailable(f"cluster {address}: {str(error)[:1000]}; {hint}") from None
        return
    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        logging_level="warning",
        object_store_memory=_STORE,
        # Its sockets need a path of less than 108 bytes, wherever the directory of the job lies.
        _temp_dir=f"/proc/{os.getpid()}/cwd/ray",
    )


def _held(ray: Any, workers: int, cores: int, is_local: bool, found: AnyRecipe) -> Cluster:
    from ray.util import placement_group

    has: Mapping[str, float] = ray.cluster_resources()
    gpus = int("torch" in found.modules and has.get("GPU", 0.0) >= workers)
    bundle = {"CPU": cores, "GPU": gpus} if gpus else {"CPU": cores}
    group = placement_group([bundle] * workers, strategy="PACK")
    until = time.monotonic() + _PATIENCE
    while not group.wait(timeout_seconds=5):
        if time.monotonic() > until:
            raise StateUnavailable(
                f"cluster: {workers} workers of {cores} cores each were not free within "
                f"{_PATIENCE:g} s; it has {has.get('CPU', 0.0):g} cores on "
                f"{len(ray.nodes())} machines"
            )
    return Cluster(group, workers, cores, gpus, is_local)


def _check_versions(ray: Any, cluster: Cluster, found: AnyRecipe) -> None:
    """See that every worker has what this process has."""
    names = [_DISTRIBUTIONS[module] for module in found.modules if module in _DISTRIBUTIONS]
    own = {name: _version(name) for name in ["aiaas-client", *names]}
    asked = _by_value(list(own))
    refs = [
        ray.remote(asked).options(**cluster.options(at)).remote() for at in range(cluster.workers)
    ]
    for machine, has in ray.get(refs):
        for name, expected in own.items():
            if has[name] != expected:
                raise NotSupported(
                    f"cluster: {machine} has {name} {has[name]}, and this server {expected}: "
                    "workers need the same"
                )


def _by_value(names: list[str]) -> Any:
    """A function that a machine without this package can run as well: its code travels."""

    def versions() -> tuple[str, dict[str, str]]:
        import socket
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for name in names:
            try:
                found[name] = version(name).partition("+")[0]
            except PackageNotFoundError:
                found[name] = "not installed"
        return socket.gethostname(), found

    return versions


def _version(name: str) -> str:
    """Of a distribution, without what it was built for."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "not installed"
