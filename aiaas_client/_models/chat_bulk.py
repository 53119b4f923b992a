"""How bulk work carries prompts: one a request, its body a row, and what was written an object."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aiaas_client._api import writing as calls
from aiaas_client._api.inference import InferResult
from aiaas_client._bulk.items import iterate, length_of
from aiaas_client._bulk.plan import DEFAULT_BYTES, BulkOptions, BulkPlan
from aiaas_client._errors import InputError

if TYPE_CHECKING:
    from aiaas_client._api.call import Call, Response
    from aiaas_client._api.generation import Generation
    from aiaas_client._bulk.plan import Tensors

_ROW = "chat"


@dataclass(frozen=True, slots=True)
class ChatBulk:
    """One bulk call: prompts become calls, answers what is handed out."""

    model: str
    wanted: object
    options: Mapping[str, Any]

    def item(self, value: Any) -> Tensors:
        """One prompt as the body of its request."""
        body = calls.chat_body(self.model, value, self.wanted, self.options)
        row = np.empty(1, object)
        row[0] = calls.content_of(self.model, body)
        return {_ROW: row}

    def block(self, value: object) -> Tensors:
        """Prompts have no blocks.

        Raises:
            InputError: always.
        """
        raise InputError("prompts: expected one by one")

    def named(self, value: object) -> object:
        """Prompts have no names."""
        return value

    def call(self, rows: Mapping[str, Any]) -> Call[InferResult]:
        """The request of one prompt."""
        call = calls.chat_of(self.model, rows[_ROW].item(), self.wanted)

        def read(response: Response) -> InferResult:
            answer = np.empty(1, object)
            answer[0] = call.parse(response)
            return InferResult({_ROW: answer})

        return replace(call, parse=read)  # type: ignore[arg-type,return-value]  # the type changes

    def read(self, result: InferResult) -> Generation[Any]:
        """What was written, with the place of its prompt."""
        answer: Generation[Any] = result[_ROW].item()
        return replace(answer, index=result.index)


def run_many(bulk: ChatBulk, prompts: Any, options: BulkOptions, sender: Any, flavour: Any) -> Any:
    """Have all prompts answered, in threads or in tasks; gives a generator of either kind."""
    from aiaas_client._bulk.runners import Work, run_tasks, run_threads
    from aiaas_client._send.flavours import Tasks

    if isinstance(prompts, Mapping):
        raise InputError("prompts: expected many, got one mapping")
    is_async = flavour is Tasks
    if isinstance(prompts, AsyncIterable) and not is_async:
        raise InputError("prompts: asynchronous ones are for an AsyncClient")
    source = aiter(prompts) if isinstance(prompts, AsyncIterable) else iterate(prompts)
    plan = BulkPlan(bulk.model, bulk, False, 1, DEFAULT_BYTES)
    work = Work.of_items(plan, options, source, length_of(prompts), bulk.read)
    run: Any = run_tasks if is_async else run_threads
    return run(work, lambda rows: sender.send(bulk.call(rows)))
