"""The documents of the management routes, `/api/v1/…`, as both sides write and read them.

Times are seconds since 1970 (UTC), sizes bytes, digests SHA-256 in hexadecimal. Answers are read
tolerantly: what a newer server adds is ignored. Requests are not: a key that nobody knows is
refused, since a misspelt option must not be dropped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, JsonValue

from aiaas_client.protocol.documents import Asked, Told
from aiaas_client.protocol.names import ALIAS, FILE, NAME, PRODUCTION

MODEL_FILE, CARD_FILE, GOLDEN_FILE = "model.onnx", "model.json", "golden.json"

Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Alias = Annotated[str, Field(pattern=f"^{ALIAS}$")]
FileName = Annotated[str, Field(pattern=f"^{FILE}$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
VersionNumber = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
_NO_NUL: Final = r"^[^\x00]*$"  # which not every database can store
Note = Annotated[str, Field(max_length=1024, pattern=_NO_NUL)]
Description = Annotated[str, Field(max_length=4096, pattern=_NO_NUL)]


def is_finite(value: JsonValue) -> bool:
    """Whether a document is JSON as the standard has it: without NaN and Infinity."""
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _check_finite(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if not is_finite(value):
        raise ValueError("expected finite numbers, got NaN or Infinity")
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_check_finite)]


# Bundles


class BundleFile(Asked):
    """One file of a bundle."""

    name: FileName
    size: Annotated[int, Field(ge=0, lt=2**40)]
    sha256: Digest


def bundle_digest(files: Iterable[BundleFile]) -> str:
    """SHA-256 of the sorted list of names and digests: equal for equal bundles."""
    listed = sorted((file.name, file.sha256) for file in files)
    text = "".join(f"{digest}  {name}\n" for name, digest in listed)
    return hashlib.sha256(text.encode()).hexdigest()


class DraftRequest(Asked):
    """`POST /api/v1/models/{m}/drafts`: what a version is going to consist of.

    Attributes:
        files: `model.onnx`, and beside it `model.json` (the card), `golden.json` and assets; of a
            pipeline, whose card names its steps, the card alone.
        version: Its number; the next one where it is None.
        alias: Points at the version once it is verified.
        note: One line for the history.
        metrics: As measured by whoever made it; added to the card's.
        lineage: Where it comes from: `{"parent": 3, "job": …, "dataset": …}`.
    """

    files: Annotated[list[BundleFile], Field(min_length=1, max_length=256)]
    version: VersionNumber | None = None
    alias: Alias | None = None
    description: Description | None = None
    note: Note = ""
    metrics: JsonObject = {}
    lineage: JsonObject = {}


class DraftFile(Told):
    """What the server has of one file of a draft; `complete` is checked against its digest."""

    name: str
    size: int
    sha256: str
    received: int = 0
    complete: bool = False


class Draft(Told):
    """A version that is being brought; gone after a day."""

    id: str
    model: str
    files: list[DraftFile] = []
    created: float = 0.0
    expires: float = 0.0

    @property
    def missing(self) -> list[DraftFile]:
        """Files that are still to be sent, wholly or in part."""
        return [file for file in self.files if not file.complete]


# Who gets which version


class Guard(Asked):
    """What a new version must not do while it is rolled out; else the old one is back.

    Attributes:
        max_error_rate: Share of its requests that may fail by the model's or server's fault.
        max_p99_ratio: Its 99th percentile of latency, as a multiple of the old version's.
        min_accuracy: Of the answers whose labels came by `feedback`.
        max_disagreement: Share of mirrored requests that it may decide differently: another label
            or greatest score; other probabilities of the same label are none.
        window: Seconds that each step lasts, and over which it is judged.
        steps: Shares of traffic, ascending; the last is 1.0.
        min_requests: Fewer in a window prove nothing, fewer mirrored ones neither: the step waits.
    """

    max_error_rate: Share | None = 0.01
    max_p99_ratio: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    min_accuracy: Share | None = None
    max_disagreement: Share | None = None
    window: Seconds = 300.0
    steps: Annotated[list[Share], Field(min_length=1, max_length=20)] = [0.05, 0.25, 1.0]
    min_requests: Annotated[int, Field(ge=1, lt=2**31)] = 50


class Shadow(Told):
    """A version that gets copies of the traffic; its answers are compared and thrown away."""

    version: int
    share: float = 1.0


class Rollout(Told):
    """A guarded promotion under way.

    Attributes:
        version: The new one; `stable` is the one it may take the place of.
        step: Index into the guard's steps.
        since: When the step began.
    """

    version: int
    stable: int | None = None
    alias: str = PRODUCTION
    step: int = 0
    since: float = 0.0
    guard: Guard = Guard()


class Serving(Told):
    """Who gets which version; one value, replaced as a whole, so that every change is atomic.

    Calls that name no version follow the rollout, else the split, else `production`, else the
    latest verified version.

    Attributes:
        aliases: Name to version.
        split: Version (as text) to its share; empty where nothing is split.
        sticky: Whether callers stay on their version, by `X-Sticky-Key` or else their API key.
        pins: Versions that stay loaded and are kept, whatever points at them.
    """

    aliases: dict[str, int] = {}
    split: dict[str, float] = {}
    sticky: bool = True
    shadow: Shadow | None = None
    pins: list[int] = []
    rollout: Rollout | None = None

    def shares(self, latest: int | None) -> dict[int, float]:
        """The share of each version in the calls that name none; empty where there is no version.

        Args:
            latest: The greatest verified version.
        """
        rollout = self.rollout
        if rollout is not None and rollout.alias == PRODUCTION:
            share = rollout.guard.steps[rollout.step]
            rest = {} if rollout.stable is None or share >= 1.0 else {rollout.stable: 1.0 - share}
            return {rollout.version: share if rest else 1.0} | rest
        if self.split:
            return {int(version): share for version, share in self.split.items()}
        alone = self.aliases.get(PRODUCTION, latest)
        return {} if alone is None else {alone: 1.0}


class PromoteRequest(Asked):
    """`PUT /api/v1/models/{m}/aliases/{alias}`."""

    version: VersionNumber
    guard: Guard | None = None
    note: Note = ""


class TrafficRequest(Asked):
    """`PATCH /api/v1/models/{m}/traffic`: members that are left out stay; null ends them.

    Attributes:
        split: Shares by version; they add up to 1.
        shadow: The version that gets copies, and of what share of the requests.
        pins: All pinned versions.
    """

    split: dict[str, Share] | None = None
    sticky: bool | None = None
    shadow: ShadowRequest | None = None
    pins: Annotated[list[VersionNumber], Field(max_length=100)] | None = None
    note: Note = ""


class ShadowRequest(Asked):
    """The shadow of a `TrafficRequest`."""

    version: VersionNumber
    share: Share = 1.0


class RollbackRequest(Asked):
    """`POST /api/v1/models/{m}/rollback`: back to who answered callers `steps` changes ago."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 1
    note: Note = ""


class Policy(Asked):
    """Rules of a model.

    Attributes:
        keep_last: Versions kept beside those that are aliased, pinned or serve; None keeps all.
            The others are erased when the next version is deployed.
        config: A configuration, as `config.json` has it, for all its versions.
        feedback: Remember what was predicted, by request, so that labels can be joined later.
        drift: Count inputs and predictions against the reference profile.
        public: All tenants may call it, where they have no model of that name; only the operator
            makes models public.
    """

    keep_last: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    config: JsonObject | None = None
    feedback: bool = True
    drift: bool = True
    public: bool = False


class ModelPatch(Asked):
    """`PATCH /api/v1/models/{m}`; with `If-Match`."""

    description: Description | None = None
    policy: Policy | None = None


# What there is


class TensorSpec(Told):
    """An input or output of a version."""

    name: str
    datatype: str
    shape: list[int]


class Report(Told):
    """What the verification of a version found.

    Attributes:
        opset: By operator domain.
        load_seconds: Until the session was there.
        warmup_seconds: One run on made-up input.
        memory_bytes: Grown by loading and running it.
        golden: The golden set's result: rows, largest difference, or the metric's value.
    """

    opset: dict[str, int] = {}
    ir_version: int = 0
    nodes: int = 0
    providers: list[str] = []
    load_seconds: float = 0.0
    warmup_seconds: float = 0.0
    memory_bytes: int = 0
    golden: dict[str, Any] = {}


class Version(Told):
    """One immutable version of a model.

    Attributes:
        state: `verified`, `corrupt` (its bytes are damaged), or `erased`.
        reason: Why it is corrupt or erased.
        aliases: That point at it.
        share: Of the calls that name no version, 0.0 to 1.0.
        loaded: Whether the server that answered has it in memory.
        created_now: Of a deployment: False where the same bytes were that version already. None
            where the version was only looked up. It is the answer's status, not in the document.
    """

    shown = ("model", "version", "digest", "state", "reason", "size", "note", "aliases", "share")

    model: str
    version: int
    digest: str
    state: Literal["verified", "corrupt", "erased"] = "verified"
    reason: str = ""
    size: int = 0
    files: list[BundleFile] = []
    card: dict[str, Any] | None = None
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    report: Report = Report()
    metrics: dict[str, Any] = {}
    lineage: dict[str, Any] = {}
    note: str = ""
    created: float = 0.0
    created_by: str = ""
    aliases: list[str] = []
    share: float = 0.0
    loaded: bool = False
    created_now: bool | None = Field(default=None, exclude=True)


class Model(Told):
    """A model of the registry.

    Attributes:
        latest: Its greatest verified version; None where it has none.
        versions: How many it has that are not erased.
        etag: For `If-Match`.
    """

    shown = ("name", "description", "latest", "versions", "serving")

    name: str
    description: str = ""
    latest: int | None = None
    versions: int = 0
    serving: Serving = Serving()
    policy: Policy = Policy()
    created: float = 0.0
    created_by: str = ""
    etag: str = ""

    @property
    def production(self) -> int | None:
        """The version that the alias `production` points at."""
        return self.serving.aliases.get(PRODUCTION)

    @property
    def shares(self) -> dict[int, float]:
        """Who gets the calls that name no version: version to its share of them."""
        return self.serving.shares(self.latest)


HistoryKind = Literal[
    "deployed",
    "promoted",
    "unaliased",
    "traffic_changed",
    "rolled_back",
    "rollout_started",
    "rollout_advanced",
    "updated",
    "damaged",
    "repaired",
    "erased",
    "deleted",
]
"""What a history tells of.

* `deployed`: a version was verified and kept;
* `promoted`: an alias points at another version, by a caller, with a deployment, or by the last
  step of a rollout; `unaliased`: it is gone;
* `traffic_changed`: a split, a shadow or pins;
* `rolled_back`: by a caller, or by a guard, whose reason it gives;
* `rollout_started`, `rollout_advanced`: a guarded promotion began, or took its next step;
* `updated`: the description or the policy;
* `damaged`: bytes of a version are broken or gone, so that it is corrupt; `repaired`: no more;
* `erased`: a version, by a caller or by retention; `deleted`: the whole model.
"""


class HistoryEntry(Told):
    """One change: who did what, when, and what it was before and after.

    Attributes:
        kind: A `HistoryKind`, or one of a newer server.
    """

    seq: int
    model: str
    kind: str
    version: int | None = None
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    reason: str = ""
    at: float = 0.0
    by: str = ""
    request_id: str = ""


class Page(Told):
    """A part of a list; `next` is what `after` takes for the following one."""

    items: list[dict[str, Any]] = []
    next: str | None = None


class Difference(Told):
    """One thing in which two versions differ."""

    path: str
    before: Any = None
    after: Any = None


class Diff(Told):
    """How two versions of a model differ: files, card, signature, report, metrics, lineage."""

    model: str
    old: int
    new: int
    same_bytes: bool = False
    differences: list[Difference] = []


class Erasure(Told):
    """Proof of an erasure: what was removed, and that it is gone.

    Attributes:
        artefacts: Digests whose bytes were removed; what another version uses is `kept`.
        verified: Nothing of them was found afterwards in store, caches and drafts.
    """

    model: str
    versions: list[int] = []
    artefacts: list[str] = []
    kept: list[str] = []
    verified: bool = False
    at: float = 0.0


class Change(Told):
    """One entry of the change feed, `GET /api/v1/events`."""

    seq: int
    kind: str
    object: str
    data: dict[str, Any] = {}
    at: float = 0.0


TrafficRequest.model_rebuild()
