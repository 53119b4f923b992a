"""A pipeline: models of the same server one after another, without a trip back to the caller.

Payload: that of the first step. Each step gets the former one's prediction, or a part of it, and
the last step's prediction is the answer. Every step runs through its model's own queue, so the
payloads of many callers are batched at each of them.

Example card (reads a picture, then tells the mood of its text):

    {"task": "pipeline", "steps": [{"model": "ocr"}, {"model": "sentiment", "input": "text"}]}
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from pydantic import Field, JsonValue

from aiaas_client.protocol.predictions import Prediction, Record
from aiaas_server.core.describe.card import Assets, Card, Step
from aiaas_server.core.errors import InvalidInput, LoadFailed, ServerError
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Run

MAX_ITEMS = 1000
PAYLOAD = "$"


class PipelineParams(Params):
    """`steps`: model name -> the params of its step, over those of the card."""

    steps: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)


class PipelineItems(Prediction):
    """The answer of a pipeline whose last step runs once an item."""

    items: tuple[Any, ...]


class Pipeline:
    """The task of one version."""

    input: PayloadKind = "any"
    predictions: tuple[type[Prediction], ...] = (Record,)
    params = PipelineParams

    def __init__(
        self, card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
    ) -> None:
        if not card.steps:
            raise LoadFailed("model.json: a pipeline needs 'steps'")
        if any(step.model == card.name for step in card.steps):
            raise LoadFailed(f"model.json: pipeline '{card.name}' is a step of itself")
        self._steps = card.steps

    async def predict(self, payload: Any, params: PipelineParams, run: Run) -> Prediction:
        """Run the steps; an error says at which of them it happened."""
        unknown = params.steps.keys() - {step.model for step in self._steps}
        if unknown:
            raise InvalidInput(
                f"params.steps: '{min(unknown)}' is no step; "
                f"the steps are {', '.join(step.model for step in self._steps)}"
            )
        value: Any = payload
        for number, step in enumerate(self._steps, 1):
            try:
                value = await _run_step(step, value, payload, params.steps.get(step.model, {}), run)
            except ServerError as error:
                error.message = f"step {number} ('{step.model}'): {error.message}"
                raise
        return PipelineItems(items=tuple(value)) if isinstance(value, list) else value


async def _run_step(
    step: Step, value: Any, payload: Any, params: Mapping[str, JsonValue], run: Run
) -> Any:
    model = run.model(step.model, step.version)
    chosen = payload if step.input == PAYLOAD else _part(value, step.input)
    given = {**step.params, **params}
    if not step.each:
        return await model.predict(chosen, given)
    if not isinstance(chosen, list | tuple):
        raise InvalidInput(f"'{step.input}' is no list, so the step cannot run once an item")
    if len(chosen) > MAX_ITEMS:
        raise InvalidInput(f"'{step.input}' has {len(chosen)} items, at most {MAX_ITEMS} are run")
    try:
        async with asyncio.TaskGroup() as group:
            items = [group.create_task(model.predict(item, given)) for item in chosen]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the others are not worked on for nobody
    return [item.result() for item in items]


def _part(value: Any, path: str) -> Any:
    """Follow a path such as "lines.0.text"; "lines.*.text" is the list of all texts."""
    if not path:
        return value.model_dump() if isinstance(value, Prediction) else value
    name, _, rest = path.partition(".")
    if name == "*":
        if not isinstance(value, list | tuple):
            raise InvalidInput(f"'*': got {type(value).__name__}, expected a list")
        return [_part(item, rest) for item in value]
    try:
        if isinstance(value, list | tuple):
            found = value[int(name)]
        elif isinstance(value, dict):
            found = value[name]
        else:
            found = getattr(value, name) if name in type(value).model_fields else value[name]
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise InvalidInput(f"the former step's answer has no '{name}'") from None
    return _part(found, rest) if rest else found


open_task = Pipeline
