"""Jobs from the command line: `aiaas train`, `evaluate`, `compare`, `score`, `optimise`, …"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from aiaas_client._cli.datasets import dataset_name, nearest_dataset
from aiaas_client._cli.job_tables import print_job, print_recipe
from aiaas_client._cli.pairs import pairs
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import (
    FAILED,
    AsJson,
    client_of,
    did_you_mean,
    ended,
    tell,
)
from aiaas_client._client import Client
from aiaas_client._errors import (
    AiaasError,
    APIStatusError,
    BadRequestError,
    JobFailedError,
    NotFoundError,
)
from aiaas_client._resources.job import JobHandle
from aiaas_client._resources.jobs import TARGETS
from aiaas_client.protocol.jobs import RecipeInfo

Ref = Annotated[str, typer.Argument(help="A version: m@3, m@production; m: who serves now.")]
Data = Annotated[str, typer.Option("--dataset", "-d", help="reviews@2; reviews: the latest.")]
Target = Annotated[
    str | None, typer.Option("--target", help="Column of the truth; of its training by default.")
]
HeldOut = Annotated[
    bool, typer.Option("--held-out", help="Only the rows that its training held out.")
]
Note = Annotated[str, typer.Option("--note", help="One line for later.")]
Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Wait for its end, and show how it comes on.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of all that is drawn.")]


def train(
    recipe: Annotated[str, typer.Argument(help="What it is trained by: see aiaas recipes.")],
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", help="reviews@2; reviews: the latest.")
    ] = "",
    model: Annotated[
        str | None, typer.Option("--model", help="Its name; DATASET-RECIPE by default.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Column to learn; label, target or the last by default."),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option("--feature", help="Column to learn from; repeat. All by default."),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", help="epochs=10; repeat. See --help-recipe."),
    ] = None,
    test: Annotated[
        float | None, typer.Option("--test", help="Share of rows held out; 0.2 by default.")
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option("--validation", help="Share held out besides, for early stopping."),
    ] = None,
    attempt: Annotated[
        list[str] | None,
        typer.Option("--try", help="alpha=[0.1,1]: values to be tried; repeat for more."),
    ] = None,
    method: Annotated[str, typer.Option("--method", help="Of --try: grid, random, halving.")] = (
        "grid"
    ),
    folds: Annotated[int, typer.Option("--folds", min=0, help="Cross-validate as well.")] = 0,
    balanced: Annotated[bool, typer.Option("--balanced", help="Weigh rare classes up.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes, or cores.")] = 1,
    cluster: Annotated[str | None, typer.Option("--cluster", help="ray://host:port.")] = None,
    seed: Seed = 0,
    alias: Annotated[
        str | None, typer.Option("--alias", help="Point this alias at the version.")
    ] = None,
    note: Note = "",
    watch: Watch = False,
    help_recipe: Annotated[
        bool, typer.Option("--help-recipe", help="List the recipe's parameters, and end.")
    ] = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Train a model by a recipe; its product is a version with metrics, lineage and a report."""
    with client_of(server) as client:
        if help_recipe:
            print_recipe(find_recipe(client, recipe), as_json)
            return
        if not dataset:
            raise UseError("--dataset: expected what it learns from; see aiaas datasets")
        search = {"params": pairs("--try", attempt), "method": method} if attempt else None
        name = f"{dataset_name(dataset)}-{recipe}" if model is None else model
        shares = {"test": test, "validation": validation}
        split = {side: share for side, share in shares.items() if share is not None} or None

        def begin() -> JobHandle:
            return client.jobs.train(
                name,
                recipe=recipe,
                dataset=dataset,
                target=target,
                features=feature or None,
                params=pairs("--param", param or []),
                split=split,
                search=search,
                folds=folds,
                class_weight="balanced" if balanced else None,
                workers=workers,
                cluster=cluster,
                seed=seed,
                alias=alias,
                note=note,
            )

        try:
            job = _begun(client, begin, dataset)
        except BadRequestError as error:
            raise ended(f"{error}{_nearest_recipe(client, recipe, error)}", FAILED) from None
        follow_job(job, watch, as_json)


def evaluate(
    model: Ref,
    dataset: Data,
    target: Target = None,
    held_out: HeldOut = False,
    note: Note = "",
    watch: Watch = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Measure a version on a data set; the metrics are added to the version's."""
    options: dict[str, Any] = {"target": target, "held_out": held_out, "note": note}
    with client_of(server) as client:
        job = _begun(
            client, lambda: client.jobs.evaluate(model, dataset=dataset, **options), dataset
        )
        follow_job(job, watch, as_json)


def compare(
    model: Ref,
    other: Annotated[str, typer.Argument(help="Another version.")],
    dataset: Data,
    target: Target = None,
    held_out: HeldOut = False,
    confidence: Annotated[float, typer.Option("--confidence", help="Of the intervals.")] = 0.95,
    seed: Seed = 0,
    note: Note = "",
    watch: Watch = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Measure two versions on the same rows: differences with confidence intervals."""
    options: dict[str, Any] = {"target": target, "held_out": held_out, "note": note}
    options |= {"confidence": confidence, "seed": seed}
    with client_of(server) as client:
        job = _begun(
            client, lambda: client.jobs.compare(model, other, dataset=dataset, **options), dataset
        )
        follow_job(job, watch, as_json)


def score(
    model: Ref,
    dataset: Data,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Name of the answers; MODEL-scores.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="Column to carry over; repeat. All.")
    ] = None,
    note: Note = "",
    watch: Watch = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Have a version answer to every row of a data set; the answers are a data set."""
    options: dict[str, Any] = {"output": output, "keep": keep or None, "note": note}
    with client_of(server) as client:
        job = _begun(client, lambda: client.jobs.score(model, dataset=dataset, **options), dataset)
        follow_job(job, watch, as_json)


def optimise(
    model: Ref,
    dataset: Data,
    attempt: Annotated[
        list[str] | None,
        typer.Option("--try", help=f"{', '.join(TARGETS)}; repeat. All by default."),
    ] = None,
    target: Target = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="Of the metric; what loses more is no version.")
    ] = 0.01,
    metric: Annotated[str | None, typer.Option("--metric", help="Accuracy or R2.")] = None,
    held_out: HeldOut = False,
    promote: Annotated[
        str | None, typer.Option("--promote", help="Point this alias at the fastest.")
    ] = None,
    seed: Seed = 0,
    note: Note = "",
    watch: Watch = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Make smaller or faster versions of one, each measured beside it."""
    targets = cast("Any", tuple(attempt) if attempt else TARGETS)
    options: dict[str, Any] = {"target": target, "held_out": held_out, "note": note, "seed": seed}
    options |= {"targets": targets, "max_drop": max_drop, "metric": metric, "promote": promote}
    with client_of(server) as client:
        job = _begun(
            client, lambda: client.jobs.optimise(model, dataset=dataset, **options), dataset
        )
        follow_job(job, watch, as_json)


def explain_job(
    model: Ref,
    dataset: Data,
    target: Target = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Shuffles a column.")] = 5,
    rows: Annotated[int, typer.Option("--rows", min=10, help="At most so many are used.")] = 2000,
    held_out: HeldOut = False,
    seed: Seed = 0,
    note: Note = "",
    watch: Watch = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Find out what a version looks at over a whole data set: importance and curves."""
    options: dict[str, Any] = {"target": target, "held_out": held_out, "note": note}
    options |= {"repeats": repeats, "rows": rows, "seed": seed}
    with client_of(server) as client:
        job = _begun(
            client, lambda: client.jobs.explain(model, dataset=dataset, **options), dataset
        )
        follow_job(job, watch, as_json)


def report(
    model: Annotated[str, typer.Argument(help="A version that a job made: m@3; m: the latest.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; m-3.html by default.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    *,
    server: Server,
) -> None:
    """Fetch the readable report of the job that made a version, a page with plots."""
    name, _, wanted = model.partition("@")
    with client_of(server) as client:
        version = client.models.version(name, wanted or "latest")
        job = version.lineage.get("job")
        if not isinstance(job, str):
            text = f"version {version.version} of '{name}' was made by no job: there is no report"
            raise ended(text, FAILED)
        target = Path(f"{name}-{version.version}.html") if output is None else output
        path = client.jobs.get(job).report(target, show=show)
    tell(f"the report of {name}@{version.version} is in '{path}'")


def follow_job(job: JobHandle, watch: bool, as_json: bool) -> None:
    """Tell of a job that was begun; with `watch` wait for its end."""
    if not watch:
        print_job(job, as_json)
        if not as_json:
            tell(f"next: aiaas jobs {job.id} --watch")
        return
    try:
        job.wait(progress=not as_json)
    except KeyboardInterrupt:
        raise ended(f"job {job.id} goes on; aiaas jobs {job.id} --cancel ends it", FAILED) from None
    except JobFailedError as error:
        if as_json:
            print_job(job, as_json)
        text = f"job {job.id} failed: {error.code}: {job.error.message if job.error else ''}"
        raise ended(f"{text}; its log: aiaas jobs {job.id} --log", FAILED) from None
    print_job(job, as_json)


def _begun(client: Client, begin: Callable[[], JobHandle], dataset: str) -> JobHandle:
    """The job; an error about a data set that is not there offers the nearest."""
    try:
        return begin()
    except NotFoundError as error:
        hint = "" if error.model else nearest_dataset(client, dataset)
        if "did you mean" in str(error) or not hint:
            raise
        raise ended(f"{error}{hint}", FAILED) from None


def find_recipe(client: Client, name: str) -> RecipeInfo:
    """One recipe; an error offers the nearest."""
    try:
        return client.jobs.recipe(name)
    except NotFoundError as error:
        raise ended(f"{error}{_nearest_recipe(client, name, error)}", FAILED) from None


def _nearest_recipe(client: Client, name: str, error: APIStatusError) -> str:
    if "did you mean" in str(error):
        return ""
    try:
        return did_you_mean(name, {one.name for one in client.jobs.recipes()})
    except AiaasError:  # the error that is told stays the first one
        return ""
