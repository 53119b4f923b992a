"""Predictions by plain calls: a few small payloads in JSON, for a model that is loaded.

All else, whose reading or preparing would hold the event loop or that has to be waited for, is left
untouched to the routes in `predict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.light import may_be_light, start_light
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.payloads import INLINE_ITEMS, Answer, task_of
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.hot import HotCall
from aiaas_server.http.json_body import parse_object
from aiaas_server.http.kserve.answers import PredictionWriter
from aiaas_server.http.kserve.choice import ModelChoice
from aiaas_server.http.kserve.payloads import instances_form, payloads_of, simple_form
from aiaas_server.http.scopes import INFER, forbidden
from aiaas_server.http.slices import check_count
from aiaas_server.settings import Settings

LARGEST = 128 << 10  # bytes of a body; more than what light payloads have in base64


class HotPredictions:
    """`http.hot.HotEndpoint` of the predict routes.

    Args:
        choice: Finds the model where the path names none.
        writer: Writes the answers.
    """

    def __init__(
        self, pool: ModelPool, settings: Settings, choice: ModelChoice, writer: PredictionWriter
    ) -> None:
        self._pool = pool
        self._choice = choice
        self._writer = writer
        self._largest = min(LARGEST, settings.offload_json_bytes, settings.max_json_bytes)
        self._max_instances = settings.max_instances

    def v1(self, name: str, version: int | str | None, call: HotCall) -> bool:
        """`POST /v1/models/{m}[/versions/{v}]:predict`."""
        if not self._is_readable(call):
            return False
        model = self._pool.find(name, version, call.context.caller)
        if model is None or not may_be_light(model):
            return False
        instances, params = instances_form(parse_object(call.body))
        return self._begin(call, model, instances, params, many=True)

    def simple(self, call: HotCall) -> bool:
        """`POST /predict`."""
        if not self._is_readable(call):
            return False
        kind, payloads, many, name, version, task, params = simple_form(parse_object(call.body))
        model = self._choice.find(kind, name, version, task, call.context.caller)
        if model is None or not may_be_light(model):
            return False
        return self._begin(call, model, payloads, params, many=many)

    def _is_readable(self, call: HotCall) -> bool:
        """Whether the body is said to be JSON, and small.

        Raises:
            HttpError: 403 where the caller may not ask models at all.
        """
        if "infer" not in call.context.caller.identity.scopes:
            raise forbidden(INFER)
        if len(call.body) > self._largest:
            return False
        return b"json" in call.context.headers.get(b"content-type", b"").lower()

    def _begin(
        self,
        call: HotCall,
        model: LoadedModel,
        instances: Sequence[Any],
        params: dict[str, Any],
        *,
        many: bool,
    ) -> bool:
        kind = task_of(model).input
        check_count("instances", len(instances), self._max_instances)
        if len(instances) > INLINE_ITEMS:
            return False
        read = payloads_of(kind, instances)
        payloads = [payload for payload in read if not isinstance(payload, InvalidInput)]
        call.finish = partial(self._finish, model, read, many)
        call.begun = start_light(call, model, payloads, params, call.context.deadline)
        return call.begun is not None

    def _finish(
        self,
        model: LoadedModel,
        read: Sequence[Any],
        many: bool,
        call: HotCall,
        answers: list[Answer],
    ) -> None:
        """Write the predictions, and what was wrong with payloads that are none."""
        if len(answers) < len(read):
            rest = iter(answers)
            answers = [item if isinstance(item, InvalidInput) else next(rest) for item in read]
        call.answer(self._writer.write_now(model, answers, many=many))
