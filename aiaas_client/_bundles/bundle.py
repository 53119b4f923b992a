"""The files that make a version, found, checked and hashed before anything is sent.

Nothing here holds a file's bytes for longer than it hashes or sends a piece of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aiaas_client._bundles.external import external_files
from aiaas_client._bundles.golden import Golden, with_tensors
from aiaas_client._errors import InputError, MissingFileError
from aiaas_client.protocol.management import (
    CARD_FILE,
    GOLDEN_FILE,
    MODEL_FILE,
    BundleFile,
    bundle_digest,
)
from aiaas_client.protocol.names import FILE

MANIFEST = "bundle.json"
"""What an export adds to the files; it is no part of the bundle."""
MOST_FILES = 256
_HASHED = 1 << 20  # bytes at a time
_DESCRIBING = frozenset({MODEL_FILE, CARD_FILE, GOLDEN_FILE})  # a card names all other files


@runtime_checkable
class Serializes(Protocol):
    """An `onnx.ModelProto`, or what can be made into bytes like one."""

    def SerializeToString(self) -> bytes:  # noqa: N802  # protobuf's name
        """The model as a file holds it."""
        ...


AnyPath = str | PathLike[str]
Source = AnyPath | bytes | bytearray | memoryview | Serializes
Card = Mapping[str, Any] | AnyPath | Any
"""A card as a document, a path, or an object with `model_dump()`."""
Assets = Mapping[str, AnyPath | bytes]
AnyGolden = Golden | Mapping[str, Any] | AnyPath


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a bundle: on a disk, or in memory."""

    name: str
    place: Path | None
    data: bytes = b""
    size: int = 0
    sha256: str = ""

    def read(self, offset: int, count: int) -> bytes:
        """Give `count` bytes from `offset` on.

        Raises:
            InputError: the file has become shorter, or is gone.
        """
        if self.place is None:
            return self.data[offset : offset + count]
        try:
            with self.place.open("rb") as file:
                file.seek(offset)
                piece = file.read(count)
        except OSError as error:
            raise InputError(f"{self.name}: '{self.place}': {error.strerror}") from None
        if len(piece) < count:
            raise InputError(f"{self.name}: '{self.place}' was changed while it was sent")
        return piece

    def hashed(self, told: Callable[[int], object]) -> Part:
        """The same with its size and digest; `told` hears of the bytes as they are read.

        Raises:
            InputError: the file cannot be read.
        """
        digest, size = hashlib.sha256(), 0
        try:
            for piece in self._pieces():
                digest.update(piece)
                size += len(piece)
                told(len(piece))
        except OSError as error:
            raise InputError(f"{self.name}: '{self.place}': {error.strerror}") from None
        return replace(self, size=size, sha256=digest.hexdigest())

    def length(self) -> int:
        """Bytes, as the file system says."""
        return len(self.data) if self.place is None else self.place.stat().st_size

    def _pieces(self) -> Iterator[bytes]:
        if self.place is None:
            yield self.data
            return
        with self.place.open("rb") as file:
            while piece := file.read(_HASHED):
                yield piece


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files of a version by name, each with its digest."""

    parts: Mapping[str, Part]

    @property
    def files(self) -> list[BundleFile]:
        """As a draft asks for them, by name."""
        return [
            BundleFile(name=one.name, size=one.size, sha256=one.sha256)
            for _, one in sorted(self.parts.items())
        ]

    @property
    def digest(self) -> str:
        """Of the bundle."""
        return bundle_digest(self.files)


def gathered(
    source: Source,
    *,
    card: Card | None = None,
    assets: Assets | None = None,
    golden: AnyGolden | None = None,
) -> dict[str, Part]:
    """Find the files of a version; nothing is hashed yet.

    Raises:
        InputError: `source` is no model, a name is none, a file is missing (`MissingFileError`).
    """
    parts = _of_source(source)
    for name, asset in (assets or {}).items():
        if name in _DESCRIBING or name == MANIFEST:
            raise InputError(f"assets: {name!r} has a meaning of its own")
        if name in parts:
            raise InputError(f"assets: {name!r} is a file of the bundle already")
        parts[name] = _part(name, asset, f"asset {name!r}")
    if card is not None:
        parts[CARD_FILE] = _card_part(card)
    if golden is not None:
        parts[GOLDEN_FILE] = _golden_part(golden)
    for name in parts:
        _check_file_name(name)
    if len(parts) > MOST_FILES:
        raise InputError(f"bundle: expected at most {MOST_FILES} files, got {len(parts)}")
    if MODEL_FILE in parts and parts[MODEL_FILE].length() == 0:
        raise InputError(f"{_place_of(parts[MODEL_FILE])} is empty")
    return parts


def hashed(parts: Mapping[str, Part], told: Callable[[int], object] = lambda count: None) -> Bundle:
    """Hash all files; the card is told the digests of those that it names none for.

    Raises:
        InputError: a file cannot be read, the card is none, or it names another digest.
    """
    found = {name: part.hashed(told) for name, part in parts.items()}
    if CARD_FILE in found:
        found[CARD_FILE] = _with_digests(found[CARD_FILE], found)
    return Bundle(found)


def _of_source(source: Source) -> dict[str, Part]:
    if isinstance(source, bytes | bytearray | memoryview):
        return {MODEL_FILE: Part(MODEL_FILE, None, bytes(source))}
    if isinstance(source, Serializes):
        return {MODEL_FILE: Part(MODEL_FILE, None, bytes(source.SerializeToString()))}
    if not isinstance(source, str | PathLike):
        raise InputError(
            f"model: expected the path of an .onnx file or of a bundle's directory, bytes, or an "
            f"onnx.ModelProto, got {type(source).__name__}"
        )
    path = Path(fspath(source))
    if path.is_dir():
        return _of_directory(path)
    if not path.is_file():
        raise MissingFileError(f"model: no file or directory '{path}'")
    model = {MODEL_FILE: Part(MODEL_FILE, path)}
    return model | _weights(path)


def _of_directory(path: Path) -> dict[str, Part]:
    children = [one for one in sorted(path.iterdir()) if not one.name.startswith(".")]
    files = {one.name: Part(one.name, one) for one in children if one.is_file()}
    files.pop(MANIFEST, None)
    if not {MODEL_FILE, CARD_FILE} & files.keys():  # a pipeline is a card alone
        raise InputError(f"'{path}': expected {MODEL_FILE} in it{_instead(path, children)}")
    directories = [one.name for one in children if one.is_dir()]
    if directories:
        raise InputError(f"'{path}': a bundle has only files, got the directory {directories[0]!r}")
    if MODEL_FILE in files:
        for name in _weights(path / MODEL_FILE):
            files.setdefault(name, Part(name, path / name))
    return files


def _instead(path: Path, children: list[Path]) -> str:
    """What whoever named the directory may have meant."""
    if not children:
        return ", and it is empty"
    inside = [one for one in children if (one / MODEL_FILE).is_file()]
    models = [one for one in children if one.suffix == ".onnx"]
    found = inside or models
    return f"; did you mean '{found[-1]}'?" if found else ""


def _weights(model: Path) -> dict[str, Part]:
    """The files beside a model that hold its weights."""
    found = {}
    for name in external_files(model):
        place = model.parent / name
        if re.fullmatch(FILE, name) is None:
            raise InputError(
                f"'{model}': its weights are in {name[:80]!r}; expected a plain file name beside it"
            )
        if not place.is_file():
            raise MissingFileError(f"'{model}': its weights are in '{place}', which is not there")
        found[name] = Part(name, place)
    return found


def _part(name: str, content: AnyPath | bytes, what: str) -> Part:
    if isinstance(content, bytes | bytearray | memoryview):
        return Part(name, None, bytes(content))
    if not isinstance(content, str | PathLike):
        raise InputError(f"{what}: expected a path or bytes, got {type(content).__name__}")
    path = Path(fspath(content))
    if not path.is_file():
        raise MissingFileError(f"{what}: no file '{path}'")
    return Part(name, path)


def _card_part(card: Card) -> Part:
    dump = getattr(card, "model_dump", None)
    document: Any = dump(mode="json") if callable(dump) else card
    if isinstance(document, Mapping):
        return Part(CARD_FILE, None, _json("card", document))
    return _part(CARD_FILE, document, "card")


def _golden_part(golden: AnyGolden) -> Part:
    if isinstance(golden, Golden):
        return Part(GOLDEN_FILE, None, golden.to_bytes())
    if isinstance(golden, Mapping):
        return Part(GOLDEN_FILE, None, _json("golden", with_tensors(golden)))
    return _part(GOLDEN_FILE, golden, "golden")


def _json(what: str, document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(document), indent=1, ensure_ascii=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what}: {error}") from None


def _check_file_name(name: str) -> None:
    if re.fullmatch(FILE, str(name)) is None:
        raise InputError(
            f"file {str(name)[:80]!r}: expected a name of letters, digits, '.', '_' and '-', "
            f"at most 128, that begins with a letter or digit"
        )


def _place_of(part: Part) -> str:
    return f"'{part.place}'" if part.place is not None else part.name


def _with_digests(card: Part, parts: Mapping[str, Part]) -> Part:
    """The card, which declares a digest for each file beside the model; as it is if it does."""
    document = _read_card(card)
    declared = document.get("assets") or {}
    if not isinstance(declared, Mapping):
        raise InputError(f"{CARD_FILE}: assets: expected names and digests, got {declared!r:.80}")
    missing = {}
    for name in sorted(parts.keys() - _DESCRIBING):
        told = str(declared.get(name) or "").lower()
        if told and told != parts[name].sha256:
            raise InputError(
                f"{CARD_FILE}: {name!r}: it says sha256 {told[:64]}, and the file has "
                f"{parts[name].sha256}"
            )
        if not told:
            missing[name] = parts[name].sha256
    if not missing:
        return card
    completed = _json("card", {**document, "assets": {**declared, **missing}})
    return Part(CARD_FILE, None, completed).hashed(lambda count: None)


def _read_card(card: Part) -> dict[str, Any]:
    try:
        document = json.loads(card.read(0, card.size))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{_place_of(card)}: expected JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError(
            f"{_place_of(card)}: expected a JSON object, got {type(document).__name__}"
        )
    return document
