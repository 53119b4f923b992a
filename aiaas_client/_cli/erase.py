"""`aiaas erase tenant` and `aiaas erase verify`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from aiaas_client._cli.server import Server
from aiaas_client._cli.session import FAILED, AsJson, client_of, ended, print_json, tell
from aiaas_client.protocol.erasure import Certificate, TenantErasure, canonical

_LOOK = 1.0  # seconds between two questions how far it is


def erase_tenant(
    tenant: Annotated[str, typer.Argument(help="Its name.")],
    confirm: Annotated[
        str | None, typer.Option("--confirm", help="Its name once more; asked for otherwise.")
    ] = None,
    backup: Annotated[
        list[str] | None,
        typer.Option("--backup", help="A line for the certificate: a backup; repeat for more."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the certificate here.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until nothing of it is left.")
    ] = True,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Erase a tenant: keys, models, data sets, files, jobs. There is no way back."""
    if confirm is None:
        confirm = typer.prompt(f"All of '{tenant}' goes, for good. Its name once more")
    if confirm != tenant:
        raise ended(f"'{confirm}' is not '{tenant}': nothing was erased", 2)
    with client_of(server) as client:
        found = client.tenants.erase(tenant, backups=backup or ())
        while wait and found.state == "running":
            time.sleep(_LOOK)
            found = client.tenants.erasure(tenant)
    if output is not None and found.certificate is not None:
        text = json.dumps(found.certificate.model_dump(mode="json"), indent=2)
        output.write_text(f"{text}\n", encoding="utf-8")
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found)


def verify(
    certificate: Annotated[Path, typer.Argument(help="A certificate, as JSON.")],
    key: Annotated[
        str | None,
        typer.Option("--key", help="The server's public key, hexadecimal, known from elsewhere."),
    ] = None,
) -> None:
    """Verify a certificate without the server; ends with 1 where it is not what was signed."""
    try:
        document = json.loads(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise ended(f"{certificate}: {error}", 2) from None
    problem = problem_of(document, key)
    if problem:
        raise ended(f"{certificate}: {problem}", FAILED)
    found = Certificate(**document)
    _print_certificate(found)
    if key is None:
        tell(f"signed by {found.public_key}: compare it with what the operator published, or --key")


def problem_of(document: Any, key: str | None = None) -> str:
    """What is wrong with a certificate; "" where nothing is.

    Args:
        key: By which it has to be signed; the one that it names where None is given.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise ended("this needs cryptography; run: pip install cryptography", FAILED) from None

    if not isinstance(document, dict):
        return "expected a certificate, got something else"
    named, signature = str(document.get("public_key")), str(document.get("signature"))
    if key is not None and key.strip().lower() != named:
        return f"expected to be signed by {key.strip()[:64]}, got {named[:64]}"
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(named))
        public.verify(bytes.fromhex(signature), canonical(document))
    except (ValueError, InvalidSignature):
        return "the signature is not that of this document: it was changed, or never signed"
    return ""


def _print(found: TenantErasure) -> None:
    if found.certificate is None:
        typer.echo(f"tenant '{found.tenant}': its keys are refused, the rest goes on by itself")
    else:
        _print_certificate(found.certificate)


def _print_certificate(found: Certificate) -> None:
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found.finished))
    proven = "nothing of it was found afterwards" if found.verified else "something was left"
    typer.echo(f"tenant '{found.tenant}': erased {at}, {proven}")
    counts = {
        "keys": len(found.keys),
        **found.counts,
        "artefacts": len(found.artefacts),
        "data keys": len(found.data_keys),
    }
    gone = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    typer.echo(f"gone: {gone or 'its name alone'}")
    for line in found.backups:
        typer.echo(f"backup: {line}")
