"""What a client does, what was acknowledged of it, and what a server may therefore tell."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import helper

from tests.crash.server import Answer, Server
from tests.graphs import model, value

MODELS = "/api/v1/models"
NAME = "m"
ROOT = f"{MODELS}/{NAME}"
WEIGHTS = 40_000  # floats of a model: enough that an upload is more than one packet
FEW, MANY = 3, 10  # versions that are there: fewer get company, more are deleted

Document = dict[str, Any]


@dataclass
class Truth:
    """What has been acknowledged.

    Attributes:
        versions: Number to the SHA-256 of its model file.
        erased: Numbers that are gone.
        serving: Who gets which version, as last told; `states` is all that it has ever been.
        drafts: Each that may be open, and the SHA-256 of the model file that is sent for it.
        unseen: Entries that the history must have behind `seq`, each its kind and version.
        writes: How many there were.
    """

    versions: dict[int, str] = field(default_factory=dict)
    erased: set[int] = field(default_factory=set)
    serving: Document = field(default_factory=dict)
    states: list[Document] = field(default_factory=lambda: [_changed({})])
    unseen: list[tuple[str, int | None]] = field(default_factory=list)
    seq: int = 0
    drafts: dict[str, str] = field(default_factory=dict)
    writes: int = 0

    @property
    def alive(self) -> list[int]:
        """Versions that are there."""
        return sorted(self.versions.keys() - self.erased)

    @property
    def idle(self) -> list[int]:
        """Versions that nothing points at, so that they may be deleted."""
        used = {*self.serving.get("aliases", {}).values(), *self.serving.get("pins", [])}
        used |= {int(number) for number in self.serving.get("split", {})}
        return [number for number in self.alive[:-1] if number not in used]

    def serves(self, serving: Document) -> None:
        """Who gets which version from now on."""
        self.serving = serving
        if serving not in self.states:
            self.states.append(serving)


@dataclass
class Step:
    """One write: what it does, and what it has changed once it is acknowledged.

    Attributes:
        entry: The kind of its entry in the history.
        serving: Who gets which version then; None where that stays, or history alone knows.
        number: The version that it is about, None for none; of a commit the next one.
        digest: Of the model file that it commits.
    """

    kind: str
    run: Callable[[Server], Answer]
    entry: str = ""
    serving: Document | None = None
    number: int | None = None
    digest: str = ""


def some_model(rng: random.Random) -> bytes:
    """A model that no other is like: it adds the mean of random numbers."""
    weights = np.random.default_rng(rng.randrange(2**32)).random(WEIGHTS, np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["w"], ["mean"], keepdims=0),
        helper.make_node("Add", ["x", "mean"], ["y"]),
    ]
    return model(nodes, [value("x", ["batch", 2])], [value("y", ["batch", 2])], w=weights)


class Client:
    """Makes steps, as chance will have it.

    After a kill it sends again what was not acknowledged, or lets that be.
    """

    def __init__(self, rng: random.Random, truth: Truth) -> None:
        self._rng = rng
        self._truth = truth
        self._ready: tuple[str, str] | None = None  # a draft that only needs its commit
        self._unsure: bytes | None = None  # the model file of an upload or commit that was killed

    def prepare(self, kind: str) -> Step | None:
        """A step without which one of this kind cannot be made; None where it can."""
        truth = self._truth
        if len(truth.alive) < FEW or (kind == "delete" and not truth.idle):
            return self._upload() if self._ready is None else self._commit()
        if kind == "commit" and self._ready is None:
            return self._upload()
        if kind == "upload" and self._ready is not None:
            return self._commit()
        if kind == "rollback" and not truth.serving.get("aliases"):
            return self._promote()
        if kind != "delete" and len(truth.alive) > MANY and truth.idle:
            return self._delete()
        return None

    def make(self, kind: str) -> Step:
        """A step of a kind that is prepared."""
        makers = {
            "upload": self._upload,
            "commit": self._commit,
            "promote": self._promote,
            "split": self._split,
            "rollback": self._rollback,
            "delete": self._delete,
        }
        return makers[kind]()

    def acknowledged(self, step: Step, answer: Answer) -> None:
        """Note what a step has changed."""
        truth, body = self._truth, answer.body
        if step.kind == "rollback" and answer.status == 409:
            return  # nobody has served before, or who did is gone
        assert answer.status in (200, 201), f"{step.kind}: {answer}"
        truth.writes += 1
        if step.kind == "upload":
            self._ready = (body["id"], body["files"][0]["sha256"])
        elif step.kind == "commit":
            self._committed(step, answer)
        elif step.kind == "delete":
            assert body["verified"], f"an erasure that does not prove itself: {body}"
            assert step.number is not None
            truth.erased.add(step.number)
            truth.unseen.append((step.entry, step.number))
        else:
            told = body["serving"]
            assert step.serving is None or told == step.serving, f"{step.kind}: {told}"
            if step.kind == "rollback":
                assert told in truth.states, f"back to what never was: {told}"
            if told != truth.serving or step.kind == "rollback":
                truth.unseen.append((step.entry, step.number))
            truth.serves(told)

    def _committed(self, step: Step, answer: Answer) -> None:
        truth, number = self._truth, answer.body["version"]
        self._ready = self._unsure = None
        if answer.status == 201:
            assert number not in truth.versions, f"version {number} came twice"
            truth.unseen.append((step.entry, number))
        else:
            assert truth.versions[number] == step.digest, "a version of other bytes"
        truth.versions[number] = step.digest

    def forget(self) -> None:
        """The server was killed: what becomes of an open draft, chance will decide."""
        self._ready = None
        if self._rng.random() < 0.3:
            self._unsure = None

    def _upload(self) -> Step:
        """A new bundle in two pieces, or the rest of one that was broken off."""
        content = self._unsure or some_model(self._rng)
        self._unsure = content
        digest = hashlib.sha256(content).hexdigest()
        half = self._rng.randrange(len(content))

        def run(server: Server) -> Answer:
            entry = {"name": "model.onnx", "size": len(content), "sha256": digest}
            made = server.ask("POST", f"{ROOT}/drafts", {"files": [entry]})
            if made.status not in (200, 201) or made.body["files"][0]["complete"]:
                return made
            self._truth.drafts[made.body["id"]] = digest
            received = made.body["files"][0]["received"]
            place = f"{ROOT}/drafts/{made.body['id']}/files/model.onnx"
            if received < half:
                begun = server.ask("PUT", f"{place}?offset={received}", content[received:half])
                if begun.status != 200:
                    return begun
                received = half
            sent = server.ask("PUT", f"{place}?offset={received}", content[received:])
            assert sent.status != 200 or sent.body["files"][0]["complete"], sent
            return sent

        return Step("upload", run)

    def _commit(self) -> Step:
        assert self._ready is not None
        draft, digest = self._ready
        path = f"{ROOT}/drafts/{draft}/commit"
        return Step("commit", lambda s: s.ask("POST", path), "deployed", digest=digest)

    def _promote(self) -> Step:
        number = self._rng.choice(self._truth.alive)
        aliases = {**self._truth.serving.get("aliases", {}), "production": number}
        path = f"{ROOT}/aliases/production"
        return Step(
            "promote",
            lambda s: s.ask("PUT", path, {"version": number}),
            "promoted",
            _changed(self._truth.serving, aliases=aliases, split={}),
            number,
        )

    def _split(self) -> Step:
        first, second = sorted(self._rng.sample(self._truth.alive, 2))
        shares = {str(first): 0.75, str(second): 0.25}
        return Step(
            "split",
            lambda s: s.ask("PATCH", f"{ROOT}/traffic", {"split": shares}),
            "traffic_changed",
            _changed(self._truth.serving, split=shares),
        )

    def _rollback(self) -> Step:
        return Step("rollback", lambda s: s.ask("POST", f"{ROOT}/rollback", {}), "rolled_back")

    def _delete(self) -> Step:
        number = self._truth.idle[0]
        path = f"{ROOT}/versions/{number}"
        return Step("delete", lambda s: s.ask("DELETE", path), "erased", number=number)


def _changed(serving: Mapping[str, Any], **changes: Any) -> Document:
    nothing = {
        "aliases": {},
        "split": {},
        "sticky": True,
        "shadow": None,
        "pins": [],
        "rollout": None,
    }
    return {**nothing, **serving, **changes}
