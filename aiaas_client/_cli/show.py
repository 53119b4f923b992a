"""`aiaas show MODEL`: what a model is, what it takes and gives, how it is batched, how it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from aiaas_client._cli.check import models_table
from aiaas_client._cli.plain import escape
from aiaas_client._cli.server import Server
from aiaas_client._cli.session import (
    AsJson,
    ModelName,
    Version,
    client_of,
    print_json,
)
from aiaas_client._client import Client
from aiaas_client._errors import APIStatusError, NotFoundError, NotSupportedError
from aiaas_client.protocol.messages import BatchCurve, RepositoryEntry

T = TypeVar("T")

CARD_FIELDS = ("task", "description", "input", "licence", "metrics")
LONGEST = 200  # characters of a field in the table
BAR = 24  # characters of the longest bar


def show(
    model: ModelName,
    version: Version = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Everything a server tells of a model: state, signature, card, and which batches pay."""
    with client_of(server) as client:
        document = _document(client, model, version)
    if as_json:
        print_json(document)
        return
    console = Console()
    for table in _tables(document):
        console.print(table)


def _document(client: Client, model: str, version: str | None) -> dict[str, Any]:
    entries = _told(client.models.list) or []
    own = [entry for entry in entries if entry.name == model]
    if version is not None:
        own = [entry for entry in own if entry.version == version] or own
    handle = client.model(model, version)
    try:
        metadata = client.models.get(model, version)
    except APIStatusError:
        if not any(entry.reason or not entry.is_ready for entry in own):
            raise  # an unknown model; of a known one the index says what is wrong
        return {"name": model, "versions": [entry.model_dump() for entry in own]}
    config: dict[str, Any] = _told(lambda: client.models.config(model, version)) or {}
    card: dict[str, Any] = _told(handle.card) or {}
    curve = _curve(client, model, version)
    return {
        "name": model,
        "platform": metadata.platform,
        "versions": [entry.model_dump() for entry in own],
        "inputs": [spec.model_dump(mode="json") for spec in metadata.inputs],
        "outputs": [spec.model_dump(mode="json") for spec in metadata.outputs],
        "batching": {
            "max_batch_size": config.get("max_batch_size", 0),
            "dynamic_batching": config.get("dynamic_batching"),
            "curve": None if curve is None else curve.model_dump(),
        },
        "card": card if card.get("task") else None,
    }


def _curve(client: Client, model: str, version: str | None) -> BatchCurve | None:
    """Which batches pay; of the last version where none is asked for."""
    found = _told(lambda: client.models.statistics(model, version)) or []
    return found[-1].batch_curve if found else None


def _told(ask: Callable[[], T]) -> T | None:
    """What other servers of the protocol may not know."""
    try:
        return ask()
    except (NotSupportedError, NotFoundError):
        return None


def _tables(document: Mapping[str, Any]) -> list[Table]:
    entries = [RepositoryEntry.model_validate(one) for one in document["versions"]]
    tables = [models_table(entries)] if entries else []
    if "inputs" not in document:
        return tables
    signature = Table("tensor", "name", "datatype", "shape", box=None)
    for kind in ("inputs", "outputs"):
        for spec in document[kind]:
            shape = " x ".join("any" if size == -1 else str(size) for size in spec["shape"])
            row = (kind.removesuffix("s"), spec["name"], spec["datatype"], shape or "scalar")
            signature.add_row(*map(escape, row))
    about = Table("field", "value", box=None)
    batching = document["batching"]
    about.add_row("max_batch_size", str(batching["max_batch_size"]))
    if batching["dynamic_batching"] is not None:
        delay = batching["dynamic_batching"].get("max_queue_delay_microseconds", 0)
        about.add_row("calls share runs", f"yes, waiting {delay} us for more")
    else:
        about.add_row("calls share runs", "no")
    for name in CARD_FIELDS:
        value = (document["card"] or {}).get(name)
        if value:
            about.add_row(name, escape(str(value)[:LONGEST]))
    tables += [signature, about]
    if batching["curve"] is not None:
        tables.append(_curve_table(BatchCurve.model_validate(batching["curve"])))
    return tables


def _curve_table(curve: BatchCurve) -> Table:
    """A line for each size, with a bar as long as an item of it takes."""
    table = Table(escape(curve.unit or "size"), "ms a run", "ms each", "", box=None)
    most = max((point.seconds_each for point in curve.points), default=0.0)
    for point in curve.points:
        each = point.seconds_each
        bar = "=" * round(BAR * each / most) if most else ""
        told = f"{bar} cap" if point.size == curve.cap else bar
        table.add_row(str(point.size), f"{point.ns / 1e6:.4g}", f"{each * 1e3:.4g}", told)
    return table
