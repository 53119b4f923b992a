"""The documents of monitoring: how versions do, whether their world has changed, ground truth.

Read and written as those of `management`: answers tolerantly, requests strictly. Times are seconds
since 1970 (UTC), durations seconds. Nothing here holds an input: features are counts.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, FiniteFloat, JsonValue, StrictBool, StrictInt, StrictStr

from aiaas_client.protocol.documents import Asked, Told
from aiaas_client.protocol.names import PRODUCTION

Verdict = Literal["unknown", "few", "ok", "warning", "drifted"]
"""`unknown`: no reference yet, one is made of traffic; `few`: too few rows to tell."""

MOST_FEEDBACK: Final = 5000
WINDOWS: Final = {"5m": 300, "15m": 900, "1h": 3600, "6h": 21600, "24h": 86400, "7d": 604800}
"""Names of sliding windows, in seconds."""

RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
TruthLabel = StrictBool | StrictInt | Annotated[FiniteFloat, Field(strict=True)] | StrictStr


class Latency(Told):
    """Latencies of one phase, in seconds; quantiles out of bins, ten a decade."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0


class Point(Told):
    """A stretch of `seconds` from `at` on."""

    at: float
    seconds: int
    requests: int = 0
    failed: int = 0
    p50: float = 0.0
    p99: float = 0.0


class FeatureDrift(Told):
    """One input feature, or one of the prediction's, against the reference.

    Attributes:
        name: `input`, `input[3]`, a column's own name, or what is told of a wide tensor, such as
            `pixels.mean`.
        psi: Population stability index, less what chance alone brings; 0 is the same.
        distance: Greatest difference of the cumulated shares (Kolmogorov-Smirnov); of categories
            half the sum of the differences of shares.
        p_value: Chance of such a difference without any drift, corrected for all the features
            that were looked at.
        missing: Share of missing values now; `missing_before` in the reference.
        bounds: Of numbers, between the bins; of categories, their names.
        expected: Share of each bin in the reference; the last one is what is missing.
        found: The same, in the window.
    """

    name: str
    role: Literal["input", "prediction"] = "input"
    kind: Literal["number", "category"] = "number"
    verdict: Verdict = "ok"
    psi: float = 0.0
    distance: float = 0.0
    p_value: float = 1.0
    rows: int = 0
    missing: float = 0.0
    missing_before: float = 0.0
    bounds: list[float | str] = []
    expected: list[float] = []
    found: list[float] = []


class Drift(Told):
    """Whether what a version sees and says is what its reference saw and said.

    Attributes:
        window: Seconds looked back.
        reasons: One line for each feature that moved, the worst first.
        rows: Items seen in the window.
        source: What the reference was made of: `golden`, `training` or `traffic`.
    """

    model: str
    version: int
    window: int
    at: float = 0.0
    verdict: Verdict = "unknown"
    reasons: list[str] = []
    rows: int = 0
    source: str = ""
    reference_rows: int = 0
    reference_created: float = 0.0
    features: list[FeatureDrift] = []


class Quality(Told):
    """How right a version is, by the labels that came afterwards; None where there are none."""

    labels: int = 0
    accuracy: float | None = None
    mean_absolute_error: float | None = None


class VersionMonitoring(Told):
    """One version over a window.

    Attributes:
        failed: Requests that failed; `errors` by reason: `REJECTED` (no room, no time),
            `CANCELED` (the caller left), `BACKEND` (the model failed), `OTHER` (bad input).
        rate: Requests a second.
        latency: By phase: `total`, `queue`, `compute`, and of payloads `preprocess`, `postprocess`.
        batch_sizes: Requests by the size of the run they were part of, up to this power of two.
        unseen: Answered requests that drift did not look at, for want of time or room.
    """

    version: int
    requests: int = 0
    rows: int = 0
    failed: int = 0
    errors: dict[str, int] = {}
    rate: float = 0.0
    error_rate: float = 0.0
    latency: dict[str, Latency] = {}
    batch_sizes: dict[str, int] = {}
    unseen: int = 0
    series: list[Point] = []
    quality: Quality = Quality()
    drift: Drift | None = None


class ShadowMonitoring(Told):
    """What came of the copies that a shadow got within a window; no caller saw its answers.

    Attributes:
        share: Of the requests it gets copies of now; None where it is a shadow no more.
        compared: Copies that were answered and held against the callers' answers.
        agreeing: Share of them that decided the same: labels, else greatest scores, else numbers;
            None where nothing was compared.
        outside: Of those that were compared, where some value is outside the tolerance, whatever
            the labels say.
        same_labels: Share of the rows whose label was compared that have the same one.
        largest_difference: Of two numbers that were compared.
        latency_ratio, p99_ratio: How long it ran, as a multiple of the version that answered the
            callers: the medians, and the 99th percentiles. None where nothing was compared.
        failed: Copies that it did not answer by its own fault.
        dropped: Copies that were not run: too much waited, or the server was busy.
        last: What differed or failed last, in words.
    """

    version: int
    share: float | None = None
    compared: int = 0
    agreeing: float | None = None
    outside: int = 0
    same_labels: float | None = None
    largest_difference: float = 0.0
    latency_ratio: float | None = None
    p99_ratio: float | None = None
    failed: int = 0
    dropped: int = 0
    last: str = ""


class RolloutMonitoring(Told):
    """A guarded promotion under way.

    Attributes:
        version: The new one; `stable` is the one it may take the place of.
        step: Of `steps`, from 1.
        share: Of the calls that name no version, what the new one gets.
        since: When the step began.
        waiting: What it waits for before the next step, in words.
    """

    version: int
    stable: int | None = None
    alias: str = PRODUCTION
    step: int = 1
    steps: int = 1
    share: float = 0.0
    since: float = 0.0
    waiting: str = ""


class MonitoringDocument(Told):
    """`GET /api/v1/models/{m}/monitoring`: every version that was called within the window.

    Attributes:
        shadows: Versions that are shadows, or were within the window.
        rollout: None where none goes on.
    """

    model: str
    window: int
    at: float = 0.0
    versions: list[VersionMonitoring] = []
    shadows: list[ShadowMonitoring] = []
    rollout: RolloutMonitoring | None = None


class DriftDocument(Told):
    """`GET /api/v1/models/{m}/drift`: every version that has a reference or was called."""

    model: str
    window: int
    at: float = 0.0
    versions: list[Drift] = []


class ProfileRequest(Asked):
    """`PUT /api/v1/models/{m}/versions/{v}/profile`: a reference made of data of your own.

    Attributes:
        inputs: By input name, rows first, as nested lists; null is a missing value.
        outputs: What the version answers to them, if predictions are to be compared too.
    """

    inputs: Annotated[dict[str, JsonValue], Field(min_length=1)]
    outputs: dict[str, JsonValue] = {}


class Profile(Told):
    """The reference of a version: counts in bins, never a value that was sent."""

    model: str
    version: int
    source: str
    rows: int
    created: float = 0.0
    features: list[dict[str, Any]] = []


class FeedbackItem(Asked):
    """What would have been right.

    Attributes:
        request_id: Of the answer it is about.
        row: Which item of the request, from 0.
        label: A label as the model tells it, or a number.
    """

    request_id: RequestId
    label: TruthLabel
    row: Annotated[int, Field(ge=0, lt=2**31)] = 0


class FeedbackRequest(Asked):
    """`POST /api/v1/feedback`."""

    items: Annotated[list[FeedbackItem], Field(min_length=1, max_length=MOST_FEEDBACK)]


class FeedbackResult(Told):
    """What became of one label.

    Attributes:
        status: `recorded`, `replaced` (another label was there), `unchanged` (the same one was),
            or `unknown`: no such request is remembered (any more).
        code: The HTTP status that it would have had by itself.
        correct: Whether the prediction was that; None for numbers.
        error: Absolute difference, of numbers.
    """

    request_id: str
    row: int = 0
    status: Literal["recorded", "replaced", "unchanged", "unknown"] = "recorded"
    code: int = 200
    message: str = ""
    model: str = ""
    version: int = 0
    predicted: str | float | int | bool | None = None
    correct: bool | None = None
    error: float | None = None


class FeedbackAnswer(Told):
    """One result an item, in order."""

    results: list[FeedbackResult] = []
