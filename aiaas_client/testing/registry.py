"""The registry of a fake server, in memory: drafts, versions, aliases, traffic, history, rollback.

It keeps the rules of a real one that callers meet: digests are checked, the same bundle is the same
version, what serves is not erased unasked, a change is one entry of the history. It looks at no
model: what is deployed is bytes, and what `FakeServer.add` serves is not in it.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from aiaas_client.protocol.management import (
    CARD_FILE,
    MODEL_FILE,
    Diff,
    Difference,
    Draft,
    DraftRequest,
    Erasure,
    HistoryEntry,
    HistoryKind,
    Model,
    ModelPatch,
    PromoteRequest,
    RollbackRequest,
    Rollout,
    Serving,
    Shadow,
    TrafficRequest,
    Version,
    bundle_digest,
)
from aiaas_client.protocol.names import LATEST, PRODUCTION
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.feed import Feed
from aiaas_client.testing.rows import (
    BY,
    DraftRow,
    ModelRow,
    answering,
    digests,
    made,
    no_model,
    no_version,
    replaced,
)


class FakeRegistry(Feed):
    """What a fake server knows of deployed models; `server.registry`."""

    def __init__(self) -> None:
        super().__init__()
        self._models: dict[str, ModelRow] = {}

    # For tests

    def models(self) -> list[Model]:
        """Every model, by name."""
        with self._changed:
            known = sorted(self._models.items())
            return [self._told(model) for _, model in known if not model.is_gone]

    def versions(self, name: str) -> list[Version]:
        """The versions of a model, the newest first."""
        with self._changed:
            model = self._find(name)
            return [self._version(model, number) for number in sorted(model.versions)[::-1]]

    def file(self, name: str, version: int | str, file: str) -> bytes:
        """The bytes of a file as they were deployed."""
        with self._changed:
            model = self._find(name)
            number = self._number(model, version)
            for known in model.versions[number].files:
                if known.name == file and known.sha256 in model.content:
                    return model.content[known.sha256]
            raise FakeError(404, f"model '{name}' version {number} has no file '{file[:64]}'")

    def choose(self, name: str) -> int | None:
        """The version that most calls without one get now."""
        with self._changed:
            model = self._find(name)
            shares = model.serving.shares(model.latest)
            return max(shares, key=lambda number: shares[number], default=None)

    # Models

    def about(self, name: str) -> Model:
        with self._changed:
            return self._told(self._find(name))

    def patch(self, name: str, patch: ModelPatch, etag: str) -> Model:
        with self._changed:
            model = self._match(name, etag)
            before = {"description": model.description, "policy": model.policy.model_dump()}
            if patch.description is not None:
                model.description = patch.description
            if patch.policy is not None:
                model.policy = patch.policy
            after = {"description": model.description, "policy": model.policy.model_dump()}
            model.revision += 1
            self._record(model.name, "updated", None, before, after)
            return self._told(model)

    def erase(
        self, name: str, version: str | None, *, force: bool, replacement: int | None
    ) -> Erasure:
        with self._changed:
            model = self._find(name)
            if version is None:
                return self._erase_all(model, force)
            number = self._number(model, version)
            if model.versions[number].state == "erased":
                raise no_version(name, number)
            if self._is_used(model, number):
                if not force:
                    text = f"model '{name}': version {number} serves, is aliased or pinned"
                    raise FakeError(409, text, code="conflict")
                self._serve(model, replaced(model.serving, number, replacement), "erased", number)
            else:
                self._record(model.name, "erased", number, None, None)
            return self._erase(model, [number])

    def _erase_all(self, model: ModelRow, force: bool) -> Erasure:
        if not force and (model.serving.aliases or model.serving.split or model.serving.pins):
            text = f"model '{model.name}' has aliases, a split or pins"
            raise FakeError(409, text, code="conflict")
        model.is_gone = True
        self._record(model.name, "deleted", None, None, None)
        living = [n for n, one in model.versions.items() if one.state != "erased"]
        return self._erase(model, living)

    def _erase(self, model: ModelRow, numbers: list[int]) -> Erasure:
        gone: dict[str, None] = {}
        for number in numbers:
            gone |= dict.fromkeys(file.sha256 for file in model.versions[number].files)
            erased = {"state": "erased", "reason": "asked for"}
            model.versions[number] = model.versions[number].model_copy(update=erased)
        others = [one for one in model.versions.values() if one.state != "erased"]
        kept = {file.sha256 for one in others for file in one.files}
        for digest in gone.keys() - kept:
            model.content.pop(digest, None)
        return Erasure(
            model=model.name,
            versions=numbers,
            artefacts=sorted(gone.keys() - kept),
            kept=sorted(gone.keys() & kept),
            verified=True,
            at=time.time(),
        )

    def diff(self, name: str, old: str, new: str) -> Diff:
        with self._changed:
            model = self._find(name)
            first, second = self._number(model, old), self._number(model, new)
            one, other = model.versions[first], model.versions[second]
            found = [
                Difference(path=f"{what}.{key}", before=a.get(key), after=b.get(key))
                for what, a, b in (
                    ("files", digests(one), digests(other)),
                    ("metrics", one.metrics, other.metrics),
                    ("lineage", one.lineage, other.lineage),
                )
                for key in sorted(a.keys() | b.keys())
                if a.get(key) != b.get(key)
            ]
            same = one.digest == other.digest
            return Diff(model=name, old=first, new=second, same_bytes=same, differences=found)

    def history(self, name: str) -> list[HistoryEntry]:
        with self._changed:
            if name not in self._models:
                raise no_model(name)
            return [entry for entry in self._history[::-1] if entry.model == name]

    # Drafts

    def draft(self, name: str, request: DraftRequest) -> tuple[Draft, bool]:
        """A new draft, and True; or the open one of the same bundle."""
        if not {MODEL_FILE, CARD_FILE} & {file.name for file in request.files}:
            raise FakeError(400, f"files: expected {MODEL_FILE} among them")
        with self._changed:
            model = self._models.get(name)
            if model is None or model.is_gone:
                model = self._models[name] = ModelRow(name, time.time())
            digest = bundle_digest(request.files)
            for known in model.drafts.values():
                if bundle_digest(known.request.files) == digest:
                    known.request = request
                    return known.told(name), False
            row = DraftRow(uuid.uuid4().hex, request.files, time.time(), request=request)
            for file in request.files:  # what is here already is not sent again
                if file.sha256 in model.content:
                    row.content[file.name] = bytearray(model.content[file.sha256])
            model.drafts[row.id] = row
            return row.told(name), True

    def told_draft(self, name: str, draft: str) -> Draft:
        with self._changed:
            return self._draft(name, draft).told(name)

    def drop_draft(self, name: str, draft: str) -> None:
        with self._changed:
            self._draft(name, draft)
            del self._models[name].drafts[draft]

    def put(self, name: str, draft: str, file: str, offset: int, content: bytes) -> Draft:
        with self._changed:
            found = self._draft(name, draft)
            found.put(file, offset, content, f"model '{name}'")
            return found.told(name)

    def commit(self, name: str, draft: str) -> tuple[Version, bool]:
        """The version, and whether it is a new one."""
        with self._changed:
            found, model = self._draft(name, draft), self._models[name]
            request = found.request
            missing = [file.name for file in found.told(name).missing]
            if missing:
                text = f"model '{name}': the draft lacks {', '.join(missing)}"
                raise FakeError(409, text, code="conflict")
            digest = bundle_digest(request.files)
            number = self._known(model, digest)
            is_new = number is None
            if number is not None and request.version not in (None, number):
                text = f"model '{name}': these bytes are version {number} already"
                raise FakeError(409, text, code="conflict")
            if number is None:
                number = request.version or max(model.versions, default=0) + 1
                if number in model.versions:
                    text = f"model '{name}': version {number} exists with other bytes"
                    raise FakeError(409, text, code="conflict")
                model.versions[number] = made(name, number, digest, request)
                for file in request.files:
                    model.content[file.sha256] = bytes(found.content[file.name])
                self._record(model.name, "deployed", number, None, None, request.note)
            del model.drafts[draft]
            if request.description is not None:
                model.description = request.description
            if request.alias and model.serving.aliases.get(request.alias) != number:
                aliases = {**model.serving.aliases, request.alias: number}
                self._serve(
                    model, model.serving.model_copy(update={"aliases": aliases}), "promoted", number
                )
            return self._version(model, number), is_new

    def _known(self, model: ModelRow, digest: str) -> int | None:
        alive = (one for one in model.versions.values() if one.state != "erased")
        return next((one.version for one in alive if one.digest == digest), None)

    # Who gets which version

    def promote(self, name: str, alias: str, request: PromoteRequest) -> Model:
        with self._changed:
            model = self._find(name)
            number = self._verified(model, request.version)
            now = model.serving
            if request.guard is not None:
                stable = now.aliases.get(alias, model.latest)
                rollout = Rollout(
                    version=number,
                    stable=stable,
                    alias=alias,
                    since=time.time(),
                    guard=request.guard,
                )
                changed: dict[str, Any] = {"rollout": rollout}
                kind: HistoryKind = "rollout_started"
            else:
                kind = "promoted"
                changed = {"aliases": {**now.aliases, alias: number}, "rollout": None}
                if alias == PRODUCTION:
                    changed["split"] = {}
            self._serve(model, now.model_copy(update=changed), kind, number, request.note)
            return self._told(model)

    def unalias(self, name: str, alias: str) -> Model:
        with self._changed:
            model = self._find(name)
            aliases = dict(model.serving.aliases)
            if aliases.pop(alias, None) is None:
                raise FakeError(404, f"model '{name}' has no alias '{alias[:64]}'")
            serving = model.serving.model_copy(update={"aliases": aliases})
            self._serve(model, serving, "unaliased", None)
            return self._told(model)

    def traffic(self, name: str) -> tuple[Serving, str]:
        with self._changed:
            model = self._find(name)
            return model.serving, str(model.revision)

    def change_traffic(self, name: str, request: TrafficRequest, etag: str) -> Model:
        with self._changed:
            model = self._match(name, etag)
            given = request.model_fields_set
            changed: dict[str, Any] = {}
            if "split" in given:
                for version in request.split or {}:
                    self._verified(model, int(version) if version.isdigit() else 0)
                changed["split"] = request.split or {}
            if request.sticky is not None:
                changed["sticky"] = request.sticky
            if "shadow" in given:
                asked = request.shadow
                if asked is not None:
                    self._verified(model, asked.version)
                shadow = None if asked is None else Shadow(**asked.model_dump())
                changed["shadow"] = shadow
            if "pins" in given:
                changed["pins"] = [self._verified(model, pin) for pin in request.pins or []]
            serving = model.serving.model_copy(update=changed)
            self._serve(model, serving, "traffic_changed", None, request.note)
            return self._told(model)

    def rollback(self, name: str, request: RollbackRequest) -> Model:
        with self._changed:
            model = self._find(name)
            position = model.position - request.steps
            if position < 0:
                text = f"model '{name}': {model.position} changes to go back, not {request.steps}"
                raise FakeError(409, text, code="conflict")
            then = model.served[position]
            for number in {*then.aliases.values(), *map(int, then.split)}:
                if model.versions[number].state != "verified":
                    text = f"model '{name}': version {number} is erased"
                    raise FakeError(409, text, code="conflict")
            before = model.serving
            kept = {"shadow": before.shadow, "pins": before.pins}
            former = model.serving = then.model_copy(update=kept)
            model.position = position
            model.revision += 1
            self._record(
                model.name,
                "rolled_back",
                None,
                before.model_dump(),
                former.model_dump(),
                request.note,
            )
            return self._told(model)

    # Inside, with the lock held

    def _find(self, name: str) -> ModelRow:
        model = self._models.get(name)
        if model is None or model.is_gone:
            raise no_model(name)
        return model

    def _match(self, name: str, etag: str) -> ModelRow:
        model = self._find(name)
        if etag and etag.strip('"') != str(model.revision):
            text = f"model '{name}' was changed meanwhile; read it again"
            raise FakeError(412, text, code="precondition_failed")
        return model

    def _draft(self, name: str, draft: str) -> DraftRow:
        found = self._find(name).drafts.get(draft)
        if found is None:
            raise FakeError(404, f"model '{name}' has no draft '{draft[:64]}'")
        return found

    def _number(self, model: ModelRow, version: int | str) -> int:
        text = str(version)
        number = int(text) if text.isdigit() else model.serving.aliases.get(text)
        if text == LATEST:
            number = model.latest
        if number is None or number not in model.versions:
            raise no_version(model.name, version)
        return number

    def _verified(self, model: ModelRow, number: int) -> int:
        if number not in model.versions:
            raise no_version(model.name, number)
        if model.versions[number].state != "verified":
            text = f"model '{model.name}': version {number} is erased"
            raise FakeError(409, text, code="conflict")
        return number

    def _is_used(self, model: ModelRow, number: int) -> bool:
        serving = model.serving
        pointed = {*serving.aliases.values(), *serving.pins, *map(int, serving.split)}
        return number in pointed or model.serving.shares(model.latest).get(number, 0.0) > 0

    def version(self, name: str, version: str) -> Version:
        with self._changed:
            model = self._find(name)
            return self._version(model, self._number(model, version))

    def _version(self, model: ModelRow, number: int) -> Version:
        aliases = sorted(a for a, pointed in model.serving.aliases.items() if pointed == number)
        share = model.serving.shares(model.latest).get(number, 0.0)
        told = {"aliases": aliases, "share": share, "loaded": share > 0 or bool(aliases)}
        return model.versions[number].model_copy(update=told)

    def _told(self, model: ModelRow) -> Model:
        return Model(
            name=model.name,
            description=model.description,
            latest=model.latest,
            versions=sum(one.state != "erased" for one in model.versions.values()),
            serving=model.serving,
            policy=model.policy,
            created=model.created,
            created_by=BY,
            etag=str(model.revision),
        )

    def _serve(
        self,
        model: ModelRow,
        serving: Serving,
        kind: HistoryKind,
        version: int | None,
        note: str = "",
    ) -> None:
        before, model.serving = model.serving, serving
        if answering(serving) != answering(before):  # else it is no step to go back
            model.position += 1
        model.served[model.position :] = [serving]
        model.revision += 1
        self._record(model.name, kind, version, before.model_dump(), serving.model_dump(), note)
