"""A worker's end: who has lost the parent clears away after it, and nobody else does."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from aiaas_server.workers.member import Member


@dataclass
class FakeParent:
    """A parent that lives until it is waited for, or for ever."""

    dies: bool = False
    waited: list[float | None] = field(default_factory=list)

    def is_alive(self) -> bool:
        return not (self.dies and self.waited)

    def join(self, timeout: float | None = None) -> None:
        self.waited.append(timeout)


class Group:
    """One worker and the parent's end of its link."""

    def __init__(self, files: Path, models: Path, parent: FakeParent) -> None:
        self.sock, theirs = socket.socketpair()
        self.member = Member(theirs, files, 1, parent)
        create_app(Settings(models=models), make_group=self.member)
        self._stopping = asyncio.Event()
        self.serving = asyncio.create_task(self.member.serve(self._stopping.set))

    def say(self, text: bytes) -> None:
        """What the parent says."""
        self.sock.sendall(len(text).to_bytes(4) + text)

    async def end(self) -> None:
        """As a process of its own ends: when told, or alone."""
        async with asyncio.timeout(120):
            await self._stopping.wait()
            self.member.end()
            self.sock.close()
            await self.serving


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A model on its way."""
    files = tmp_path / "files"
    (files / "1f").mkdir(parents=True)
    (files / "1f" / "0").write_bytes(b"weights")
    return files


@pytest.fixture
def models(make_repository: Any, onnx_models: SimpleNamespace) -> Path:
    repository: Path = make_repository({"tiny": onnx_models.identity()})
    return repository


async def test_a_parent_that_is_killed_is_not_gone_when_its_links_are(
    files: Path, models: Path
) -> None:
    parent = FakeParent(dies=True)
    group = Group(files, models, parent)
    group.sock.close()
    assert parent.is_alive()
    await group.end()
    assert not files.exists()


async def test_the_files_of_a_parent_that_lives_are_left_to_it(files: Path, models: Path) -> None:
    parent = FakeParent()
    group = Group(files, models, parent)
    group.say(b'{"call": "stop", "id": 0, "body": {}}')
    await group.end()
    assert parent.waited == []
    assert (files / "1f" / "0").read_bytes() == b"weights"


async def test_a_parent_that_lives_without_a_link_is_not_waited_for_without_end(
    files: Path, models: Path
) -> None:
    parent = FakeParent()
    group = Group(files, models, parent)
    group.say(b"no call")
    await group.end()
    (waited,) = parent.waited
    assert waited is not None
    assert (files / "1f" / "0").read_bytes() == b"weights"


async def test_models_and_keys_that_another_worker_changed_are_followed(
    files: Path, models: Path
) -> None:
    group = Group(files, models, FakeParent())
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def keys() -> None:
        await heard.put("keys of tenants")

    group.member._operations.follow = heard.put
    group.member._operations.follow_keys = keys
    async with asyncio.timeout(120):
        group.say(b'{"call": "follow", "id": 0, "body": {"name": "acme/m"}}')
        assert await heard.get() == "acme/m"
        group.say(b'{"call": "follow_keys", "id": 1, "body": {}}')
        assert await heard.get() == "keys of tenants"
    group.say(b'{"call": "stop", "id": 2, "body": {}}')
    await group.end()
