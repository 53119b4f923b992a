"""Jobs and recipes as they are printed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from aiaas_client._cli.plain import escape
from aiaas_client._cli.registry import LONGEST, moment, size_text
from aiaas_client._cli.session import print_json
from aiaas_client._resources.job import JobHandle
from aiaas_client.protocol.jobs import RecipeInfo

_SHORT_ID = 12  # characters of an id in a list: a command finds the job by them
_LOG_LINES = 5
_RANGES = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
}


def print_job(job: JobHandle, as_json: bool) -> None:
    """What a job is, and what it made."""
    if as_json:
        print_json(job.document.model_dump(mode="json"))
        return
    about = Table("what", "is", box=None)
    for what, text in _told(job):
        if text:
            about.add_row(escape(what), escape(text))
    console = Console()
    console.print(about)
    if job.table:
        console.print(_rows(job.table))


def jobs_table(found: Sequence[JobHandle]) -> Table:
    """A line for each job."""
    table = Table(box=None)
    for name in ("job", "state", "what", "progress", "made", "created", "note"):
        table.add_column(name, no_wrap=name in ("job", "state", "created"))
    for job in found:
        one = job.document
        row = (
            job.id[:_SHORT_ID],
            "cancelling" if one.cancelling and not job.done else job.state,
            job.title,
            "" if job.done else _progress(job),
            ", ".join([*job.versions, *job.datasets]),
            moment(one.created),
            one.note,
        )
        table.add_row(*(escape(_cut(cell)) for cell in row))
    return table


def print_recipe(recipe: RecipeInfo, as_json: bool) -> None:
    """What a recipe is, and its parameters."""
    if as_json:
        print_json(recipe.model_dump(mode="json"))
        return
    console = Console()
    told = [recipe.title, recipe.task, recipe.description]
    if recipe.extra:
        told.append(f"not installed on the server: pip install 'aiaas-client[{recipe.extra}]'")
    console.print(escape(": ".join([recipe.name, ". ".join(filter(None, told))])), soft_wrap=True)
    table = Table("parameter", "type", "default", "range", "what it does", box=None)
    for name, schema in (recipe.params.get("properties") or {}).items():
        table.add_row(*map(escape, (name, *_parameter(schema))))
    console.print(table)
    console.print(
        "e.g. " + escape(f"aiaas train {recipe.name} --dataset DATASET --param name=value")
    )


def recipes_table(found: Sequence[RecipeInfo]) -> Table:
    """A line for each recipe."""
    table = Table(box=None)
    table.add_column("recipe", no_wrap=True)
    for name in ("task", "what it is", "workers", "needs"):
        table.add_column(name)
    for one in found:
        row = (one.name, one.task, one.title, "yes" if one.parallel else "", one.extra)
        table.add_row(*map(escape, row))
    return table


def _told(job: JobHandle) -> Iterator[tuple[str, str]]:
    one = job.document
    yield "job", job.id
    yield "what", job.title
    yield "data set", str(one.spec.get("dataset", ""))
    yield "recipe", str(one.spec.get("recipe") or "")
    attempt = f", attempt {one.attempt} of {one.attempts}" if one.attempt > 1 else ""
    yield "state", f"{'cancelling' if one.cancelling and not job.done else job.state}{attempt}"
    yield "progress", "" if job.done else _progress(job)
    if job.error is not None:
        yield "error", f"{job.error.code}: {job.error.message}"
    else:  # what was left out, what was odd; a job that failed has said why
        yield "log", "\n".join(one.log[-_LOG_LINES:])
    yield "created", f"{moment(one.created)} {one.created_by}".strip()
    if one.started and one.ended:
        yield "took", f"{one.ended - one.started:.1f} s"
    yield "versions", ", ".join(job.versions)
    yield "data sets", ", ".join(job.datasets)
    for name, value in job.metrics.items():
        yield f"metric {name}", _value(value)
    for file in job.files:
        yield f"file {file.name}", size_text(file.size)


def _progress(job: JobHandle) -> str:
    one = job.progress
    step = f"{one.unit or 'step'} {one.step}" + (f" of {one.total}" if one.total else "")
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in one.metrics.items())
    return ", ".join(part for part in (one.phase, step if one.step else "", metrics) if part)


def _rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Any rows: a column for each member that is no list and no object."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    flat = [n for n in names if not any(isinstance(row.get(n), dict | list) for row in rows)]
    table = Table(*map(escape, flat), box=None)
    for row in rows:
        table.add_row(*(escape(_cut(_value(row.get(name)))) for name in flat))
    return table


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None or isinstance(value, dict | list) else str(value)


def _parameter(schema: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Type, default, range and description, as a JSON schema has them."""
    ways = [schema, *(schema.get("anyOf") or [])]
    types = [str(way["type"]) for way in ways if "type" in way and way["type"] != "null"]
    choices = [str(one) for way in ways for one in way.get("enum") or ()]
    spans = [text.format(way[key]) for way in ways for key, text in _RANGES.items() if key in way]
    default = "" if "default" not in schema else _json(schema["default"])
    text = str(schema.get("description") or "")
    return " or ".join(dict.fromkeys(types)), default, ", ".join(choices or spans), text


def _json(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
