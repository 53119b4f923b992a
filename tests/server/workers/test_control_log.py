"""The log of orders: what was superseded is left out, settings are merged, its size is bounded."""

from __future__ import annotations

import pytest

from aiaas_server.http.orders import Order
from aiaas_server.workers.control_log import ControlLog

LOAD = Order("load", "m", {"config": None, "force": False})
AGAIN = Order("load", "m", {"config": "{}", "force": False}, stored={"1/model.onnx": "/x/0"})
UNLOAD = Order("unload", "m")
OTHER = Order("load", "n")
REGION = Order("register", "r", {"key": "k", "offset": 0, "byte_size": 8})
SECOND = Order("register", "s", {"key": "k", "offset": 0, "byte_size": 8})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param([LOAD, OTHER], [LOAD, OTHER], id="models beside one another"),
        pytest.param([LOAD, OTHER, AGAIN], [OTHER, AGAIN], id="the last load of a model"),
        pytest.param([LOAD, UNLOAD], [UNLOAD], id="an unload after a load"),
        pytest.param([UNLOAD, LOAD], [LOAD], id="a load after an unload"),
        pytest.param([REGION, SECOND], [REGION, SECOND], id="regions"),
        pytest.param([REGION, SECOND, Order("unregister", "r")], [SECOND], id="one is forgotten"),
        pytest.param([REGION, LOAD, SECOND, Order("unregister")], [LOAD], id="all are forgotten"),
        pytest.param([Order("unregister", "x")], [], id="forgetting the unknown"),
        pytest.param(
            [
                Order("logging", body={"log_info": False, "log_error": True}),
                Order("logging", body={"log_error": False}),
            ],
            [Order("logging", body={"log_info": False, "log_error": False})],
            id="settings are merged",
        ),
        pytest.param(
            [
                Order("model_tracing", "m", {"trace_rate": "5"}),
                Order("model_tracing", "n", {"trace_rate": "6"}),
                Order("model_tracing", "m", {"trace_rate": None}),
            ],
            [
                Order("model_tracing", "n", {"trace_rate": "6"}),
                Order("model_tracing", "m", {"trace_rate": None}),
            ],
            id="settings of models",
        ),
    ],
)
def test_the_log_holds_what_a_new_worker_must_be_told(
    given: list[Order], kept: list[Order]
) -> None:
    log = ControlLog()
    for order in given:
        log.remember(order)
    assert log.orders() == kept
    assert [Order.from_json(order.as_json()) for order in kept] == kept


def test_the_order_that_is_replaced_is_told_so_that_its_files_can_go() -> None:
    log = ControlLog()
    assert log.remember(AGAIN) is None
    assert log.last(UNLOAD) == AGAIN
    assert log.remember(UNLOAD) == AGAIN
    assert log.last(OTHER) is None
