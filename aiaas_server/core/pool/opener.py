"""From a version on disk to one that could serve: open, complete, warm up. Blocking."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic_ns
from typing import NamedTuple

from aiaas_server.core.cache import ResponseCache
from aiaas_server.core.describe.bundle import Bundles, NoSession
from aiaas_server.core.describe.card import Card
from aiaas_server.core.describe.config import THREADS, ModelConfig, StringParameter
from aiaas_server.core.describe.derive import complete, signature_of, with_instances
from aiaas_server.core.describe.stored import ModelRepository, StoredModel, StoredVersion
from aiaas_server.core.describe.trial import Trial
from aiaas_server.core.errors import LoadFailed, ServerError
from aiaas_server.core.events import Observer
from aiaas_server.core.generation import GenerationLimits, Served
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.memory import estimate
from aiaas_server.core.pool.sizes import learn_sizes
from aiaas_server.core.pool.warmup import run_declared, run_sizes, useful_runs_at_once, warm_up
from aiaas_server.core.schedule.batching import varying_inputs
from aiaas_server.core.schedule.cost import Placement
from aiaas_server.core.schedule.curve import BatchCurve
from aiaas_server.core.schedule.dispatch import Terms
from aiaas_server.core.schedule.padding import Padding, declared, verify
from aiaas_server.core.schedule.queues import QueueBudget
from aiaas_server.core.schedule.rounding import warm_sizes
from aiaas_server.core.schedule.scheduler import Scheduler
from aiaas_server.core.schedule.shares import Shares
from aiaas_server.core.schedule.sizing import Sizing, Unit, clock_of
from aiaas_server.core.session import OpenSession, Session, isolation_of
from aiaas_server.core.signature import Signature
from aiaas_server.core.statistics import Statistics
from aiaas_server.core.task import AnyTask
from aiaas_server.settings import Settings

_log = logging.getLogger("aiaas_server")

OnServe = Callable[[LoadedModel], object]
"""Is told of a version that was opened, before it serves; in the thread that opened it."""


class Opened(NamedTuple):
    """A version that could serve, and what it cost: estimated bytes and nanoseconds."""

    model: LoadedModel
    size: int
    took_ns: int


class Opener:
    """Opens versions, each in the thread that calls.

    Args:
        open_session: Opens one model file.
        open_isolated: Opens one in a process of its own; without it such models are refused.
        bundles: Opens the cards beside the models; without it they serve tensors only.
        queue_budget: Room for waiting requests, shared by all models.
        shares: Whose turn it is, where there are tenants.
        measure: Tells the memory this process takes, in bytes.
        on_serve: Is told of each version that was opened, before it serves.
    """

    def __init__(
        self,
        repository: ModelRepository,
        open_session: OpenSession,
        settings: Settings,
        observers: Sequence[Observer],
        bundles: Bundles | None,
        queue_budget: QueueBudget,
        shares: Shares | None,
        measure: Callable[[], int],
        on_serve: OnServe | None = None,
        open_isolated: OpenSession | None = None,
    ) -> None:
        self._repository = repository
        self._open_session = open_session
        self._open_isolated = open_isolated
        self._settings = settings
        self._observers = tuple(observers)
        self._bundles = bundles
        self._queue_budget = queue_budget
        self._shares = shares
        self._measure = measure
        self._on_serve = on_serve
        self._cache = ResponseCache(settings.response_cache_bytes)

    def open(self, stored: StoredModel, version: StoredVersion, statistics: Statistics) -> Opened:
        """Open, complete, warm up.

        Raises:
            LoadFailed: It cannot be served; the message is the reason.
        """
        try:
            return self._open(stored, version, statistics)
        except ServerError:
            raise
        except Exception as error:
            _log.exception("model '%s': loading version %d failed", stored.name, version.number)
            raise LoadFailed(f"it cannot be loaded: {type(error).__name__}") from error

    def size_of_files(self, version: StoredVersion) -> int:
        """Bytes of the model file and of those that hold weights of it; 0 where there is none."""
        return _size(self._repository.files_of(version)) if version.path.is_file() else 0

    def _open(self, stored: StoredModel, version: StoredVersion, statistics: Statistics) -> Opened:
        card = None if self._bundles is None else self._bundles.card(stored, version)
        without_model = card is not None and bool(card.steps)
        if not without_model and not version.path.is_file():
            raise LoadFailed(f"it has no file '{version.path.name}'")
        stored.config.refuse_unsupported()
        size = 0 if without_model else _size(self._repository.files_of(version))
        before, started = self._measure(), time.monotonic_ns()
        writes = card is not None and card.generation is not None
        if writes:
            stored = replace(stored, config=self._of_one_step(stored.config))
        session = NoSession() if without_model else self._session(stored, version)
        try:
            prepare = self._writing if writes else self._prepared
            model = prepare(stored, version, session, card, statistics)
            if self._on_serve is not None:
                self._on_serve(model)
        except BaseException:
            session.close()
            raise
        taken = estimate(size, before, self._measure())
        taken += sum(isolation.memory_bytes for isolation in model.isolations)
        return Opened(model, taken, time.monotonic_ns() - started)

    def _session(self, stored: StoredModel, version: StoredVersion) -> Session:
        try:
            if not stored.isolated:
                return self._open_session(version.path, stored.config)
            if self._open_isolated is None:
                raise LoadFailed("it is to run in a process of its own, which is not offered here")
            named = stored.config.model_copy(update={"name": stored.name})
            return self._open_isolated(version.path, named)
        except LoadFailed:
            raise
        except Exception as error:
            _log.exception("model '%s': opening version %d failed", stored.name, version.number)
            raise LoadFailed(f"it cannot be opened: {type(error).__name__}") from error

    def _prepared(
        self,
        stored: StoredModel,
        version: StoredVersion,
        session: Session,
        card: Card | None,
        statistics: Statistics,
    ) -> LoadedModel:
        config = self._complete(stored, session, card)
        signature = signature_of(config)
        # The event loop waits for no other process, however quick its answers have been.
        isolated = isolation_of(session) is not None
        placement = Placement(never=isolated or session.graph.cost_in_values)
        known = warm_up(session, signature, placement)
        sizes = self._run_first(stored, version, config, session, signature)
        config = self._with_useful_instances(stored, config, session, signature)
        padding = _padding(card, config, session, signature)
        sizing = self._sizing(config, session, signature, statistics, known, sizes, padding)
        task = self._task(card, stored, version, session, signature)
        scheduler = Scheduler(
            stored.told,
            version.number,
            session,
            signature,
            config,
            statistics,
            terms=self._terms(padding, sizes, sizing),
            placement=placement,
            observers=self._observers,
            owner=stored.owner,
        )
        return LoadedModel(
            stored.told,
            version.number,
            config,
            signature,
            statistics,
            self._labels(stored, version, config),
            session,
            scheduler,
            card=card,
            task=task,
            cache=self._cache if config.response_cache.enable else None,
            owner=stored.owner,
        )

    def _terms(
        self,
        padding: Padding | None = None,
        warm_sizes: Sequence[int] = (),
        sizing: Sizing | None = None,
    ) -> Terms:
        return Terms(
            self._settings.queue_size,
            self._queue_budget,
            padding,
            warm_sizes,
            sizing,
            self._shares,
        )

    # A version that writes runs its session itself: nothing is tried, and rows are not joined.

    def _of_one_step(self, config: ModelConfig) -> ModelConfig:
        """Its configuration: all cores work on one step, where it does not say otherwise."""
        threads = config.threads_per_run(self._settings.threads_per_generation)
        parameters = {
            **config.parameters,
            THREADS: StringParameter(string_value=str(threads)),
        }
        return config.model_copy(
            update={"max_batch_size": 0, "dynamic_batching": None, "parameters": parameters}
        )

    def _writing(
        self,
        stored: StoredModel,
        version: StoredVersion,
        session: Session,
        card: Card | None,
        statistics: Statistics,
    ) -> LoadedModel:
        assert card is not None, "it says how it writes"
        assert self._bundles is not None, "they read the card"
        config = complete(
            stored.told, stored.config, session, default_max_batch_size=0, instances=1
        )
        signature = signature_of(config)
        served = Served(stored.told, version.number, statistics, self._observers, stored.owner)
        limits = GenerationLimits(
            slots=self._settings.generate_slots,
            cache_bytes=self._settings.generate_cache_bytes,
            prefix_bytes=self._settings.generate_prefix_bytes,
            queue=self._settings.queue_size,
            speculate=self._settings.generate_speculate,
        )

        beside: list[Session] = []

        def open_graph(name: str) -> Session:
            opened = self._session(stored, replace(version, path=version.path.with_name(name)))
            beside.append(opened)
            return opened

        generator = self._bundles.generator(
            card, stored, version, session, served, open_graph, limits
        )
        try:
            model = LoadedModel(
                stored.told,
                version.number,
                config,
                signature,
                statistics,
                {},
                session,
                Scheduler(
                    stored.told,
                    version.number,
                    session,
                    signature,
                    config,
                    statistics,
                    terms=self._terms(),
                    placement=Placement(never=True),
                    observers=self._observers,
                    owner=stored.owner,
                ),
                card=card,
                task=self._task(card, stored, version, session, signature),
                owner=stored.owner,
            )
        except BaseException:
            generator.close()
            raise
        model.generator, model.beside = generator, beside
        return model

    def _complete(self, stored: StoredModel, session: Session, card: Card | None) -> ModelConfig:
        """The configuration, completed by what the graph says and by what the model does."""
        trial = Trial(session, stored.told)
        config = complete(
            stored.told,
            stored.config,
            trial,
            default_max_batch_size=self._settings.default_max_batch_size,
            instances=self._settings.runs_at_once,
        )
        return trial.settle(config, stored.config, None if card is None else card.batching)

    def _task(
        self,
        card: Card | None,
        stored: StoredModel,
        version: StoredVersion,
        session: Session,
        signature: Signature,
    ) -> AnyTask | None:
        if card is None or self._bundles is None:
            return None
        return self._bundles.task(card, stored, version, signature, session.metadata)

    def _labels(
        self, stored: StoredModel, version: StoredVersion, config: ModelConfig
    ) -> Mapping[str, Sequence[str]]:
        return {
            output.name: self._repository.labels(stored, version, output.label_filename)
            for output in config.output
            if output.label_filename
        }

    def _run_first(
        self,
        stored: StoredModel,
        version: StoredVersion,
        config: ModelConfig,
        session: Session,
        signature: Signature,
    ) -> Sequence[int]:
        """Run each batch size to round up to, and what the configuration asks for first."""
        sizes = warm_sizes(config, session.providers)
        run_sizes(session, signature, sizes)
        read = partial(self._repository.warmup_data, stored, version)
        run_declared(session, signature, config.model_warmup, read)
        return sizes

    def _sizing(
        self,
        config: ModelConfig,
        session: Session,
        signature: Signature,
        statistics: Statistics,
        known: Mapping[int, int],
        sizes: Sequence[int],
        padding: Padding | None,
    ) -> Sizing | None:
        """What tells which batches pay; None where that is settled, or size tells nothing."""
        statistics.batch_curve = {}
        batching = config.dynamic_batching
        if batching is None or batching.preferred_batch_size or not self._settings.batch_cap:
            return None
        if session.graph.cost_in_values:
            return None
        clock = monotonic_ns  # the thread that waits for another process takes no time of its own
        if isolation_of(session) is None:
            threads = config.threads_per_run(self._settings.threads_per_run)
            clock = clock_of(session.providers, threads)
        if padding is not None or varying_inputs(signature):
            unit: Unit = "bytes" if padding is None else "elements"
            return Sizing(unit, BatchCurve(), statistics, clock)
        curve = BatchCurve(signature.max_batch_size)
        learn_sizes(session, signature, curve, clock, known, sizes)
        return Sizing("rows", curve, statistics, clock)

    def _with_useful_instances(
        self, stored: StoredModel, config: ModelConfig, session: Session, signature: Signature
    ) -> ModelConfig:
        if stored.config.instance_group or self._settings.instances:
            return config
        return with_instances(config, useful_runs_at_once(session, signature, config.instances))


def _padding(
    card: Card | None, config: ModelConfig, session: Session, signature: Signature
) -> Padding | None:
    declaration = declared(config, card.batching if card is not None else None)
    if declaration is None:
        return None
    padding = Padding(declaration, signature)
    verify(declaration, session, signature)
    return padding


def _size(files: Iterable[Path]) -> int:
    """Bytes of `files`; one that has just been removed counts nothing."""
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.stat().st_size
    return total
