"""One model of a registry, or one of its versions, from the command line: `aiaas about`, `set`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aiaas_client._cli.changes import share_text
from aiaas_client._cli.registry import moment, serving_table, size_text
from aiaas_client._cli.server import Server
from aiaas_client._cli.session import AsJson, ModelName, client_of, print_json, tell
from aiaas_client.protocol.management import Model, TensorSpec, Version

Row = tuple[str, str]


def about(
    model: ModelName,
    version: Annotated[
        str | None, typer.Option("--version", help="Of this one: a number, an alias, latest.")
    ] = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Tell what the registry knows of a model: rules, and who serves; or of one version.

    Of a version: its digest and files, inputs and outputs, what verification found, metrics,
    where it comes from.
    """
    with client_of(server) as client:
        if version is None:
            found = client.models.about(model)
        else:
            one = client.models.version(model, version)
            _print(one, list(_of_version(one)), as_json)
            return
    _print_model(found, as_json)


def set_(
    model: ModelName,
    keep_last: Annotated[
        int | None,
        typer.Option(
            min=1, help="Keep so many versions beside those in use; a deployment erases the others."
        ),
    ] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Keep every version.")] = False,
    description: Annotated[str | None, typer.Option(help="What the model is.")] = None,
    feedback: Annotated[
        bool | None, typer.Option(help="Remember predictions, so that labels can join them.")
    ] = None,
    drift: Annotated[
        bool | None, typer.Option(help="Count inputs and predictions against the reference.")
    ] = None,
    public: Annotated[
        bool | None,
        typer.Option(help="All tenants may call it; only the operator makes models public."),
    ] = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Change the description or the rules of a model; what is not named stays."""
    if keep_all and keep_last is not None:
        raise typer.BadParameter("expected --keep-last or --keep-all, not both")
    given = {"keep_last": keep_last, "feedback": feedback, "drift": drift, "public": public}
    rules: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if keep_all:
        rules["keep_last"] = None
    if not rules and description is None:
        raise typer.BadParameter("expected something to change, such as --keep-last 5")
    with client_of(server) as client:
        known = client.models.about(model)
        policy = {**known.policy.model_dump(), **rules} if rules else None
        found = client.models.update(
            model, description=description, policy=policy, etag=known.etag if rules else ""
        )
    _print_model(found, as_json)


def tell_deployed(version: Version, model: Model | None) -> None:
    """Say whether it is new, who gets plain calls now, and what comes next.

    Args:
        model: After the deployment; None where this is not told.
    """
    if version.created_now is False:
        tell(f"{version.model}: already there as version {version.version}; nothing was sent")
    if model is None or not model.shares:
        return
    shares = model.shares
    served = ", ".join(
        str(one) if share == 1.0 else f"{one} ({share_text(share)})"
        for one, share in sorted(shares.items())
    )
    why = "" if model.production or len(shares) > 1 else ", as the latest"
    tell(f"plain calls get version {served}{why}")
    if version.version not in shares:
        tell(f"next: aiaas promote {version.model} {version.version}")
    elif why and version.aliases:
        tell(
            f"the next version will get them; to keep this one: "
            f"aiaas promote {version.model} {version.version}"
        )


def _print_model(model: Model, as_json: bool) -> None:
    _print(model, list(_of_model(model)), as_json)
    if not as_json:
        Console().print(serving_table(model))


def _print(document: Model | Version, rows: list[Row], as_json: bool) -> None:
    if as_json:
        print_json(document.model_dump(mode="json"))
        return
    table = Table("what", "is", box=None)
    for what, text in rows:
        if text:
            table.add_row(escape(what), escape(text))
    Console().print(table)


def _of_model(model: Model) -> Iterator[Row]:
    rules = model.policy
    yield "model", model.name
    yield "description", model.description
    yield "latest", "" if model.latest is None else str(model.latest)
    yield "versions", str(model.versions)
    yield "keeps", "all versions" if rules.keep_last is None else f"the last {rules.keep_last}"
    yield "feedback", "remembered" if rules.feedback else "off"
    yield "drift", "counted" if rules.drift else "off"
    yield "public", "for all tenants" if rules.public else ""
    yield "config", "" if rules.config is None else json.dumps(rules.config)
    yield "created", f"{moment(model.created)} {model.created_by}".strip()


def _of_version(one: Version) -> Iterator[Row]:
    yield "version", f"{one.model} {one.version}"
    yield "state", f"{one.state}: {one.reason}" if one.reason else one.state
    yield "digest", one.digest
    yield "aliases", ", ".join(one.aliases)
    yield "traffic", share_text(one.share)
    yield "note", one.note
    yield "created", f"{moment(one.created)} {one.created_by}".strip()
    for file in one.files:
        yield f"file {file.name}", f"{size_text(file.size)}, sha256 {file.sha256}"
    for what, specs in (("input", one.inputs), ("output", one.outputs)):
        yield from ((f"{what} {spec.name}", _spec(spec)) for spec in specs)
    yield from _members("report", one.report.model_dump(mode="json"))
    yield from _members("metrics", one.metrics)
    yield from _members("lineage", one.lineage)


def _spec(spec: TensorSpec) -> str:
    return f"{spec.datatype} {spec.shape}"


def _members(what: str, document: Mapping[str, Any]) -> Iterator[Row]:
    for name, value in document.items():
        if value not in (None, "", [], {}):
            told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{what}.{name}", told
