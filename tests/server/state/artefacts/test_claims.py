"""No upload of a digest loses its bytes to a removal of the same, in whatever order they go."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, delete

from aiaas_server.state.artefacts import claims
from aiaas_server.state.tables import ARTEFACT_USES, ARTEFACTS, METADATA

T, D = "default", "d" * 64
Steps = Generator[None, None, None]


class World:
    """Rows in memory, and a store that is a set: what several processes share."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        connection.execute(delete(ARTEFACTS))
        connection.execute(delete(ARTEFACT_USES))
        self.store: set[str] = set()
        self.removing = False
        self.kept: set[str] = set()

    def upload(self, draft: str) -> Steps:
        """As `Drafts._claim` and `Drafts._keep`; each step is one transaction or one file."""
        while claims.claim(self.connection, T, D, f"draft/{draft}") == "leaving":
            yield
        yield
        if claims.claim(self.connection, T, D, claims.upload_user(draft)) == "leaving":
            return  # the draft has ended, and with it its use
        yield
        self.store.add(D)
        yield
        claims.release(self.connection, T, claims.upload_user(draft), D)
        if claims.uses(self.connection, T, D, f"draft/{draft}"):
            claims.set_size(self.connection, T, D, 1)
            self.kept.add(draft)
            yield
        else:
            yield from self.remove()

    def finds_stored(self, draft: str) -> Steps:
        """A draft that finds the bytes there already."""
        row = claims.find(self.connection, T, [D]).get(D)
        if row is not None and row.stored:
            claims.claim(self.connection, T, D, f"draft/{draft}")
            self.kept.add(draft)
        yield

    def end(self, draft: str) -> Steps:
        """A draft or version that uses them goes, and then the bytes."""
        claims.release(self.connection, T, f"draft/{draft}")
        self.kept.discard(draft)
        yield
        yield from self.remove()

    def remove(self) -> Steps:
        """As `Remover.remove_now`."""
        while self.removing:
            yield
        self.removing = True
        marked = claims.mark_leaving(self.connection, T, [D])
        yield
        if marked:
            self.store.discard(D)
        yield
        claims.forget(self.connection, T, marked)
        self.removing = False
        yield

    def check(self) -> None:
        """What must hold after every step: whoever was told that its bytes are kept has them."""
        if self.kept:
            assert D in self.store
            assert claims.find(self.connection, T, [D])[D].stored


def run(world: World, actors: dict[str, Steps], order: list[str]) -> None:
    """Let the actors make steps in that order, and then to their ends."""
    rest = itertools.cycle(list(actors))
    for name in itertools.chain(order, rest):
        if not actors:
            break
        if name in actors:
            try:
                next(actors[name])
            except StopIteration:
                del actors[name]
            world.check()


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    """A database in memory with the two tables; a world empties them."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        METADATA.create_all(connection, tables=[ARTEFACTS, ARTEFACT_USES])
        yield connection
    engine.dispose()


ACTORS = ("upload a", "upload b", "end a", "end c", "sweep", "find d")


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(order=st.lists(st.sampled_from(ACTORS), max_size=40))
def test_no_interleaving_loses_bytes_or_leaves_any(
    connection: Connection, order: list[str]
) -> None:
    world = World(connection)
    for _ in world.upload("c"):  # somebody has the bytes already
        pass
    actors = {
        "upload a": world.upload("a"),
        "upload b": world.upload("b"),
        "end a": world.end("a"),
        "end c": world.end("c"),
        "sweep": world.remove(),
        "find d": world.finds_stored("d"),
    }
    run(world, actors, order)
    assert "b" in world.kept  # which nobody ended
    for draft in sorted(world.kept):
        for _ in world.end(draft):
            world.check()
    for _ in world.remove():
        pass
    assert world.store == set()
    assert claims.unused(world.connection) == []


@pytest.mark.parametrize("stop", range(1, 5))
def test_a_remover_that_dies_is_finished_by_the_next(stop: int, connection: Connection) -> None:
    world = World(connection)
    for _ in world.upload("a"):
        pass
    dying = world.end("a")
    for _ in range(stop):
        next(dying, None)
    dying.close()
    world.removing = False  # its lock died with it
    for tenant, digest in claims.unused(world.connection):
        assert (tenant, digest) == (T, D)
        for _ in world.remove():
            pass
    assert world.store == set()
    assert claims.find(world.connection, T, [D]) == {}


def test_many_digests_are_found_in_parts(connection: Connection) -> None:
    world = World(connection)
    digests = [f"{number:064x}" for number in range(1201)]
    rows = [
        {"tenant": T, "digest": d, "size": 1, "leaving": False, "created": 0.0} for d in digests
    ]
    users = [{"tenant": T, "digest": digest, "user": "draft/x"} for digest in digests]
    connection.execute(ARTEFACTS.insert(), rows)
    connection.execute(ARTEFACT_USES.insert(), users)
    assert claims.mark_leaving(connection, T, digests) == []
    assert set(claims.find(world.connection, T, digests)) == set(digests)
    assert len(claims.release(world.connection, T, "draft/x")) == 1201
    assert len(claims.mark_leaving(world.connection, T, digests)) == 1201
    claims.forget(world.connection, T, digests)
    assert claims.unused(world.connection) == []
