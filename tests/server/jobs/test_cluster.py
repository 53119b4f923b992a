"""Which Ray a training may run on, before it waits in the queue."""

from __future__ import annotations

from typing import Any

import pytest

from aiaas_client.protocol.jobs import TrainSpec
from aiaas_server.core.errors import InvalidInput, NotSupported
from aiaas_server.jobs.cluster import check_cluster
from aiaas_server.jobs.recipes import recipe

HEAD = "ray://head.example:10001"
OFFERED = (HEAD, "ray://[::1]:10001")


def check(cluster: str, name: str = "mlp-classifier", ray: bool = True, **more: Any) -> None:
    asked = {"model": "m", "dataset": "d@1", "recipe": name, "cluster": cluster, **more}
    spec = TrainSpec.model_validate(asked)
    check_cluster(spec, recipe(name), OFFERED, lambda module: ray or None)


@pytest.mark.parametrize("cluster", ["ray://local", *OFFERED])
@pytest.mark.parametrize(
    "more",
    [
        {"name": "mlp-classifier"},
        {"name": "random-forest-classifier", "workers": 2},
        {"name": "ridge", "workers": 2, "folds": 3},
        {"name": "knn-classifier", "workers": 2, "search": {"params": {"neighbours": [1, 5]}}},
    ],
    ids=["network", "forest", "folds", "search"],
)
def test_what_can_be_spread_is_taken(cluster: str, more: dict[str, Any]) -> None:
    check(cluster, **more)


@pytest.mark.parametrize(
    "cluster",
    [
        "",
        "auto",
        "head:10001",
        "ray://",
        "ray://head",
        "ray://head:0",
        "ray://head:65536",
        "ray://head:10001/",
        "ray://head:10001?token=x",
        "ray://a@head:10001",
        "ray://local:",
        "ray://head:10001\n",
        "http://head:10001",
    ],
)
def test_nothing_but_an_address_of_ray_is_taken(cluster: str) -> None:
    with pytest.raises(InvalidInput, match="expected ray://host:port or ray://local, got"):
        check(cluster)


def test_a_cluster_that_the_operator_does_not_list_is_refused_with_those_that_are() -> None:
    """Whoever runs one could run code here."""
    with pytest.raises(
        NotSupported, match=r"does not offer ray://evil:1: .*ray://local, ray://hea"
    ):
        check("ray://evil:1")


@pytest.mark.parametrize("cluster", ["ray://local", HEAD])
def test_a_server_without_ray_says_what_to_install(cluster: str) -> None:
    with pytest.raises(NotSupported, match=r"has no ray.*aiaas-client\[ray\]"):
        check(cluster, ray=False)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"name": "ridge", "workers": 4}, "'ridge' trains in one process.*leave the cluster away"),
        ({"name": "ridge", "folds": 3}, "would have one worker: expected workers=2"),
        ({"name": "random-forest-regressor"}, "would have one worker"),
    ],
)
def test_a_training_that_would_not_use_it_is_told(more: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        check("ray://local", **more)
