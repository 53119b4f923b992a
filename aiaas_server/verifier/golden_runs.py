"""Runs a golden set: tensors through the model's queue, instances through its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import ServerError
from aiaas_server.core.events import NOBODY
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.predict import CallContext, Predictor, run_rows
from aiaas_server.registry.verification.golden import (
    Golden,
    compare_outputs,
    compare_predictions,
    judge,
    judge_tensor,
    main_field,
    refused,
)


async def run_golden(
    golden: Golden, model: LoadedModel, predictor: Predictor, labels: Sequence[str], deadline: float
) -> dict[str, Any]:
    """Run all of a golden set, and hold the answers against it.

    Args:
        labels: Of the model's card.
        deadline: On the loop's clock.
    Returns:
        What the report says of it.
    Raises:
        Rejected: It does not fit the model, or the model does not pass it.
    """
    if golden.inputs is not None:
        inputs = {name: tensor.array(name) for name, tensor in golden.inputs.items()}
        return await _tensors(golden, model, inputs, labels, deadline)
    return await _instances(golden, model, predictor, deadline)


async def _tensors(
    golden: Golden,
    model: LoadedModel,
    inputs: Mapping[str, Array],
    labels: Sequence[str],
    deadline: float,
) -> dict[str, Any]:
    known = model.signature.output_names
    names = tuple(golden.outputs or ())
    if golden.labels is not None:
        if golden.output is None and len(known) != 1:
            raise refused(f"output: expected one of {', '.join(known)[:256]}, got none")
        names = (golden.output or known[0],)
    for name in names:
        if name not in known:
            raise refused(f"expected outputs of {', '.join(known)[:256]}, got '{name[:64]}'")
    try:
        got = await run_rows(
            model, inputs, _rows(model, inputs), names, CallContext(deadline, NOBODY)
        )
    except ServerError as error:
        raise refused(f"its inputs cannot be run: {error.message}") from None
    if golden.labels is None:
        return compare_outputs(golden, got)
    return judge_tensor(golden, names[0], got[names[0]], labels)


def _rows(model: LoadedModel, inputs: Mapping[str, Array]) -> int:
    """Rows of the inputs where the model batches; what does not fit is told by its signature."""
    if not model.signature.max_batch_size:
        return 1
    rows = {array.shape[0] if array.ndim else 1 for array in inputs.values()}
    if len(rows) > 1:
        raise refused(
            f"inputs: expected equally many rows, got {', '.join(map(str, sorted(rows)))}"
        )
    return next(iter(rows), 1)


async def _instances(
    golden: Golden, model: LoadedModel, predictor: Predictor, deadline: float
) -> dict[str, Any]:
    if model.task is None:
        raise refused("instances: expected inputs, since the model has no card with a task")
    from aiaas_server.http.kserve.payloads import payloads_of  # and with it the web framework

    payloads = payloads_of(model.task.input, golden.instances or [])
    for row, payload in enumerate(payloads):
        if isinstance(payload, ServerError):
            raise refused(f"instance {row}: {payload.message}")
    try:
        answers = await predictor.predict(model, payloads, golden.params, deadline)
    except ServerError as error:
        raise refused(f"its instances cannot be predicted: {error.message}") from None
    documents = []
    for row, answer in enumerate(answers):
        if isinstance(answer, ServerError):
            raise refused(f"instance {row}: {answer.message}")
        documents.append(answer.model_dump(mode="json"))
    if golden.labels is None:
        return compare_predictions(golden, documents)
    return judge(golden, [main_field(document, golden.field) for document in documents])
