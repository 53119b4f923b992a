"""Drafts: what may be opened, and that whatever is sent in whatever way arrives as it was."""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import update

from aiaas_client.protocol.management import BundleFile, DraftRequest
from aiaas_server.core.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    ServerError,
    StorageFull,
)
from aiaas_server.registry.rows import Author
from aiaas_server.state.artefacts import claims
from aiaas_server.state.database import Database
from aiaas_server.state.tables import DRAFTS, METADATA
from tests.server.registry.conftest import OpenDeployment
from tests.server.registry.deploying import (
    ME,
    deploy,
    files_below,
    in_pieces,
    open_deployment,
    request_for,
    send,
    sha,
)
from tests.waiting import until

MODEL = {"model.onnx": b"a model, as far as drafts care" * 100}

HOSTILE = [
    "", ".", "..", ".hidden", "-x", "_x", "a/b", "../../etc/passwd", "a\\b", "a b", "a\nb",
    "a\x00b", "stats", "x" * 256, "x" * 300, "ä", "a%2Fb", "a:predict", "*",
    "'; DROP TABLE models; --",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_name_that_no_route_could_reach_is_refused(
    name: str, open_here: OpenDeployment
) -> None:
    with pytest.raises(InvalidInput, match="model"):
        await open_here().drafts.create(ME, name, request_for(MODEL))


async def test_the_name_of_a_model_of_the_directory_is_taken(open_here: OpenDeployment) -> None:
    deployment = open_here(is_taken=lambda name: name == "public")
    with pytest.raises(Conflict, match="'public' is served from the directory"):
        await deployment.drafts.create(ME, "public", request_for(MODEL))


D = "0" * 64
BAD_LISTS: dict[str, tuple[list[tuple[str, int, str]], type[ServerError], str]] = {
    "no model": ([("labels.txt", 3, D)], InvalidInput, "expected 'model.onnx'"),
    "a name twice": (
        [("model.onnx", 3, D), ("a", 1, "1" * 64), ("a", 2, "2" * 64)],
        InvalidInput,
        "'a' is there twice",
    ),
    "one digest, two sizes": (
        [("model.onnx", 3, D), ("copy.onnx", 4, D)],
        InvalidInput,
        "copy.onnx: another file has its digest",
    ),
    "too large": (
        [("model.onnx", 2**20 + 1, D)],
        PayloadTooLarge,
        r"model.onnx: expected at most 1048576 bytes \(max_model_file_bytes\), got 1048577",
    ),
}


@pytest.mark.parametrize(("listed", "kind", "text"), BAD_LISTS.values(), ids=BAD_LISTS)
async def test_a_list_that_cannot_become_a_version_is_refused(
    listed: list[tuple[str, int, str]],
    kind: type[ServerError],
    text: str,
    open_here: OpenDeployment,
) -> None:
    files = [BundleFile(name=n, size=s, sha256=d) for n, s, d in listed]
    deployment = open_here(settings={"max_model_file_bytes": 2**20, "disk_reserve_bytes": 0})
    with pytest.raises(kind, match=text):
        await deployment.drafts.create(ME, "m", DraftRequest(files=files))


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 129, "a\x00", "ä.txt"])
def test_a_file_is_named_plainly(name: str) -> None:
    with pytest.raises(ValueError):
        BundleFile(name=name, size=1, sha256=D)


async def test_the_same_bundle_gets_the_draft_that_is_open(open_here: OpenDeployment) -> None:
    drafts = open_here().drafts
    first, created = await drafts.create(ME, "m", request_for(MODEL, alias="a"))
    again, created_again = await drafts.create(ME, "m", request_for(MODEL, alias="b"))
    other, _ = await drafts.create(ME, "n", request_for(MODEL))
    assert (created, created_again) == (True, False)
    assert first.id == again.id != other.id
    assert (await drafts.row(ME, "m", first.id)).request.alias == "b"


async def test_a_draft_of_another_tenant_or_model_is_not_found(open_here: OpenDeployment) -> None:
    drafts = open_here().drafts
    draft, _ = await drafts.create(ME, "m", request_for(MODEL))
    for author, name, asked in [
        (Author("other"), "m", draft.id),
        (ME, "n", draft.id),
        (ME, "m", "0" * 32),
        (ME, "m", draft.id + "x"),
        (ME, "m", "../" + draft.id),
    ]:
        with pytest.raises(NotFound, match="no draft"):
            await drafts.get(author, name, asked)


async def test_a_quota_is_asked_in_the_transaction_and_leaves_nothing(
    open_here: OpenDeployment, database: Database
) -> None:
    def admit(*_: object) -> None:
        raise Conflict("the plan has no room")

    with pytest.raises(Conflict, match="no room"):
        await open_here(admit=admit).drafts.create(ME, "m", request_for(MODEL))
    assert database.read_now(lambda c: c.execute(DRAFTS.select()).all()) == []


async def test_a_full_disk_takes_no_draft_but_what_is_there_already(
    open_here: OpenDeployment,
) -> None:
    await deploy(open_here(), "m", MODEL)
    full = open_here(settings={"disk_reserve_bytes": 2**60})
    with pytest.raises(StorageFull):
        await full.drafts.create(ME, "n", request_for({"model.onnx": b"other"}))


# Receiving


async def test_what_the_tenant_has_in_the_store_is_not_sent_again(
    open_here: OpenDeployment,
) -> None:
    deployment = open_here()
    await deploy(deployment, "m", {**MODEL, "labels.txt": b"a\nb\n"})
    files = {**MODEL, "labels.txt": b"c\nd\n"}
    mine, _ = await deployment.drafts.create(ME, "n", request_for(files))
    assert [file.name for file in mine.missing] == ["labels.txt"]
    theirs, _ = await deployment.drafts.create(Author("other"), "n", request_for(files))
    assert len(theirs.missing) == 2


CONTENT = bytes(range(256)) * 5000


@pytest.mark.slow
@hypothesis_settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, len(CONTENT)), max_size=4),
    sizes=st.lists(st.integers(1, 600_000), max_size=5),
    breaks=st.lists(st.sampled_from(["ends", "fails", "cancelled", "restarts"]), max_size=4),
)
def test_whatever_is_split_or_broken_off_arrives_as_it_was(
    cuts: list[int], sizes: list[int], breaks: list[str]
) -> None:
    async def run(root: Path) -> None:
        database = Database(f"sqlite:///{root / 'state.db'}")
        METADATA.create_all(database.engine)
        deployment = open_deployment(database, root / "data")
        try:
            await _send_in_parts(deployment, sorted(cuts), sizes, breaks)
        finally:
            await deployment.close()
            database.close()

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(run(Path(root)))


async def _send_in_parts(
    deployment: Any, cuts: list[int], sizes: list[int], breaks: list[str]
) -> None:
    files = {"model.onnx": CONTENT}
    draft, _ = await deployment.drafts.create(ME, "m", request_for(files))
    for cut, how in zip(cuts, breaks, strict=False):
        received = draft.files[0].received
        body = CONTENT[received : max(cut, received)]
        offset = None if how == "restarts" else received
        if how == "restarts":
            body = CONTENT[:cut]
        sending = deployment.drafts.receive(
            ME, "m", draft.id, "model.onnx", _broken(body, sizes, how), offset=offset
        )
        with suppress(ConnectionError, asyncio.CancelledError):
            await sending
        draft = await deployment.drafts.get(ME, "m", draft.id)
        if draft.files[0].complete:
            break
    await send(deployment, draft, files)
    pieces = deployment.artefacts.pieces(ME.tenant, sha(CONTENT))
    assert b"".join(pieces) == CONTENT
    assert not list(deployment.drafts._parts.root.rglob("*.part"))


async def _broken(body: bytes, sizes: list[int], how: str) -> AsyncIterator[bytes]:
    async for piece in in_pieces(body, sizes):
        yield piece
    if how == "fails":
        raise ConnectionResetError
    if how == "cancelled":
        raise asyncio.CancelledError


async def test_an_offset_that_is_not_where_it_broke_off_says_where_it_did(
    open_here: OpenDeployment,
) -> None:
    drafts = open_here().drafts
    draft, _ = await drafts.create(ME, "m", request_for(MODEL))
    await drafts.receive(ME, "m", draft.id, "model.onnx", in_pieces(b"a model"), offset=0)
    for offset in (0, 6, 8, 10**12 - 1):
        with pytest.raises(Conflict, match="received are 7 of 3000 bytes"):
            await drafts.receive(ME, "m", draft.id, "model.onnx", in_pieces(b"x"), offset=offset)


async def test_other_bytes_than_announced_are_dropped(open_here: OpenDeployment) -> None:
    drafts = open_here().drafts
    draft, _ = await drafts.create(ME, "m", request_for(MODEL))
    wrong = b"x" * len(MODEL["model.onnx"])
    with pytest.raises(InvalidInput, match=f"expected bytes of SHA-256 .*, got {sha(wrong)}"):
        await drafts.receive(ME, "m", draft.id, "model.onnx", in_pieces(wrong), offset=0)
    assert (await drafts.get(ME, "m", draft.id)).files[0].received == 0


@pytest.mark.parametrize("told", [True, False], ids=["announced", "chunked"])
async def test_more_bytes_than_announced_are_refused(told: bool, open_here: OpenDeployment) -> None:
    drafts = open_here().drafts
    draft, _ = await drafts.create(ME, "m", request_for(MODEL))
    long = MODEL["model.onnx"] + b"!"
    with pytest.raises(InvalidInput, match="model.onnx: expected 3000 bytes, got 3001 or more"):
        await drafts.receive(
            ME, "m", draft.id, "model.onnx", in_pieces(long), length=len(long) if told else None
        )


async def test_a_file_that_was_not_announced_is_not_found(open_here: OpenDeployment) -> None:
    drafts = open_here().drafts
    draft, _ = await drafts.create(ME, "m", request_for(MODEL))
    for name in ("labels.txt", "../model.onnx", "x" * 300, ""):
        with pytest.raises(NotFound, match="was not announced"):
            await drafts.receive(ME, "m", draft.id, name, in_pieces(b"x"))


async def test_an_empty_file_is_a_file(open_here: OpenDeployment) -> None:
    deployment = open_here()
    done = await deploy(deployment, "m", {**MODEL, "empty.txt": b""})
    assert {file.name: file.size for file in done.version.files}["empty.txt"] == 0


async def test_the_same_bytes_under_two_names_are_sent_once(open_here: OpenDeployment) -> None:
    deployment = open_here()
    files = {"model.onnx": b"same", "copy.bin": b"same"}
    draft, _ = await deployment.drafts.create(ME, "m", request_for(files))
    draft = await deployment.drafts.receive(
        ME, "m", draft.id, "model.onnx", in_pieces(b"same"), offset=0
    )
    assert draft.missing == []
    await deployment.commits.commit(ME, "m", draft.id)


async def test_a_second_request_for_a_file_takes_the_place_of_the_first(
    open_here: OpenDeployment,
) -> None:
    deployment = open_here()
    draft, _ = await deployment.drafts.create(ME, "m", request_for(MODEL))
    content, stalled = MODEL["model.onnx"], asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield content[:1000]
        stalled.set()
        await asyncio.Event().wait()

    first = asyncio.create_task(
        deployment.drafts.receive(ME, "m", draft.id, "model.onnx", stalling(), offset=0)
    )
    await stalled.wait()
    done = await deployment.drafts.receive(
        ME, "m", draft.id, "model.onnx", in_pieces(content), offset=None
    )
    assert done.missing == []
    with pytest.raises(Conflict, match="another request sends it now"):
        await first


async def test_a_client_that_leaves_at_the_end_does_not_stop_the_file_from_being_kept(
    open_here: OpenDeployment,
) -> None:
    deployment = open_here()
    draft, _ = await deployment.drafts.create(ME, "m", request_for(MODEL))
    digest, put = sha(MODEL["model.onnx"]), deployment.artefacts.put
    task: asyncio.Task[Any] | None = None

    def leaving(*args: Any) -> None:
        assert task is not None
        task.get_loop().call_soon_threadsafe(task.cancel)
        put(*args)

    deployment.artefacts.put = leaving  # type: ignore[method-assign]
    task = asyncio.create_task(
        deployment.drafts.receive(ME, "m", draft.id, "model.onnx", in_pieces(MODEL["model.onnx"]))
    )
    await asyncio.wait({task})
    assert task.cancelled()
    again = deployment.drafts.receive(ME, "m", draft.id, "model.onnx", in_pieces(b""))
    assert (await again).files[0].complete  # it waited for the part
    assert deployment.artefacts.size(ME.tenant, digest) == 3000


async def test_a_draft_that_is_thrown_away_leaves_nothing(
    open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    deployment = open_here()
    files = {**MODEL, "labels.txt": b"a\nb\n"}
    draft, _ = await deployment.drafts.create(ME, "m", request_for(files))
    await deployment.drafts.receive(ME, "m", draft.id, "labels.txt", in_pieces(b"a\nb\n"))
    await deployment.drafts.receive(ME, "m", draft.id, "model.onnx", in_pieces(b"a mo"))
    await deployment.drafts.remove(await deployment.drafts.row(ME, "m", draft.id))
    assert files_below(tmp_path / "data") == set()
    assert database.read_now(claims.unused) == []


async def test_throwing_a_draft_away_ends_what_is_being_sent_for_it(
    open_here: OpenDeployment, tmp_path: Path
) -> None:
    deployment = open_here()
    draft, _ = await deployment.drafts.create(ME, "m", request_for(MODEL))

    async def stalling() -> AsyncIterator[bytes]:
        yield b"a model"
        await asyncio.Event().wait()

    first = asyncio.create_task(
        deployment.drafts.receive(ME, "m", draft.id, "model.onnx", stalling())
    )
    await until(lambda: any(files_below(tmp_path / "data")))
    await deployment.drafts.remove(await deployment.drafts.row(ME, "m", draft.id))
    with pytest.raises(Conflict):
        await first
    assert files_below(tmp_path / "data") == set()


async def test_a_draft_is_gone_after_a_day(
    open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    deployment = open_here()
    draft, _ = await deployment.drafts.create(ME, "m", request_for(MODEL))
    await deployment.drafts.receive(ME, "m", draft.id, "model.onnx", in_pieces(b"a model"))
    old = time.time() - 24 * 3600 - 1
    await database.write(lambda c: c.execute(update(DRAFTS).values(created=old)))
    with pytest.raises(NotFound):
        await deployment.drafts.get(ME, "m", draft.id)
    assert (await deployment.sweep.clean()).drafts == 1
    assert files_below(tmp_path / "data") == set()


async def test_an_upload_goes_on_after_a_restart(
    open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    first = open_here()
    draft, _ = await first.drafts.create(ME, "m", request_for(MODEL))
    await first.drafts.receive(ME, "m", draft.id, "model.onnx", in_pieces(b"a model, as"))
    second = open_deployment(database, tmp_path / "data")
    await second.start()
    draft, created = await second.drafts.create(ME, "m", request_for(MODEL))
    assert (created, draft.files[0].received) == (False, 11)
    draft = await send(second, draft, MODEL)
    assert draft.missing == []
    await second.close()


class FullDevice(io.FileIO):
    """`/dev/full` as a file that is empty: nothing can be written to it."""

    def __init__(self) -> None:
        super().__init__("/dev/full", "r+b")

    def read(self, size: int | None = -1, /) -> bytes:
        return b""


async def test_a_disk_that_fills_up_meanwhile_drops_the_part(
    open_here: OpenDeployment, tmp_path: Path
) -> None:
    deployment = open_here()
    draft, _ = await deployment.drafts.create(ME, "m", request_for({"model.onnx": CONTENT}))
    opened = deployment.drafts._parts.open

    def opened_full(*args: str) -> Any:
        part = opened(*args)
        assert part is not None
        part._file.close()
        part._file = FullDevice()
        return part

    deployment.drafts._parts.open = opened_full  # type: ignore[method-assign]
    with pytest.raises(StorageFull, match="the upload was dropped"):
        await deployment.drafts.receive(
            ME, "m", draft.id, "model.onnx", in_pieces(CONTENT), offset=0
        )
    assert files_below(tmp_path / "data") == set()
