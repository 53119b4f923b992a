"""Versions as directories: whole, verified, and made anew where they are damaged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aiaas_server.registry.cache import Cache
from aiaas_server.registry.rows import VersionRow
from aiaas_server.state.artefacts.artefacts import Corrupt
from aiaas_server.state.database import Database
from tests.server.registry.conftest import OpenDeployment
from tests.server.registry.deploying import ME, deploy, sha

FILES = {"model.onnx": b"one model", "labels.txt": b"a\nb\n"}


async def a_version(open_here: OpenDeployment) -> tuple[Cache, VersionRow]:
    """A version, and the cache of a process that has not looked at it yet."""
    done = await deploy(open_here(), "m", FILES)
    return open_here().cache, done.version


def content(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


async def test_files_are_links_where_the_store_is_a_directory(open_here: OpenDeployment) -> None:
    cache, version = await a_version(open_here)
    place = cache.materialise(version, ME.tenant)
    assert content(place) == FILES
    assert (place / "model.onnx").stat().st_nlink == 2


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone", "directory gone"])
async def test_what_is_damaged_is_made_anew_from_the_store(
    damage: str, open_here: OpenDeployment
) -> None:
    cache, version = await a_version(open_here)
    file = cache.materialise(version, ME.tenant) / "labels.txt"
    file.unlink()  # the link, not the artefact
    if damage in ("changed", "shorter"):
        file.write_bytes(b"x\nb\n" if damage == "changed" else b"a")
    if damage == "directory gone":
        cache.drop(ME.tenant, version.digest)
    assert content(cache.materialise(version, ME.tenant)) == FILES


async def test_what_is_damaged_in_the_store_too_is_corrupt_and_told(
    open_here: OpenDeployment, database: Database
) -> None:
    deployment = open_here()
    version = (await deploy(deployment, "m", FILES)).version
    told = []
    cache = Cache(
        deployment.cache.place("x", "y").parent.parent,
        deployment.artefacts,
        lambda *what: told.append(what),
    )
    path = deployment.artefacts.local(ME.tenant, sha(b"a\nb\n"))
    assert path is not None
    path.write_bytes(b"x\nb\n")
    with pytest.raises(Corrupt, match="labels.txt: artefact .* is damaged"):
        cache.materialise(version, ME.tenant)
    path.unlink()
    with pytest.raises(Corrupt, match="labels.txt: artefact .* is missing"):
        cache.materialise(version, ME.tenant)
    assert [what[:2] for what in told] == [(ME.tenant, sha(b"a\nb\n"))] * 2
    assert not cache.has(ME.tenant, version.digest)
    assert cache.clean() == 0  # no half directory stayed


async def test_many_ask_at_once_and_get_the_same(open_here: OpenDeployment) -> None:
    cache, version = await a_version(open_here)
    cache.drop(ME.tenant, version.digest)
    others = [cache, *(open_here().cache for _ in range(3))]
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(others[n % 4].materialise, version, ME.tenant) for n in range(16)]
        places = {each.result() for each in asked}
    assert len(places) == 1
    assert content(places.pop()) == FILES
    assert cache.kept() == [(ME.tenant, version.digest)]
    assert cache.clean() == 0


async def test_what_is_dropped_stays_with_whoever_has_it_open(open_here: OpenDeployment) -> None:
    cache, version = await a_version(open_here)
    with (cache.materialise(version, ME.tenant) / "model.onnx").open("rb") as file:
        cache.drop(ME.tenant, version.digest)
        cache.drop(ME.tenant, version.digest)
        assert file.read() == FILES["model.onnx"]
    assert not cache.has(ME.tenant, version.digest)
