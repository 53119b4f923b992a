"""Cross-validation, and the search for parameters by it: every pair of candidate and fold is one
piece of work, told as it is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_client.protocol.jobs import Search, TrainSpec
from aiaas_server.core.describe.config import nearest
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.metrics import classification_metrics, regression_metrics
from aiaas_server.job_process.train_candidates import candidates, halvings
from aiaas_server.job_process.train_data import Material
from aiaas_server.job_process.train_spread import measured_apart
from aiaas_server.jobs.recipes import AnyRecipe, read_params, recipe
from aiaas_server.jobs.recipes.recipe import Cluster, Params, Training, Watch
from aiaas_server.jobs.splits import folds_of
from aiaas_server.jobs.table import Table

Array = np.ndarray[Any, Any]

METRICS: Final[Mapping[str, tuple[str, ...]]] = {
    "classification": ("accuracy", "precision", "recall", "f1", "roc_auc", "log_loss"),
    "regression": ("mse", "rmse", "mae", "r2"),
}
_LESS_IS_BETTER: Final = frozenset({"log_loss", "mse", "rmse", "mae"})


class Silent(Watch):
    """Follows the fit of one fold: what is told is the fold, not its epochs."""

    def __init__(self, scratch: Path) -> None:
        self.restored = None
        self.scratch = scratch

    def phase(self, name: str) -> None:
        """See `Watch`."""

    def progress(self, step: int, total: int = 0, unit: str = "", **told: Any) -> None:
        """See `Watch`."""

    def checkpoint(self, step: int, write: Callable[[Path], object]) -> None:
        """See `Watch`: a fold begins anew."""

    def log(self, line: str) -> None:
        """See `Watch`."""


class Piece(NamedTuple):
    """One fold of one candidate; whole, so that another process can work on it."""

    recipe: str
    params: Params
    data: Training
    measured: Table
    truth: Array
    scratch: Path


class Measured(NamedTuple):
    """The metrics of a fold; none is defined where the recipe refused it, for that reason."""

    metrics: dict[str, float | None]
    refused: str = ""


def measure(piece: Piece) -> Measured:
    """Learn from the one part, and measure on the other."""
    names = METRICS["classification" if piece.data.classes else "regression"]
    try:
        fitted = recipe(piece.recipe).fit(piece.params, piece.data, Silent(piece.scratch))
    except InvalidInput as error:  # such as more neighbours than rows
        return Measured(dict.fromkeys(names), error.message)
    answers = fitted.answer(piece.measured)
    if piece.data.classes:
        found = classification_metrics(piece.truth, answers, piece.data.classes)
    else:
        found = regression_metrics(piece.truth, answers)
    return Measured({name: found[name] for name in names})


class Folds:
    """The folds of a material, and whoever learns from them.

    Args:
        threads: Cores that this process may use.
        cluster: Whose workers are used, in place of this machine's.
    """

    def __init__(
        self,
        spec: TrainSpec,
        found: AnyRecipe,
        data: Material,
        watch: Watch,
        threads: int,
        cluster: Cluster | None = None,
    ) -> None:
        self._spec = spec
        self._recipe = found
        self._data = data
        self._watch = watch
        self._threads = threads
        self._cluster = cluster

    def scores(self, candidates: Sequence[Params], rows: Array, folds: int) -> Iterator[Measured]:
        """The metrics of every fold of the first candidate, then of the second, …"""
        strata = self._data.coded(rows).astype(np.int64) if self._data.classes else None
        parts = folds_of(strata, len(rows), folds, self._spec.seed)
        pieces = (
            self._piece(params, rows[learned], rows[held_out])
            for params in candidates
            for learned, held_out in parts
        )
        return self._worked(pieces)

    def _piece(self, params: Params, learned: Array, held_out: Array) -> Piece:
        data = self._data.training(learned, self._spec, self._threads, self._cluster)
        if self._apart:
            data = data._replace(workers=1, cluster=None)
        measured = self._data.table.take(held_out)
        truth = self._data.truth[held_out]
        return Piece(self._recipe.name, params, data, measured, truth, self._watch.scratch)

    @property
    def _apart(self) -> bool:
        """Whether folds are worked on side by side: unless the recipe itself uses the workers, and
        is better at it. Trees of each forest by themselves would be sent to and fro on a cluster.
        """
        parallel = self._recipe.parallel and (
            self._cluster is None or "torch" in self._recipe.modules
        )
        return self._spec.workers > 1 and not parallel

    def _worked(self, pieces: Iterator[Piece]) -> Iterator[Measured]:
        if not self._apart:
            yield from map(measure, pieces)
            return
        if self._cluster is not None:
            yield from measured_apart(self._cluster, measure, pieces)
            return
        from joblib import Parallel, delayed
        from joblib.externals.loky import get_reusable_executor

        try:
            work: Any = Parallel(n_jobs=self._spec.workers, return_as="generator")
            yield from work(delayed(measure)(piece) for piece in pieces)
        finally:
            # They would wait minutes for more work, past the end of the job.
            get_reusable_executor().shutdown(wait=True, kill_workers=True)


def cross_validated(
    folds: Folds, params: Params, rows: Array, spec: TrainSpec, watch: Watch
) -> Any:
    """Metrics over the folds of the chosen parameters.

    Returns:
        `{"folds", "scores", "mean", "deviation"}`.
    """
    watch.phase("cross-validating")
    found = []
    for metrics, refused in folds.scores([params], rows, spec.folds):
        if refused:
            raise InvalidInput(f"cross-validation: {refused}")
        found.append(metrics)
        watch.progress(len(found), spec.folds, "folds", metrics=known(metrics))
    return {"folds": spec.folds, "scores": found, **_summary(found)}


def _summary(found: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, float | None]]:
    mean, deviation = {}, {}
    for name in found[0]:
        values = [metrics[name] for metrics in found]
        whole = [value for value in values if value is not None]
        mean[name] = float(np.mean(whole)) if len(whole) == len(values) else None
        deviation[name] = float(np.std(whole)) if len(whole) == len(values) else None
    return {"mean": mean, "deviation": deviation}


def known(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are defined."""
    return {name: value for name, value in metrics.items() if value is not None}


class Trial(NamedTuple):
    """A candidate and how it did.

    Attributes:
        asked: The parameters that are searched for.
        rows: How many it was tried on.
        score: By the metric that the search goes by; greater is better.
        summary: As `_summary` gives it.
        refused: Why the recipe did not take it on the first fold that it refused.
    """

    asked: dict[str, Any]
    params: Params
    rows: int
    score: float
    summary: Mapping[str, Any]
    refused: str


def searched(
    search: Search, spec: TrainSpec, found: AnyRecipe, folds: Folds, rows: Array, watch: Watch
) -> tuple[Params, dict[str, Any]]:
    """The best parameters, and `details["search"]`.

    Raises:
        InvalidInput: A parameter, value or metric that there is not (named), or too many trials.
    """
    metric = metric_of(search, found)
    asked = candidates(search, spec.seed)
    going = [(one, read_params(found, {**spec.params, **one})) for one in asked]
    watch.phase("searching")
    if search.method == "halving":
        rounds = halvings(len(going), len(rows), search.folds)
    else:
        rounds = [(len(going), len(rows))]
    steps = _Steps(watch, sum(count for count, _ in rounds) * search.folds)
    order = np.random.default_rng(spec.seed).permutation(rows)
    table: list[Trial] = []
    for count, used in rounds:
        part = np.sort(order[:used])
        ranked = _tried(going[:count], folds, part, search.folds, metric, steps)
        going = [(trial.asked, trial.params) for trial in ranked]
        # Those of an earlier round that are out stay behind, with the rows that they had.
        table = ranked + [trial for trial in table if trial.asked not in [one for one, _ in going]]
    best = table[0]
    if best.score == -math.inf:
        refused = [trial.refused for trial in table if trial.refused]
        reason = refused[0] if refused else "it is not defined on the folds"
        raise InvalidInput(f"search: no candidate has a '{metric}': {reason}")
    watch.log(f"best of {len(asked)}: {dict(best.asked)}, {metric} {best.summary['mean'][metric]}")
    return best.params, {
        "method": search.method,
        "metric": metric,
        "folds": search.folds,
        "best": dict(best.asked),
        "trials": [{"params": dict(one.asked), "rows": one.rows, **one.summary} for one in table],
    }


class _Steps:
    """Counts the folds of all rounds."""

    def __init__(self, watch: Watch, total: int) -> None:
        self.watch = watch
        self._done, self._total = 0, total

    def tell(self, metrics: Mapping[str, float | None]) -> None:
        self._done += 1
        self.watch.progress(self._done, self._total, "folds", metrics=known(metrics))


def _tried(
    candidates: Sequence[tuple[dict[str, Any], Params]],
    folds: Folds,
    rows: Array,
    count: int,
    metric: str,
    steps: _Steps,
) -> list[Trial]:
    """How each candidate does on `count` folds of these rows, the best first."""
    scores = folds.scores([params for _, params in candidates], rows, count)
    found = []
    for asked, params in candidates:
        measured = []
        for one in islice(scores, count):
            measured.append(one)
            steps.tell(one.metrics)
        refused = next((one.refused for one in measured if one.refused), "")
        if refused:
            steps.watch.log(f"{asked} on {len(rows)} rows: {refused}")
        summary = _summary([one.metrics for one in measured])
        score = _rank(summary["mean"], metric)
        found.append(Trial(asked, params, len(rows), score, summary, refused))
    return sorted(found, key=lambda trial: -trial.score)  # stable: of equals the first


def _rank(mean: Mapping[str, float | None], metric: str) -> float:
    """Greater is better."""
    value = mean[metric]
    if value is None:
        return -math.inf
    return -value if metric in _LESS_IS_BETTER else value


def metric_of(search: Search, found: AnyRecipe) -> str:
    """What the search goes by.

    Raises:
        InvalidInput: There is no such metric of this kind of recipe.
    """
    names = METRICS[found.task]
    metric = search.metric or ("accuracy" if found.task == "classification" else "mse")
    if metric not in names:
        near = nearest(metric, names)
        meant = f"; did you mean '{near}'?" if near else "."
        raise InvalidInput(
            f"search: there is no metric '{metric[:64]}' of {found.task}{meant} "
            f"There are {', '.join(names)}"
        )
    return metric
