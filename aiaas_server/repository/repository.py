"""A model repository on disk, in any of three layouts.

Triton's: `<model>/[config.pbtxt|config.json]` and `<model>/<version>/model.onnx`; a directory of
bare `.onnx` files, each a model of one version; or one such file. The first two may be mixed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from aiaas_client.protocol.texts import decode_text
from aiaas_server.core.describe.card import CARD_NAME
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.describe.stored import StoredModel, StoredVersion, name_problem
from aiaas_server.core.errors import LoadFailed
from aiaas_server.repository.config_text import parse_config_text
from aiaas_server.repository.external_data import external_files
from aiaas_server.repository.misplaced import other_format, stray_pipeline, what_to_do

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_UPLOAD = re.compile(r"([1-9][0-9]{0,17})/([^/\\\x00]{1,255})")
_CONFIG_NAMES = ("config.pbtxt", "config.json")
_MAX_CONFIG_BYTES = 1024 * 1024
_MAX_LABEL_BYTES = 16 * 1024 * 1024
_MAX_WARMUP_BYTES = 256 * 1024 * 1024
DEFAULT_FILENAME = "model.onnx"


class Repository:
    """The models under `root`; see `core.describe.stored.ModelRepository`.

    Args:
        scratch: Where uploaded files lie while they are opened; by default where the system has
            such. Gone meanwhile, it is made again.
    Raises:
        LoadFailed: `root` does not exist, or is a file that is not `.onnx`.
    """

    def __init__(self, root: Path, scratch: Path | None = None) -> None:
        if not root.exists():
            raise LoadFailed(f"the model repository '{root}' does not exist")
        if root.is_file() and root.suffix != ".onnx":
            raise LoadFailed(f"'{root}' is neither a directory nor an .onnx file")
        self.root = root
        self._scratch = scratch

    def names(self) -> list[str]:
        """All models, in order."""
        return sorted(self._places())

    def misplaced(self) -> dict[str, str]:
        """By name, what to do about each place that looks like a model's and holds none."""
        if self.root.is_file():
            return {}
        models = self._places()
        found = {}
        for entry in sorted(self.root.iterdir()):
            name = entry.name if entry.is_dir() else entry.stem
            if name in models or not _may_name(name):
                continue
            if problem := what_to_do(entry) if entry.is_dir() else stray_pipeline(entry):
                found[name] = problem
        return found

    def find(self, name: str) -> StoredModel | None:
        """One model as it is now, or None."""
        place = self._place(name)
        if place is None:
            return None
        if place.suffix == ".onnx" and place.is_file():
            version = StoredVersion(1, place, (_stamp(place), _stamp(_bare_card(place))))
            return StoredModel(name, ModelConfig(), (version,), name_problem(name))
        return _read_directory(name, place)

    def governs(self, name: str) -> bool:
        """Never: whoever may control the server says what of a directory is loaded."""
        return False

    def labels(self, model: StoredModel, version: StoredVersion, filename: str) -> tuple[str, ...]:
        """The lines of a label file that lies beside the model's configuration."""
        if model.directory is None:
            raise LoadFailed(f"label file '{filename}' is missing")
        text = _read(model.directory / filename, _MAX_LABEL_BYTES, f"label file '{filename}'")
        return tuple(line.rstrip("\r") for line in text.removesuffix("\n").split("\n"))

    def read_beside(self, model: StoredModel, version: StoredVersion, name: str) -> bytes:
        """The bytes of a file beside a version, or else beside its model's configuration.

        The card of a bare `x.onnx` is `x.json`.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if model.directory is None and name == CARD_NAME:
            return _bare_card(version.path).read_bytes()
        path = version.path.parent / name
        if model.directory is not None and not path.is_file():
            path = model.directory / name
        return path.read_bytes()

    def warmup_data(self, model: StoredModel, version: StoredVersion, filename: str) -> bytes:
        """A file of the directory `warmup` beside the model's configuration."""
        what = f"warm-up data 'warmup/{filename}'"
        if model.directory is None:
            raise LoadFailed(f"{what} is missing")
        return _read_bytes(model.directory / "warmup" / filename, _MAX_WARMUP_BYTES, what)

    def files_of(self, version: StoredVersion) -> list[Path]:
        """The model file and those beside it that hold weights of it.

        Raises:
            LoadFailed: It names weights anywhere but in a plain file beside it.
        """
        return [version.path, *external_files(version.path)]

    @contextmanager
    def upload(
        self, name: str, config: ModelConfig, files: Mapping[str, bytes]
    ) -> Iterator[StoredModel]:
        """A model of files given as `<version>/<file name>`; they exist while this is open.

        Raises:
            LoadFailed: A name is not of that form, or no name for a model.
        """
        if problem := name_problem(name):
            raise LoadFailed(f"model {name[:64]!r}: {problem}")
        for path in files:
            _check_upload(path)
        if self._scratch is not None:
            self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="aiaas-load-", dir=self._scratch) as place:
            directory = Path(place)
            for path, content in files.items():
                target = directory / path
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(content)
            yield StoredModel(
                name, config, _versions(directory, config), directory=self._label_place(name)
            )

    def _label_place(self, name: str) -> Path | None:
        place = self._place(name)
        return place if place is not None and place.is_dir() else None

    def _place(self, name: str) -> Path | None:
        """As `_places` has it, without a look at all the others: a server may have thousands."""
        if self.root.is_file():
            return self.root if name == self.root.stem else None
        if not _may_name(name):
            return None
        directory, file = self.root / name, self.root / f"{name}.onnx"
        try:
            if directory.is_dir() and _is_model(directory):
                return directory
            return file if file.is_file() else None
        except OSError:  # too long a name, or not ours to read
            return None

    def _places(self) -> dict[str, Path]:
        """Model name to its directory or file; a directory stands above a file of its name."""
        if self.root.is_file():
            return {self.root.stem: self.root}
        places: dict[str, Path] = {}
        try:
            entries = list(self.root.iterdir())
        except OSError as error:
            raise LoadFailed(f"the model repository cannot be read: {error.strerror}") from error
        for entry in entries:
            if not _may_name(entry.name):
                continue
            if entry.suffix == ".onnx" and entry.is_file():
                places.setdefault(entry.stem, entry)
            elif entry.is_dir() and _is_model(entry):
                places[entry.name] = entry
        return places


def _may_name(name: str) -> bool:
    """Whether a file of the repository may be called this; neither hidden nor elsewhere."""
    return bool(name) and not name.startswith(".") and "/" not in name and name.isprintable()


def _bare_card(model: Path) -> Path:
    return model.with_suffix(".json")


def _is_model(directory: Path) -> bool:
    if any((directory / name).is_file() for name in _CONFIG_NAMES):
        return True
    return bool(_version_directories(directory))


def _read_directory(name: str, directory: Path) -> StoredModel:
    problem = name_problem(name)
    config = ModelConfig()
    try:
        config = _read_config(name, directory)
        config.refuse_unsupported()  # before it is asked for files that such a model has not
    except LoadFailed as error:
        problem = problem or error.message
    versions = _versions(directory, config)
    if not problem and not versions:
        problem = what_to_do(directory) or f"it has no version directory: expected {name}/1"
    for version in versions:
        if not version.path.is_file() and not (version.path.parent / CARD_NAME).is_file():
            problem = problem or other_format(version.path.parent)
    files = [directory / file for file in (*_CONFIG_NAMES, CARD_NAME)]
    files += [
        directory / output.label_filename for output in config.output if output.label_filename
    ]
    return StoredModel(
        name,
        config,
        versions,
        problem,
        tuple(_stamp(file) for file in files),
        directory,
    )


def _read_config(name: str, directory: Path) -> ModelConfig:
    for filename in _CONFIG_NAMES:
        path = directory / filename
        if not path.is_file():
            continue
        source = _read(path, _MAX_CONFIG_BYTES, filename)
        text = filename.endswith(".pbtxt")
        config = ModelConfig.parse(parse_config_text(source) if text else source)
        if config.name not in ("", name):
            raise LoadFailed(
                f"{filename}: expected the name '{name}' of its directory, got '{config.name}'"
            )
        return config
    return ModelConfig()


def _versions(directory: Path, config: ModelConfig) -> tuple[StoredVersion, ...]:
    filename = config.default_model_filename or DEFAULT_FILENAME
    return tuple(
        StoredVersion(number, place / filename, _directory_stamp(place))
        for number, place in sorted(_version_directories(directory).items())
    )


def _version_directories(directory: Path) -> dict[int, Path]:
    try:
        return {
            int(entry.name): entry
            for entry in directory.iterdir()
            if _VERSION.fullmatch(entry.name) and entry.is_dir()
        }
    except OSError:  # removed since it was listed, or not ours to read
        return {}


def _stamp(path: Path) -> Hashable:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _directory_stamp(directory: Path) -> Hashable:
    try:
        return tuple((entry.name, _stamp(entry)) for entry in sorted(directory.iterdir()))
    except OSError:
        return None


def _read(path: Path, limit: int, what: str) -> str:
    try:
        return decode_text(_read_bytes(path, limit, what))
    except UnicodeDecodeError as error:
        raise LoadFailed(f"{what} is not UTF-8 text") from error


def _read_bytes(path: Path, limit: int, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise LoadFailed(f"{what} cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise LoadFailed(f"{what} is larger than {limit} bytes")
    return content


def _check_upload(path: str) -> None:
    found = _UPLOAD.fullmatch(path)
    if found is None or found[2] in (".", ".."):
        raise LoadFailed(
            f"file name {path[:64]!r}: expected '<version>/<name>', the version a positive integer"
        )
