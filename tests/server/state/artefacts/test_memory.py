"""The directory in memory: in memory indeed, this user's alone, empty behind its processes."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiaas_server.state.artefacts.memory import Memory, MemoryRefused, file_system_of, place_of

pytestmark = pytest.mark.skipif(
    file_system_of(Path("/dev/shm")) != "tmpfs", reason="this machine has no /dev/shm"
)


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path("/dev/shm") / f"aiaas-test-{uuid.uuid4().hex}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_a_data_directory_has_a_place_of_its_own(tmp_path: Path) -> None:
    assert place_of(tmp_path) == place_of(tmp_path / "x" / "..")
    assert place_of(tmp_path) != place_of(tmp_path / "x")
    assert place_of(tmp_path, tmp_path / "given") == tmp_path / "given"


def test_it_is_empty_behind_the_last_process(place: Path) -> None:
    first, second = Memory(place), Memory(place)
    (first.root / "model").write_bytes(b"weights")
    first.close()
    assert (second.root / "model").read_bytes() == b"weights"
    second.close()
    assert not place.joinpath("used").exists()


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_uses_is_not(place: Path) -> None:
    memory = Memory(place)
    (memory.root / "model").write_bytes(b"weights")
    Memory(place).close()
    assert (memory.root / "model").exists()
    assert memory._lock is not None
    memory._lock.close()  # as the end of its process does
    again = Memory(place)
    assert not (again.root / "model").exists()
    again.close()


def mounted(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "mounts"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_disk_is_refused(tmp_path: Path) -> None:
    mounts = mounted(tmp_path, "rootfs / tmpfs rw 0 0", f"/dev/sda {tmp_path} ext4 rw 0 0")
    with pytest.raises(MemoryRefused, match="tmpfs or ramfs.*got ext4"):
        Memory(tmp_path / "x", mounts)
    with pytest.raises(MemoryRefused, match="got unknown"):
        Memory(tmp_path / "x", tmp_path / "none")


def test_the_last_mount_of_a_place_counts(tmp_path: Path) -> None:
    spaced = tmp_path / "a b"
    spaced.mkdir()
    lines = [
        "/dev/sda / ext4 rw 0 0",
        f"x {str(spaced).replace(' ', chr(92) + '040')} tmpfs rw 0 0",
    ]
    assert file_system_of(spaced / "c", mounted(tmp_path, *lines)) == "tmpfs"
    assert file_system_of(tmp_path, mounted(tmp_path, *lines)) == "ext4"


def test_what_others_may_look_into_is_refused(place: Path) -> None:
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    with pytest.raises(MemoryRefused, match="0755"):
        Memory(place)
    place.rmdir()
    place.symlink_to("/dev/shm")
    with pytest.raises(MemoryRefused, match="got a link"):
        Memory(place)
    place.unlink()
