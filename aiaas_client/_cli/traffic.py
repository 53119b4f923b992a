"""Who gets which version, from the command line: `aiaas promote`, `split`, `rollback` and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from aiaas_client._cli.changes import share_text
from aiaas_client._cli.registry import serving_table, step_text
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import AsJson, ModelName, client_of, print_json, tell
from aiaas_client._client import Client
from aiaas_client._errors import APIStatusError
from aiaas_client.protocol.management import Guard, Model, Rollout

OneVersion = Annotated[str, typer.Argument(help="A version: its number or an alias.")]
Note = Annotated[str, typer.Option("--note", help="One line for the history.")]
_A_DAY = 86400.0  # seconds


def _usual(bound: str, text: str) -> str:
    """The help of a bound of a guard, with what holds where it is not given."""
    value = getattr(Guard(), bound)
    if isinstance(value, list):
        value = ",".join(f"{share:g}" for share in value)
    told = "no bound" if value is None else value if isinstance(value, str) else f"{value:g}"
    return f"Guard: {text}; by default {told}."


def promote(
    model: ModelName,
    version: OneVersion,
    alias: Annotated[
        str, typer.Option("--alias", help="Which alias; production is whom plain calls get.")
    ] = "production",
    guard: Annotated[
        bool, typer.Option("--guard", help="Go step by step, and back if the version is worse.")
    ] = False,
    max_error_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help=_usual("max_error_rate", "share of its requests that may fail")
        ),
    ] = None,
    max_p99_ratio: Annotated[
        float | None,
        typer.Option(
            help=_usual("max_p99_ratio", "its p99 latency as a multiple of the old one's")
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help=_usual("min_accuracy", "of the answers whose labels came")
        ),
    ] = None,
    max_disagreement: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help=_usual("max_disagreement", "of mirrored requests, answered otherwise"),
        ),
    ] = None,
    window: Annotated[
        float | None, typer.Option(help=_usual("window", "seconds of each step"))
    ] = None,
    steps: Annotated[str | None, typer.Option(help=_usual("steps", "shares of traffic"))] = None,
    min_requests: Annotated[
        int | None,
        typer.Option(min=1, help=_usual("min_requests", "fewer in a window prove nothing")),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Guard: end with the rollout; exit code 1 if it went back."),
    ] = False,
    note: Note = "",
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Point an alias at a version; it is loaded and warm before anyone gets it.

    With --guard, or any of its bounds, the version gets a share of the plain calls that grows step
    by step; if it breaks a bound, the old one gets them all again.
    """

    def change(client: Client) -> Model:
        given = {
            "max_error_rate": max_error_rate,
            "max_p99_ratio": max_p99_ratio,
            "min_accuracy": min_accuracy,
            "max_disagreement": max_disagreement,
            "window": window,
            "steps": None if steps is None else _steps(steps),
            "min_requests": min_requests,
        }
        members: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        wanted = members if guard or members else None
        going_on = _going_on(client, model)
        changed = client.models.promote(model, version, alias=alias, guard=wanted, note=note)
        _tell_replaced(going_on, changed.serving.rollout)
        if changed.serving.rollout is None or wanted is None:
            return changed
        if wait:
            return _waited(client, model)
        tell(f"follow it with: aiaas follow {model}")
        return changed

    _changed(server, as_json, change)


def unalias(
    model: ModelName,
    alias: Annotated[str, typer.Argument(help="Which alias.")],
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Take an alias away; without production, plain calls get the latest version."""
    _changed(server, as_json, lambda client: client.models.unalias(model, alias))


def split(
    model: ModelName,
    shares: Annotated[
        list[str] | None, typer.Argument(help="3=0.95 4=0.05: version to its share, 1 together.")
    ] = None,
    sticky: Annotated[
        bool, typer.Option(help="Callers stay on their version; else each call is drawn anew.")
    ] = True,
    off: Annotated[bool, typer.Option("--off", help="End the split.")] = False,
    note: Note = "",
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Share the calls that name no version among several."""
    if off == bool(shares):
        raise typer.BadParameter("expected shares, such as 3=0.95 4=0.05, or --off")

    def change(client: Client) -> Model:
        if off:
            return client.models.unsplit(model, note=note)
        return client.models.split(model, _shares(shares or []), sticky=sticky, note=note)

    _changed(server, as_json, change)


def shadow(
    model: ModelName,
    version: Annotated[
        str | None, typer.Argument(help="Who gets the copies: a number or an alias.")
    ] = None,
    share: Annotated[
        float, typer.Option("--share", min=0.0, max=1.0, help="Of how many calls.")
    ] = 1.0,
    off: Annotated[bool, typer.Option("--off", help="Send no more copies.")] = False,
    note: Note = "",
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Have a version answer copies of the calls, too: compared, counted and thrown away."""
    if off == (version is not None):
        raise typer.BadParameter("expected a version, or --off")

    def change(client: Client) -> Model:
        if version is None:
            return client.models.unshadow(model, note=note)
        return client.models.shadow(model, version, share, note=note)

    _changed(server, as_json, change)


def pin(
    model: ModelName,
    version: OneVersion,
    note: Note = "",
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Keep a version loaded and on the disk, whatever else points at it or not."""
    _changed(server, as_json, lambda client: client.models.pin(model, version, note=note))


def unpin(
    model: ModelName,
    version: OneVersion,
    note: Note = "",
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Leave a version to what points at it, and to the rules of the model."""
    _changed(server, as_json, lambda client: client.models.unpin(model, version, note=note))


def rollback(
    model: ModelName,
    steps: Annotated[int, typer.Option("--steps", min=1, help="So many changes back.")] = 1,
    note: Note = "",
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Undo the last change of who answers calls; done again it goes further back.

    Changes of aliases and splits count, and what came of a rollout: see `aiaas history`. The
    shadow and pins stay as they are.
    """
    _changed(server, as_json, lambda client: client.models.rollback(model, steps, note=note))


def _changed(server: Server, as_json: bool, change: Callable[[Client], Model]) -> None:
    """Make a change, and print who serves then."""
    with client_of(server) as client:
        model = change(client)
    if as_json:
        print_json(model.model_dump(mode="json"))
    else:
        Console().print(serving_table(model))


def _going_on(client: Client, model: str) -> Rollout | None:
    """The rollout of a model; None where this key may not know."""
    try:
        return client.models.about(model).serving.rollout
    except APIStatusError:  # what is wrong with the model, the promotion says
        return None


def _tell_replaced(before: Rollout | None, now: Rollout | None) -> None:
    """Say that a rollout that went on is no more."""
    if before is not None and (now is None or now.since != before.since):
        tell(f"the rollout of version {before.version} ({step_text(before)}) ended with this")


def _waited(client: Client, model: str) -> Model:
    """Follow a rollout to its end, with a line for each step."""
    shown = ""

    def show(found: Model) -> None:
        nonlocal shown
        rollout = found.serving.rollout
        if rollout is not None:
            share = share_text(rollout.guard.steps[rollout.step])
            line = f"version {rollout.version}: {step_text(rollout)}, {share} of the plain calls"
            if line != shown:
                tell(line)
            shown = line

    try:
        found = client.models.wait_rollout(model, _A_DAY, progress=show)
    except KeyboardInterrupt:
        tell(f"the rollout goes on; follow it with: aiaas follow {model}")
        raise
    tell(f"version {found.production} is in production")
    return found


def _steps(text: str) -> list[float]:
    return [_number("--steps", part) for part in text.split(",")]


def _shares(arguments: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for argument in arguments:
        version, equals, text = argument.partition("=")
        if not equals or not version:
            raise UseError(f"expected version=share, such as 3=0.95, got {argument!r}")
        if version in found:
            raise UseError(f"version {version} is named twice")
        found[version] = _number(argument, text)
    return found


def _number(where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UseError(f"{where}: expected a number, got {text!r}") from None
