"""The log of operations: superseded ones are left out, settings are merged, its size is bounded."""

from __future__ import annotations

import pytest

from aiaas_server.http.operations import Operation
from aiaas_server.workers.operation_log import OperationLog

LOAD = Operation("load", "m", {"config": None, "force": False})
AGAIN = Operation("load", "m", {"config": "{}", "force": False}, stored={"1/model.onnx": "/x/0"})
UNLOAD = Operation("unload", "m")
OTHER = Operation("load", "n")
REGION = Operation("register", "r", {"key": "k", "offset": 0, "byte_size": 8})
SECOND = Operation("register", "s", {"key": "k", "offset": 0, "byte_size": 8})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param([LOAD, OTHER], [LOAD, OTHER], id="models beside one another"),
        pytest.param([LOAD, OTHER, AGAIN], [OTHER, AGAIN], id="the last load of a model"),
        pytest.param([LOAD, UNLOAD], [UNLOAD], id="an unload after a load"),
        pytest.param([UNLOAD, LOAD], [LOAD], id="a load after an unload"),
        pytest.param([REGION, SECOND], [REGION, SECOND], id="regions"),
        pytest.param(
            [REGION, SECOND, Operation("unregister", "r")], [SECOND], id="one is forgotten"
        ),
        pytest.param(
            [REGION, LOAD, SECOND, Operation("unregister")], [LOAD], id="all are forgotten"
        ),
        pytest.param([Operation("unregister", "x")], [], id="forgetting the unknown"),
        pytest.param(
            [
                Operation("logging", body={"log_info": False, "log_error": True}),
                Operation("logging", body={"log_error": False}),
            ],
            [Operation("logging", body={"log_info": False, "log_error": False})],
            id="settings are merged",
        ),
        pytest.param(
            [
                Operation("model_tracing", "m", {"trace_rate": "5"}),
                Operation("model_tracing", "n", {"trace_rate": "6"}),
                Operation("model_tracing", "m", {"trace_rate": None}),
            ],
            [
                Operation("model_tracing", "n", {"trace_rate": "6"}),
                Operation("model_tracing", "m", {"trace_rate": None}),
            ],
            id="settings of models",
        ),
    ],
)
def test_the_log_holds_what_a_new_worker_must_be_told(
    given: list[Operation], kept: list[Operation]
) -> None:
    log = OperationLog()
    for operation in given:
        log.remember(operation)
    assert log.operations() == kept
    assert [Operation.from_json(operation.as_json()) for operation in kept] == kept


def test_the_order_that_is_replaced_is_told_so_that_its_files_can_go() -> None:
    log = OperationLog()
    assert log.remember(AGAIN) is None
    assert log.last(UNLOAD) == AGAIN
    assert log.remember(UNLOAD) == AGAIN
    assert log.last(OTHER) is None
