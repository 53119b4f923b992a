"""After a kill: all that was acknowledged is there, nothing is half there, nothing is left."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.crash.server import Server
from tests.crash.story import NAME, ROOT, Document, Step, Truth
from tests.waiting import wait_until

_ASK = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


def agree(server: Server, truth: Truth, step: Step | None) -> bool:
    """Compare what a server tells with the truth; `step` was under way when one was killed.

    What that step has changed, if it has, is the truth from then on.

    Returns:
        Whether it has.
    """
    # It comes after all that the one which was killed had sent to the database.
    if server.ask("PATCH", ROOT, {}).status == 404:
        assert not truth.versions, f"the model is gone, and {truth.versions} were acknowledged"
        return False
    done = _history_agrees(server, truth, step)
    under_way = step if done else None
    _versions_agree(_all(server, f"{ROOT}/versions"), truth, under_way)
    _serving_agrees(server.ask("GET", ROOT).body["serving"], truth, under_way)
    if truth.alive:
        wait_until(lambda: _serves_right(server, truth), "it does not serve after the restart")
    return done


def _history_agrees(server: Server, truth: Truth, step: Step | None) -> bool:
    """Each acknowledged change has its entry; gives whether the step under way has one, too."""
    entries: list[Document] = []
    after = ""
    while True:
        page = server.ask("GET", f"{ROOT}/history?limit=50&after={after}").body
        entries += [entry for entry in page["items"] if entry["seq"] > truth.seq]
        if page["next"] is None or page["items"][-1]["seq"] <= truth.seq:
            break
        after = page["next"]
    entries.reverse()
    found = [(entry["kind"], entry["version"]) for entry in entries]
    wanted, truth.unseen = truth.unseen, []
    assert found[: len(wanted)] == wanted, f"history: expected {wanted}, got {found}"
    more = found[len(wanted) :]
    assert len(more) <= (step is not None), f"history: {more} were asked for by nobody"
    for kind, number in more:
        assert step is not None
        assert kind == step.entry, f"{step.kind} left {kind}"
        assert step.kind == "commit" or number == step.number
    if entries:
        truth.seq = entries[-1]["seq"]
    return bool(more)


def _versions_agree(versions: list[Document], truth: Truth, step: Step | None) -> None:
    found = {one["version"]: one for one in versions}
    missing = truth.versions.keys() - found.keys()
    assert not missing, f"versions {missing} were acknowledged and are gone"
    for number in found.keys() - truth.versions.keys():
        assert step is not None, f"version {number} came from nowhere"
        assert step.kind == "commit", f"version {number} came of a {step.kind}"
        truth.versions[number] = step.digest
    if step is not None and step.kind == "delete":
        assert step.number is not None
        truth.erased.add(step.number)
    for number, one in found.items():
        wanted = "erased" if number in truth.erased else "verified"
        assert one["state"] == wanted, f"version {number} is {one['state']}: {one['reason']}"
        assert [file["sha256"] for file in one["files"]] == [truth.versions[number]]


def _serving_agrees(serving: Document, truth: Truth, step: Step | None) -> None:
    if step is not None and step.kind == "rollback":
        assert serving in truth.states, f"back to what never was: {serving}"
    elif step is not None and step.serving is not None:
        assert serving == step.serving, f"{step.kind}: expected {step.serving}, got {serving}"
    elif truth.serving:
        assert serving == truth.serving, f"expected {truth.serving}, got {serving}"
    truth.serves(serving)


def _serves_right(server: Server, truth: Truth) -> bool:
    """Whether a call gets a version that it should get."""
    answer = server.ask("POST", f"/v2/models/{NAME}/infer", _ASK)
    if answer.status != 200:
        return False
    serving, latest = truth.serving, truth.alive[-1]
    right = {int(number) for number in serving.get("split", {})}
    right = right or {serving.get("aliases", {}).get("production", latest)}
    return int(answer.body["model_version"]) in right


def _all(server: Server, path: str) -> list[Any]:
    found: list[Any] = []
    after = ""
    while True:
        page = server.ask("GET", f"{path}?limit=200&after={after}").body
        found += page["items"]
        if page["next"] is None:
            return found
        after = page["next"]


def whole(server: Server, truth: Truth, numbers: Collection[int]) -> None:
    """The bytes of these versions are those that were sent."""
    for number in numbers:
        answer = server.ask("GET", f"{ROOT}/versions/{number}/files/model.onnx")
        assert answer.status == 200, f"version {number}: {answer}"
        found = hashlib.sha256(answer.body).hexdigest()
        assert found == truth.versions[number], f"version {number} has other bytes"


def tidy(server: Server, data: Path, truth: Truth) -> None:
    """Nothing lies about that no version and no open draft needs: it was cleaned at the start."""
    wanted = {truth.versions[number] for number in truth.alive}
    for draft in (place.name for place in (data / "drafts").iterdir()):
        answer = server.ask("GET", f"{ROOT}/drafts/{draft}")
        assert answer.status == 200, f"draft {draft} left files, and is no more"
    for draft, digest in list(truth.drafts.items()):
        if server.ask("GET", f"{ROOT}/drafts/{draft}").status == 200:
            wanted.add(digest)
        else:
            del truth.drafts[draft]
    files = [place for place in (data / "artefacts").rglob("*") if place.is_file()]
    strays = [place.name for place in files if place.name not in wanted]
    assert not strays, f"artefacts that nobody needs: {strays}"
    bundles = list((data / "cache").glob("*/*"))
    assert len(bundles) <= len(truth.alive), f"directories that nobody needs: {bundles}"
    assert not [place for place in bundles if place.name.startswith(".")], bundles
    left = {place.name for place in server.scratch.iterdir()} - {".ses"}  # onnxruntime's, one
    assert not left, f"temporary files: {left}"
    known = {"artefacts", "cache", "drafts", "models", "reading", "removing.lock"}
    known |= {"secret", "usage", "audit.head"}
    unread = list((data / "reading").iterdir())
    assert not unread, f"what is read of uploads: {unread}"
    others = {p.name for p in data.iterdir() if not p.name.startswith("state.db")} - known
    assert not others, f"files that nobody knows: {others}"
