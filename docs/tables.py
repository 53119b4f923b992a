"""Write the tables of settings, metrics and recipes from the code: `python docs/tables.py`.

A test compares the files with what this writes.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

from pydantic import SecretStr

from aiaas_server import settings
from aiaas_server.core.events import InferenceRecord, Units
from aiaas_server.core.isolation import families_of as isolation_families
from aiaas_server.core.session import Isolation
from aiaas_server.core.statistics import Statistics
from aiaas_server.generate.accounts import Counts
from aiaas_server.generate.measures import families_of
from aiaas_server.jobs.recipes import RECIPES, AnyRecipe, recipe
from aiaas_server.observe import metrics
from aiaas_server.observe.tenants import TenantCounts

HERE = Path(__file__).parent
WRITTEN = "<!-- Written by docs/tables.py; change the code and run `make docs`. -->"


def settings_page() -> str:
    """One row for each field of `Settings`: name, variable, default, meaning."""
    lines = [
        "# Settings",
        "",
        WRITTEN,
        "",
        "Every setting of the server. Options of `aiaas serve` stand above the environment.",
        "Durations are seconds; a name that ends in `_bytes` counts bytes.",
        "",
        "| Setting | Variable | Default | Meaning |",
        "| --- | --- | --- | --- |",
    ]
    told = _field_docs()
    for name, field in settings.Settings.model_fields.items():
        variable = f"`{settings.PREFIX}{name.upper()}`"
        default = _shown(name, field.get_default(call_default_factory=True))
        lines.append(f"| `{name}` | {variable} | {default} | {told.get(name, '')} |")
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """One row for each family on `/metrics`, read from the page itself."""
    statistics = Statistics()
    statistics.batch_curve = {"unit": "rows", "cap": 1, "points": []}
    model = SimpleNamespace(name="m", full="m", version=1, statistics=statistics)
    writer = SimpleNamespace(
        name="m", full="m", version=1, generator=SimpleNamespace(counts=Counts())
    )
    tenants = TenantCounts(1)
    tenants(InferenceRecord("m", 1, Units(1), 1, 0.0, 0.0, 0.0, None))
    apart = SimpleNamespace(full="m", version=1, isolations=[Isolation(confined=True)])
    further = [
        *families_of([writer]),
        *isolation_families([apart]),
        *tenants.families(),
    ]
    page = metrics.render([model], {"invalid_input": 1}, families=further).decode()
    lines = [
        "# Metrics",
        "",
        WRITTEN,
        "",
        "What `GET /metrics` tells, on the main port and on the metrics port: 8002 if it is free,",
        "or `--metrics-port`. Names with `nv_` are the reference server's, so that dashboards made",
        "for it work here. With several workers, counters, histograms and the gauges of models are",
        "sums over all of them, and `process_*` has one sample a worker, with the label `worker`.",
        "",
        "| Metric | Type | Labels | Meaning |",
        "| --- | --- | --- | --- |",
    ]
    kinds = dict(_marked(page, "# TYPE "))
    for name, text in _marked(page, "# HELP "):
        lines.append(f"| `{name}` | {kinds[name]} | {_labels(page, name)} | {text} |")
    return "\n".join(lines) + "\n"


def recipes_page() -> str:
    """One row for each recipe of this package, and below its parameters."""
    found = [recipe(name, dict) for name in RECIPES]
    lines = [
        "# Recipes",
        "",
        WRITTEN,
        "",
        "What `client.jobs.train(recipe=...)` and `aiaas train` know; see [Training](training.md).",
        "`aiaas recipes` lists those of a server, which may have more, with their parameters.",
        "",
        "| Recipe | Learns | From columns of | Extra | What it is |",
        "| --- | --- | --- | --- | --- |",
        *map(_recipe_row, found),
        "",
        "`workers` above 1 are of use to "
        + ", ".join(f"`{one.name}`" for one in found if one.parallel)
        + ".",
    ]
    for one in found:
        lines += [
            "",
            f"## {one.name}",
            "",
            "| Parameter | Default | Meaning |",
            "| --- | --- | --- |",
        ]
        for name, field in one.params.model_fields.items():
            default = field.get_default(call_default_factory=True)
            shown = "none" if default is None else f"`{default}`"
            lines.append(f"| `{name}` | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


def _recipe_row(one: AnyRecipe) -> str:
    learns = "classes" if one.task == "classification" else "values"
    text = f"{one.title}: {one.description[0].lower()}{one.description[1:]}".rstrip(".")
    kinds = ", ".join(sorted(one.kinds))
    return f"| [`{one.name}`](#{one.name}) | {learns} | {kinds} | `{one.extra}` | {text} |"


PAGES = {
    HERE / "settings.md": settings_page,
    HERE / "metrics.md": metrics_page,
    HERE / "recipes.md": recipes_page,
}


def _field_docs() -> dict[str, str]:
    tree = ast.parse(inspect.getsource(settings.Settings))
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    told = {}
    for field, after in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = _text(after)
            told[field.target.id] = " ".join(text.split()).replace("|", "\\|")
    return told


def _text(node: ast.stmt) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return str(node.value.value)
    return ""


def _shown(name: str, value: object) -> str:
    if value is None or value == "" or isinstance(value, SecretStr):
        return "none"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`" if value else "none"
    if "bytes" in name and isinstance(value, int) and value and value % 1024 == 0:
        return f"`{value}` ({_binary(value)})"
    return f"`{value}`"


def _binary(count: int) -> str:
    return f"{count // 2**20} MiB" if count % 2**20 == 0 else f"{count // 2**10} KiB"


def _marked(page: str, mark: str) -> Iterator[tuple[str, str]]:
    for line in page.splitlines():
        if line.startswith(mark):
            name, _, rest = line.removeprefix(mark).partition(" ")
            yield name, rest


def _labels(page: str, name: str) -> str:
    names: list[str] = []
    for line in page.splitlines():
        if line.startswith(name) and "{" in line:
            inside = line.partition("{")[2].rpartition("}")[0]
            names += [pair.partition("=")[0] for pair in inside.split(",")]
    return ", ".join(f"`{n}`" for n in dict.fromkeys(names) if n != "le")


if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page(), "utf-8")
