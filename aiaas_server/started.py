"""What a person is told when the server is up: its address, its models, and how to call them."""

from __future__ import annotations

import logging
from importlib.metadata import version

from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.settings import Settings

EXAMPLE = "digits-cnn"  # the smallest model that `aiaas pull` makes
LAYOUT = "NAME.onnx or NAME/1/model.onnx"

logger = logging.getLogger("aiaas_server")


def tell(lines: list[str], *, as_json: bool) -> None:
    """Print what a person wants to know when the server is up; programs get one log line."""
    if as_json:
        logger.info("%s", lines[0])
    else:
        print("\n".join(lines), flush=True)


def started_lines(
    pool: ModelPool, settings: Settings, address: str, metrics_address: str | None, seconds: float
) -> list[str]:
    """The address, the models with their versions, those that failed, and how to call it.

    Args:
        address: Base URL, or `unix:PATH`.
        metrics_address: Base URL of the metrics port; None without one.
        seconds: That the start took.
    """
    entries = pool.index(ready_only=False)
    ready: dict[str, list[str]] = {}
    failed: list[str] = []
    for entry in entries:
        name, state = str(entry["name"]), entry.get("state", "")
        if state == "READY":
            ready.setdefault(name, []).append(str(entry.get("version", "")))
        elif entry.get("reason"):
            failed.append(f"{name}: {str(entry['reason'])[:300]}")
    models = f"{len(ready)} model{'' if len(ready) == 1 else 's'} ready"
    if not entries:
        models = f"no models in {(settings.data or settings.models).resolve()}"
    lines = [f"aiaas {version('aiaas-client')} serving on {address}  ({models}, {seconds:.1f} s)"]
    lines += [f"  ready    {name}  {', '.join(versions)}" for name, versions in ready.items()]
    lines += [f"  failed   {text}" for text in failed]
    if not entries:
        lines.append(f"  models   {_how_to_get_one(settings, address)}")
    if metrics_address is not None:
        lines.append(f"  metrics  {metrics_address}/metrics")
    ready = {name: found for name, found in ready.items() if "/" not in name}  # not of tenants
    if ready and address.startswith("http"):
        # A model of its own shows more than a pipeline of others, which takes no tensors.
        name = min(ready, key=lambda name: not pool.resolve(name, None).signature.inputs)
        lines.append(f"  look     curl {address}/v2/models/{name}")
        call = _call(pool.resolve(name, None))
        lines.append(f'  call     Client("{address}").model("{name}").{call}')
    if settings.api_key is not None or settings.tenants:
        lines.append("  key      needed by every route but /v2/health/live and /v2/health/ready")
    lines.append("  stop     Ctrl+C")
    return lines


def _how_to_get_one(settings: Settings, address: str) -> str:
    if settings.data is not None:
        return f"run: aiaas deploy MODEL.onnx --name NAME --url {address}"
    pull = f"aiaas pull {EXAMPLE} --models {settings.models}"
    then = "" if settings.watch else ", then start again"
    return f"put {LAYOUT} there, or run: {pull}{then}"


def _call(model: LoadedModel) -> str:
    """How the SDK calls it: with a payload where it has a task, else with its tensors."""
    if model.generator is not None and model.task is not None:
        return 'generate("Once upon a time").text'
    if model.task is not None:
        return "predict(...)"
    return f"infer({', '.join(f'{x.name}=...' for x in model.signature.inputs)})"
