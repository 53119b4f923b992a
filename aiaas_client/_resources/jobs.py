"""`client.jobs`: from data to a better model: training, evaluation, scoring, optimisation."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from aiaas_client._api import jobs as calls
from aiaas_client._api.datasets import reference
from aiaas_client._resources.job import AsyncJobHandle, JobHandle
from aiaas_client._resources.registry import pages
from aiaas_client._resources.resource import Viewed
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import AsyncWhole, Whole, WithRawResponse
from aiaas_client._send.work import acarry_out, carry_out

if TYPE_CHECKING:
    from aiaas_client._resources.dataset import DatasetFacts
    from aiaas_client._send.work import Work
    from aiaas_client.protocol.datasets import Dataset, Split
    from aiaas_client.protocol.jobs import JobRequest, JobState, RecipeInfo, Search
    from aiaas_client.protocol.management import Guard, Version

    AnyData = str | Dataset | DatasetFacts
    AnyVersion = str | Version

Target = Literal["int8-dynamic", "int8-static", "fp16", "graph"]
TARGETS: tuple[Target, ...] = ("int8-dynamic", "int8-static", "fp16", "graph")

# What a call gives, or an awaitable of it.
OneJob = TypeVar("OneJob")
ManyJobs = TypeVar("ManyJobs")
OneRecipe = TypeVar("OneRecipe")
ManyRecipes = TypeVar("ManyRecipes")


class JobCalls(Generic[OneJob, ManyJobs, OneRecipe, ManyRecipes]):
    """Jobs are begun and found again."""

    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`
    _handle: Any  # the class of a job's handle

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def train(
        self,
        model: str,
        *,
        recipe: str,
        dataset: AnyData,
        target: str | None = None,
        features: Sequence[str] | None = None,
        params: Mapping[str, Any] | None = None,
        split: float | Split | Mapping[str, Any] | None = None,
        search: Search | Mapping[str, Any] | None = None,
        folds: int = 0,
        class_weight: Literal["balanced"] | Mapping[str, float] | None = None,
        workers: int = 1,
        cluster: str | None = None,
        seed: int = 0,
        alias: str | None = None,
        note: str = "",
        attempts: int = 3,
        timeout: float | None = None,
    ) -> OneJob:
        """Begin to train a model by a recipe; its product is a version with metrics and lineage.

        Args:
            model: The name that the version gets.
            recipe: One of `recipes()`.
            dataset: What it learns from: `reviews@2`, or `reviews` for the latest.
            target: The column to learn; `label`, `target` or the last one by default.
            features: The columns to learn from; all others by default.
            params: Of the recipe; each has a default that works. `recipe(name)` lists them.
            split: Which rows are held out for the metrics: a share, or a `Split`; a fifth by
                default.
            search: Parameters to be tried: `{"params": {"alpha": [0.1, 1.0]}}`.
            folds: Cross-validation beside the held-out rows; 0 is none.
            class_weight: "balanced", or weights by label.
            workers: Processes of a torch recipe, data-parallel; of others processor cores.
            cluster: `ray://host:port` that the server offers, to learn there; or `ray://local`.
            seed: Equal seeds give equal models.
            alias: Points at the version once it is verified.
            note: One line for the history.
            attempts: Processes that may be started for it: one that dies goes on from its
                checkpoint.
            timeout: Seconds for the whole job; the server's own limit by default.
        Raises:
            InputError: An argument that no job can have; nothing was sent.
            BadRequestError: No such recipe, parameter or column; the text offers the nearest.
            NotFoundError: There is no such data set.
            NotSupportedError: This server carries out no jobs.
        """
        members = {
            "model": model,
            "recipe": recipe,
            "dataset": reference(dataset),
            "target": target,
            "features": None if features is None else [*features],
            "params": dict(params or {}),
            "split": calls.split_of(split),
            "search": calls.document_of("jobs.Search", "search", search),
            "folds": folds,
            "class_weight": class_weight,
            "workers": workers,
            "cluster": cluster,
            "seed": seed,
            "alias": alias,
        }
        limits: dict[str, Any] = {"note": note, "attempts": attempts, "timeout": timeout}
        return self._begin(calls.asked("TrainSpec", members, **limits))

    def evaluate(
        self,
        model: AnyVersion,
        *,
        dataset: AnyData,
        target: str | None = None,
        held_out: bool = False,
        note: str = "",
        timeout: float | None = None,
    ) -> OneJob:
        """Begin to measure a version on a data set; the metrics are added to the version's.

        Args:
            model: `m@3`, `m@production`, a `Version`; `m` is whoever answers plain calls.
            dataset: With the truth.
            target: The column of the truth; that of the version's training by default.
            held_out: Only the rows that its training held out, of the same data set.
            note, timeout: As `train` takes them.
        """
        members = {
            "model": calls.model_reference(model),
            "dataset": reference(dataset),
            "target": target,
            "held_out": held_out,
        }
        return self._begin(calls.asked("EvaluateSpec", members, note=note, timeout=timeout))

    def compare(
        self,
        one: AnyVersion,
        other: AnyVersion,
        *,
        dataset: AnyData,
        target: str | None = None,
        held_out: bool = False,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
        note: str = "",
        timeout: float | None = None,
    ) -> OneJob:
        """Begin to measure two versions on the same rows; `table` has their differences.

        Args:
            one, other: As `evaluate` takes a model.
            resamples: Of the bootstrap that gives the confidence intervals.
            confidence: Of the intervals.
            seed: Of the bootstrap.
            dataset, target, held_out, note, timeout: As `evaluate` takes them.
        """
        members = {
            "models": [calls.model_reference(one), calls.model_reference(other)],
            "dataset": reference(dataset),
            "target": target,
            "held_out": held_out,
            "resamples": resamples,
            "confidence": confidence,
            "seed": seed,
        }
        return self._begin(calls.asked("CompareSpec", members, note=note, timeout=timeout))

    def score(
        self,
        model: AnyVersion,
        *,
        dataset: AnyData,
        output: str | None = None,
        keep: Sequence[str] | None = None,
        note: str = "",
        timeout: float | None = None,
    ) -> OneJob:
        """Begin to have a version answer to every row; the answers are a data set, row for row.

        Args:
            model: As `evaluate` takes it.
            output: The name of that data set; `<model>-scores` by default.
            keep: Columns that are carried over; all but images and arrays by default.
            dataset, note, timeout: As `evaluate` takes them.
        """
        members = {
            "model": calls.model_reference(model),
            "dataset": reference(dataset),
            "output": output,
            "keep": None if keep is None else [*keep],
        }
        return self._begin(calls.asked("ScoreSpec", members, note=note, timeout=timeout))

    def optimise(
        self,
        model: AnyVersion,
        *,
        dataset: AnyData,
        targets: Sequence[Target] = TARGETS,
        target: str | None = None,
        max_drop: float = 0.01,
        metric: str | None = None,
        held_out: bool = False,
        promote: str | None = None,
        guard: Guard | Mapping[str, Any] | None = None,
        seed: int = 0,
        note: str = "",
        timeout: float | None = None,
    ) -> OneJob:
        """Begin to make smaller or faster versions of one; `table` has each beside its parent.

        Args:
            model: As `evaluate` takes it.
            dataset: Measures what each loses, and calibrates "int8-static".
            targets: What to try.
            max_drop: Of the metric; what loses more is measured and makes no version.
            metric: Accuracy or R² by default.
            promote: Point this alias at the fastest within the gate.
            guard: Of that promotion.
            seed: Of the rows that calibrate.
            target, held_out, note, timeout: As `evaluate` takes them.
        """
        members = {
            "model": calls.model_reference(model),
            "targets": [*targets],
            "dataset": reference(dataset),
            "target": target,
            "max_drop": max_drop,
            "metric": metric,
            "held_out": held_out,
            "promote": promote,
            "guard": calls.document_of("management.Guard", "guard", guard),
            "seed": seed,
        }
        return self._begin(calls.asked("OptimiseSpec", members, note=note, timeout=timeout))

    optimize = optimise

    def explain(
        self,
        model: AnyVersion,
        *,
        dataset: AnyData,
        target: str | None = None,
        repeats: int = 5,
        rows: int = 2000,
        curves: int = 6,
        held_out: bool = False,
        seed: int = 0,
        note: str = "",
        timeout: float | None = None,
    ) -> OneJob:
        """Begin to find out what a version looks at, over a whole data set.

        Args:
            model: As `evaluate` takes it.
            repeats: Times that each column is shuffled.
            rows: At most so many are used, drawn by `seed`.
            curves: Columns with a curve of partial dependence: the most important ones.
            seed: Of the rows and of the shuffling.
            dataset, target, held_out, note, timeout: As `evaluate` takes them.
        """
        members = {
            "model": calls.model_reference(model),
            "dataset": reference(dataset),
            "target": target,
            "repeats": repeats,
            "rows": rows,
            "curves": curves,
            "held_out": held_out,
            "seed": seed,
        }
        return self._begin(calls.asked("ExplainSpec", members, note=note, timeout=timeout))

    def list(
        self,
        *,
        state: JobState | None = None,
        kind: str | None = None,
        model: str | None = None,
        limit: int | None = None,
    ) -> ManyJobs:
        """Give jobs, the newest first; at most `limit`.

        Args:
            state: Only those that are "queued", "running", "succeeded", "failed" or "cancelled".
            kind: Only those that "train", "evaluate", …
            model: Only those about this model.
            limit: All by default.
        Raises:
            NotSupportedError: This server carries out no jobs.
        """
        found: ManyJobs = self._carry_out(self._listed(state, kind, model, limit), self._sender)
        return found

    def get(self, id: str) -> OneJob:
        """Find a job again.

        Raises:
            NotFoundError: There is none of this id.
        """
        return self._handled(calls.job(id))

    def recipes(self) -> ManyRecipes:
        """Give what models can be trained by, each with its parameters and their defaults."""
        found: ManyRecipes = self._carry_out(pages(calls.recipes, None), self._sender)
        return found

    def recipe(self, name: str) -> OneRecipe:
        """Give one recipe.

        Raises:
            NotFoundError: There is none of this name; the text offers the nearest.
        """
        found: OneRecipe = self._sender.send(calls.recipe(name))
        return found

    def _begin(self, request: JobRequest) -> OneJob:
        return self._handled(calls.create(request))

    def _handled(self, call: Any) -> OneJob:
        def steps() -> Work[Any]:
            return self._handle(self._sender, (yield call))

        found: OneJob = self._carry_out(steps(), self._sender)
        return found

    def _listed(
        self, state: str | None, kind: str | None, model: str | None, limit: int | None
    ) -> Work[Any]:
        every = yield from pages(partial(calls.jobs, state, kind, model), limit)
        return [self._handle(self._sender, document) for document in every]


@with_own_names
class Jobs(
    Viewed["RawJobs"], JobCalls[JobHandle, "list[JobHandle]", "RecipeInfo", "list[RecipeInfo]"]
):
    """The jobs of a server, for threads."""

    _carry_out = staticmethod(carry_out)
    _handle = JobHandle


class RawJobs(WithRawResponse, of=Jobs):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    train = Whole(Jobs.train)
    evaluate = Whole(Jobs.evaluate)
    compare = Whole(Jobs.compare)
    score = Whole(Jobs.score)
    optimise = Whole(Jobs.optimise)
    optimize = optimise
    explain = Whole(Jobs.explain)
    list = Whole(Jobs.list)
    get = Whole(Jobs.get)
    recipes = Whole(Jobs.recipes)
    recipe = Whole(Jobs.recipe)


@with_own_names
class AsyncJobs(
    Viewed["RawAsyncJobs"],
    JobCalls[
        Coroutine[Any, Any, AsyncJobHandle],
        Coroutine[Any, Any, "list[AsyncJobHandle]"],
        Coroutine[Any, Any, "RecipeInfo"],
        Coroutine[Any, Any, "list[RecipeInfo]"],
    ],
):
    """The jobs of a server, on an event loop."""

    _carry_out = staticmethod(acarry_out)
    _handle = AsyncJobHandle


class RawAsyncJobs(WithRawResponse, of=AsyncJobs):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    train = AsyncWhole(AsyncJobs.train)
    evaluate = AsyncWhole(AsyncJobs.evaluate)
    compare = AsyncWhole(AsyncJobs.compare)
    score = AsyncWhole(AsyncJobs.score)
    optimise = AsyncWhole(AsyncJobs.optimise)
    optimize = optimise
    explain = AsyncWhole(AsyncJobs.explain)
    list = AsyncWhole(AsyncJobs.list)
    get = AsyncWhole(AsyncJobs.get)
    recipes = AsyncWhole(AsyncJobs.recipes)
    recipe = AsyncWhole(AsyncJobs.recipe)
