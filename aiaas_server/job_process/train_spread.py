"""Where a training is spread to: a Ray cluster while it learns, if its spec names one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from aiaas_client.protocol.jobs import TrainSpec
from aiaas_server.jobs.recipes import AnyRecipe
from aiaas_server.jobs.recipes.on_ray import joined
from aiaas_server.jobs.recipes.recipe import Cluster, Watch

A = TypeVar("A")
B = TypeVar("B")


@contextmanager
def spread(
    spec: TrainSpec, found: AnyRecipe, threads: int, watch: Watch
) -> Iterator[Cluster | None]:
    """The workers of the cluster that a spec names, held meanwhile; None where it names none.

    What a recipe does by joblib, such as the trees of a forest, goes there too.
    """
    if spec.cluster is None:
        yield None
        return
    watch.phase("joining")
    with joined(spec.cluster, found, spec.workers, threads) as cluster:
        watch.log(f"{spec.workers} workers of {cluster.cores} cores each at {spec.cluster}")
        if "sklearn" not in found.modules:
            yield cluster
            return
        from joblib import parallel_config
        from ray.util.joblib import register_ray

        register_ray()
        # joblib's pool asks for what Ray's leaves out, and warns of each time.
        logging.getLogger("ray.util.multiprocessing.pool").setLevel(logging.ERROR)
        remote = cluster.options()
        # Large arrays go through Ray, not through files that other machines do not have.
        with parallel_config(backend="ray", max_nbytes=None, ray_remote_args=remote):
            yield cluster


def measured_apart(cluster: Cluster, work: Callable[[A], B], pieces: Iterable[A]) -> Iterator[B]:
    """What each piece gives, in order, as it is done; by the pool on which joblib's backend for
    Ray stands, since that backend tells only of all pieces together.
    """
    from ray.util.multiprocessing import Pool

    pool = Pool(cluster.workers, ray_remote_args=cluster.options())
    try:
        yield from pool.imap(work, pieces)
    finally:
        pool.terminate()
