"""Which model answers a payload: the one that is named, the default, or the only one that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import ReferenceType, ref

from aiaas_server.core.errors import InvalidInput, ModelNotFound
from aiaas_server.core.events import Caller
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.payloads import task_of
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.predict import MAX_DEPTH, on_behalf
from aiaas_server.core.task import PayloadKind
from aiaas_server.http.incoming import RequestContext
from aiaas_server.http.lookup import obtain

# The task a payload is for when the caller names neither a model nor a task.
FIRST_TASK: dict[str, str] = {
    "text": "text-classification",
    "image": "image-classification",
    "audio": "voice-activity",
    "features": "tabular-classification",
    "bytes": "file-type",
}
MAX_LISTED = 20


class ModelChoice:
    """Chooses among the models of a pool.

    Args:
        defaults: The model of a task, or of a kind of payload.
    """

    def __init__(self, pool: ModelPool, defaults: Mapping[str, str]) -> None:
        self._pool = pool
        self._defaults = defaults
        self._serving: tuple[ReferenceType[LoadedModel], ...] = ()
        self._chosen: dict[tuple[PayloadKind, str, str], ReferenceType[LoadedModel]] = {}

    async def choose(
        self, kind: PayloadKind, name: str, version: int, task: str, context: RequestContext
    ) -> LoadedModel:
        """The model for a payload of that kind, loaded for it if need be.

        Args:
            name: As the caller names it, or "".
            version: 0 is the latest.
            task: As the caller names it, or "".
        Raises:
            InvalidInput: Several fit.
            ModelNotFound: None does, of those that are loaded.
            ServerError: As `ModelPool.obtain`.
        """
        wanted = name or self._default(kind, task)
        if wanted:
            return await obtain(self._pool, wanted, (name and version) or None, context)
        return self._fitting(kind, task, context.caller)

    def find(
        self, kind: PayloadKind, name: str, version: int, task: str, caller: Caller
    ) -> LoadedModel | None:
        """As `choose` where the model is loaded, else None.

        Raises:
            InvalidInput, ModelNotFound: As `choose` of a call that names no model.
        """
        wanted = name or self._default(kind, task)
        if wanted:
            return self._pool.find(wanted, (name and version) or None, caller)
        return self._fitting(kind, task, caller)

    def _default(self, kind: PayloadKind, task: str) -> str:
        return self._defaults.get(task or kind, "") if self._defaults else ""

    def _fitting(self, kind: PayloadKind, task: str, caller: Caller) -> LoadedModel:
        """The only one that fits; remembered as long as the same models serve."""
        serving = tuple(map(ref, self._pool.serving.ready.values()))
        if serving != self._serving:
            self._serving = serving
            self._chosen.clear()
        key = kind, task, "" if self._pool.serving.names is None else caller.identity.tenant
        known = self._chosen.get(key)
        found = known() if known is not None else None
        if found is not None and not self._pool.sees(found.full, caller):
            found = None  # it is public no more
        if found is None:
            found = self._choose_fitting(kind, task, caller)
            if not any(m.card is not None and m.card.steps for m in self._pool.models()):
                self._chosen[key] = ref(found)  # else it depends on the steps of the caller
        return self._pool.find(found.name, None, caller) or found  # its version for this caller

    def _choose_fitting(self, kind: PayloadKind, task: str, caller: Caller) -> LoadedModel:
        newest = {m.name: m for m in self._pool.models(caller) if m.task is not None}
        if task:
            fitting = [m for m in newest.values() if m.card is not None and m.card.task == task]
            return self._only(fitting, f"task '{task}'", newest)
        fitting = [m for m in newest.values() if fits(kind, self._kind_of(m, caller))]
        first = [m for m in fitting if m.card is not None and m.card.task == FIRST_TASK.get(kind)]
        default = self._defaults.get(FIRST_TASK.get(kind, ""))
        if default is not None and any(model.name == default for model in first):
            return newest[default]
        direct = [m for m in fitting if m.card is not None and not m.card.steps]
        return self._only(first or direct or fitting, named(kind), newest)

    def _kind_of(self, model: LoadedModel, caller: Caller) -> PayloadKind:
        """What a model takes; of a pipeline, what its first step takes as far as that is loaded."""
        for _ in range(MAX_DEPTH):
            if model.card is None or not model.card.steps:
                break
            first = model.card.steps[0]
            step = self._pool.find(
                first.model, first.version or None, on_behalf(caller, model.owner)
            )
            if step is None or step.task is None:
                break
            model = step
        return task_of(model).input

    def _only(
        self, fitting: Sequence[LoadedModel], what: str, models: Mapping[str, LoadedModel]
    ) -> LoadedModel:
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            names = ", ".join(f"'{model.name}'" for model in fitting[:MAX_LISTED])
            raise InvalidInput(f"several models take {what}: name one of {names} as 'model'")
        names = ", ".join(f"'{name}'" for name in list(models)[:MAX_LISTED]) or "none"
        if self._pool.loads_on_demand:  # what a model is for is known once it is loaded
            raise ModelNotFound(
                f"no loaded model is for {what}; loaded models with a task: {names}; "
                "any other is loaded when it is named as 'model'"
            )
        raise ModelNotFound(f"no model here is for {what}; models with a task: {names}")


def fits(given: PayloadKind, wanted: PayloadKind) -> bool:
    """Whether a task that takes `wanted` takes a payload of the kind `given`."""
    if wanted == "any":
        return True
    return given == wanted or (given == "bytes" and wanted in ("image", "audio"))


def named(kind: PayloadKind) -> str:
    """A kind of payload as a person says it."""
    names = {"text": "a text", "image": "an image", "audio": "audio", "bytes": "a file"}
    return names.get(kind, kind)
