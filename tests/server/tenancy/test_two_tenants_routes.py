"""The whole route table with two tenants: what is another's is nowhere, as what never was.

Each route is asked, with each method, for an object of another tenant and for one that never
existed. Both get the same status and, but for the id of the request and the names that were asked
for, the same body. The table says what that status is; a route that is not in it fails the test.
"""

from __future__ import annotations

import asyncio
import json
import re
from functools import partial
from typing import Any, Final, NamedTuple

import pytest
import pytest_asyncio
from sqlalchemy import Connection
from starlette.routing import BaseRoute, Route

from aiaas_client.protocol.jobs import JobFile, JobResult
from aiaas_server.http.manage.changes import ChangeRoutes
from aiaas_server.http.scopes import ANY_KEY, ScopedRoute, check_declared
from aiaas_server.jobs import queue
from aiaas_server.jobs.files import FileRow, add_file, new_id
from aiaas_server.state.tables import DATASETS
from tests.server.http.edge_caller import EdgeCaller
from tests.server.http.serving import Answer
from tests.server.tenancy.conftest import A, Asking, B, Keys, World, bringing
from tests.tenants import Tenants

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
TENSOR: Final = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}
DIGEST: Final = "5" * 64
FORM: Final = "----form"
RECORDING: Final = (
    f'--{FORM}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{{model}}\r\n'
    f'--{FORM}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n'
    f"--{FORM}--\r\n"
)


class Ids(NamedTuple):
    """Names of one of each kind of object, all as long as the other ones."""

    model: str
    draft: str
    dataset: str
    job: str
    file: str
    output: str
    batch: str
    key: str


ABSENT: Final = Ids(
    "quagga",
    "0" * 32,
    "nothing-7",
    "1" * 32,
    "file-" + "2" * 32,
    "",
    "batch_" + "3" * 32,
    "4" * 12,
)

# By path and method: what is asked, and the status of what is not there.
MODEL: Final = {"model": "{model}"}
SPEC: Final = {"kind": "evaluate", "model": "{model}@1", "dataset": "{dataset}", "target": "label"}
TABLE: Final[dict[tuple[str, str], tuple[Any, int]]] = {
    ("POST", "/v2/models/{model}/infer"): ({"inputs": [TENSOR]}, 404),
    ("POST", "/v2/models/{model}/versions/{version}/infer"): ({"inputs": [TENSOR]}, 404),
    ("POST", "/predict"): ({"text": "good", "model": "{model}"}, 404),
    ("POST", "/v1/models/{model}:predict"): ({"instances": ["good"]}, 404),
    ("POST", "/v1/models/{model}/versions/{version}:predict"): ({"instances": ["good"]}, 404),
    ("POST", "/v1/models/{model}:explain"): ({"instances": ["good"]}, 404),
    ("POST", "/v1/models/{model}/versions/{version}:explain"): ({"instances": ["good"]}, 404),
    ("GET", "/v2/health/live"): (b"", 200),
    ("GET", "/v2/health/ready"): (b"", 200),
    ("GET", "/v2"): (b"", 200),
    ("GET", "/v2/models/stats"): (b"", 200),
    ("GET", "/v2/models/{model}"): (b"", 404),
    ("GET", "/v2/models/{model}/versions/{version}"): (b"", 404),
    ("GET", "/v2/models/{model}/ready"): (b"", 404),
    ("GET", "/v2/models/{model}/versions/{version}/ready"): (b"", 404),
    ("GET", "/v2/models/{model}/config"): (b"", 404),
    ("GET", "/v2/models/{model}/versions/{version}/config"): (b"", 404),
    ("GET", "/v2/models/{model}/stats"): (b"", 404),
    ("GET", "/v2/models/{model}/versions/{version}/stats"): (b"", 404),
    ("POST", "/v2/models/{model}/generate"): ({"x": [1, 2]}, 404),
    ("POST", "/v2/models/{model}/versions/{version}/generate"): ({"x": [1, 2]}, 404),
    ("POST", "/v2/models/{model}/generate_stream"): ({"x": [1, 2]}, 404),
    ("POST", "/v2/models/{model}/versions/{version}/generate_stream"): ({"x": [1, 2]}, 404),
    ("POST", "/v2/repository/index"): (b"", 200),
    ("POST", "/v2/repository/models/{model}/load"): (b"", 404),
    ("POST", "/v2/repository/models/{model}/unload"): (b"", 200),  # it is not there
    **{
        ("GET", f"/v2/{kind}sharedmemory{path}/status"): (b"", 403)
        for kind in ("system", "cuda")
        for path in ("", "/region/{region}")
    },
    **{
        ("POST", f"/v2/{kind}sharedmemory{path}"): (b"", 403)
        for kind in ("system", "cuda")
        for path in ("/unregister", "/region/{region}/register", "/region/{region}/unregister")
    },
    **{
        (method, path): (b"", 403)
        for method in ("GET", "POST")
        for path in ("/v2/logging", "/v2/trace/setting", "/v2/models/{model}/trace/setting")
    },
    ("POST", "/v1/chat/completions"): (
        {**MODEL, "messages": [{"role": "user", "content": "hi"}]},
        404,
    ),
    ("POST", "/v1/completions"): ({**MODEL, "prompt": "hi"}, 404),
    ("POST", "/v1/responses"): ({**MODEL, "input": "hi"}, 404),
    ("GET", "/v1/models"): (b"", 200),
    ("GET", "/v1/models/{model}"): (b"", 404),
    ("GET", "/v1/models/{model}/versions/{version}"): (b"", 404),
    ("POST", "/v1/embeddings"): ({**MODEL, "input": "hi"}, 404),
    ("POST", "/v1/audio/transcriptions"): (RECORDING.encode(), 404),
    ("POST", "/v1/audio/speech"): ({**MODEL, "input": "hi"}, 404),
    ("GET", "/metrics"): (b"", 403),
    ("GET", "/openapi.json"): (b"", 200),
    # Management. What is made under a name is made in one's own tenant, whatever others have.
    ("POST", "/api/v1/models/{model}/drafts"): (
        {"files": [{"name": "model.onnx", "size": 4, "sha256": DIGEST}]},
        201,
    ),
    ("GET", "/api/v1/models/{model}/drafts/{draft}"): (b"", 404),
    ("DELETE", "/api/v1/models/{model}/drafts/{draft}"): (b"", 404),
    ("PUT", "/api/v1/models/{model}/drafts/{draft}/files/{name}"): (b"abcd", 404),
    ("POST", "/api/v1/models/{model}/drafts/{draft}/commit"): (b"", 404),
    ("GET", "/api/v1/models/{model}/versions/{version}/files/{name}"): (b"", 404),
    ("DELETE", "/api/v1/models/{model}/versions/{version}"): (b"", 404),
    ("DELETE", "/api/v1/models/{model}"): (b"", 404),
    ("GET", "/api/v1/models"): (b"", 200),
    ("GET", "/api/v1/models/{model}"): (b"", 404),
    ("PATCH", "/api/v1/models/{model}"): ({"description": "mine"}, 404),
    ("GET", "/api/v1/models/{model}/versions"): (b"", 404),
    ("GET", "/api/v1/models/{model}/versions/{version}"): (b"", 404),
    ("GET", "/api/v1/models/{model}/history"): (b"", 404),
    ("GET", "/api/v1/models/{model}/diff"): (b"", 404),
    ("PUT", "/api/v1/models/{model}/aliases/{alias}"): ({"version": 1}, 404),
    ("DELETE", "/api/v1/models/{model}/aliases/{alias}"): (b"", 404),
    ("GET", "/api/v1/models/{model}/traffic"): (b"", 404),
    ("PATCH", "/api/v1/models/{model}/traffic"): ({"split": {"1": 1.0}}, 404),
    ("POST", "/api/v1/models/{model}/rollback"): (b"", 404),
    ("GET", "/api/v1/models/{model}/monitoring"): (b"", 404),
    ("GET", "/api/v1/models/{model}/drift"): (b"", 404),
    ("GET", "/api/v1/models/{model}/versions/{version}/profile"): (b"", 404),
    ("PUT", "/api/v1/models/{model}/versions/{version}/profile"): (
        {"inputs": {"x": [[1.0]]}, "outputs": {}},
        404,
    ),
    ("DELETE", "/api/v1/models/{model}/versions/{version}/profile"): (b"", 404),
    ("POST", "/api/v1/feedback"): ({"items": [{"request_id": "r", "label": "a"}]}, 200),
    ("GET", "/api/v1/events"): (b"", 200),
    ("GET", "/api/v1/datasets"): (b"", 200),
    ("POST", "/api/v1/datasets/{dataset}/drafts"): (
        {"files": [{"name": "a.csv", "size": 4, "sha256": DIGEST}]},
        201,
    ),
    ("GET", "/api/v1/datasets/{dataset}/drafts/{draft}"): (b"", 404),
    ("DELETE", "/api/v1/datasets/{dataset}/drafts/{draft}"): (b"", 404),
    ("PUT", "/api/v1/datasets/{dataset}/drafts/{draft}/files/{name}"): (b"abcd", 404),
    ("POST", "/api/v1/datasets/{dataset}/drafts/{draft}/commit"): (b"", 404),
    ("GET", "/api/v1/datasets/{dataset}/versions"): (b"", 404),
    ("GET", "/api/v1/datasets/{dataset}/versions/{version}"): (b"", 404),
    ("GET", "/api/v1/datasets/{dataset}/versions/{version}/data"): (b"", 404),
    ("DELETE", "/api/v1/datasets/{dataset}/versions/{version}"): (b"", 404),
    ("DELETE", "/api/v1/datasets/{dataset}"): (b"", 404),
    ("POST", "/api/v1/jobs"): ({"spec": SPEC}, 404),
    ("GET", "/api/v1/jobs"): (b"", 200),
    ("GET", "/api/v1/jobs/{job}"): (b"", 404),
    ("DELETE", "/api/v1/jobs/{job}"): (b"", 404),
    ("POST", "/api/v1/jobs/{job}/cancel"): (b"", 404),
    ("GET", "/api/v1/jobs/{job}/events"): (b"", 404),
    ("GET", "/api/v1/jobs/{job}/log"): (b"", 404),
    ("GET", "/api/v1/jobs/{job}/files/{name}"): (b"", 404),
    ("GET", "/api/v1/recipes"): (b"", 200),
    ("GET", "/api/v1/recipes/{recipe}"): (b"", 200),
    ("POST", "/v1/files"): (b"", 415),
    ("GET", "/v1/files"): (b"", 200),
    ("GET", "/v1/files/{file}"): (b"", 404),
    ("GET", "/v1/files/{file}/content"): (b"", 404),
    ("DELETE", "/v1/files/{file}"): (b"", 404),
    ("POST", "/v1/batches"): (
        {"input_file_id": "{file}", "endpoint": "/v1/embeddings", "completion_window": "24h"},
        404,
    ),
    ("GET", "/v1/batches"): (b"", 200),
    ("GET", "/v1/batches/{batch}"): (b"", 404),
    ("POST", "/v1/batches/{batch}/cancel"): (b"", 404),
    # Who shares the server, and what they use
    ("GET", "/api/v1/me"): (b"", 200),
    ("GET", "/api/v1/keys"): (b"", 200),
    ("POST", "/api/v1/keys"): ({"name": "mine", "scopes": ["keys:admin"]}, 201),
    ("GET", "/api/v1/keys/{key}"): (b"", 404),
    ("DELETE", "/api/v1/keys/{key}"): (b"", 404),
    ("POST", "/api/v1/keys/{key}/rotate"): (b"", 404),
    ("GET", "/api/v1/usage"): (b"", 200),
    ("GET", "/api/v1/prices"): (b"", 200),
    ("GET", "/api/v1/statements/{month}"): (b"", 200),
    ("GET", "/api/v1/audit"): (b"", 200),
    ("GET", "/api/v1/audit/export"): (b"", 200),
    ("GET", "/api/v1/audit/report"): (b"", 200),
    **dict.fromkeys(
        (
            ("GET", "/api/v1/tenants"),
            ("POST", "/api/v1/tenants"),
            ("GET", "/api/v1/tenants/{tenant}"),
            ("PATCH", "/api/v1/tenants/{tenant}"),
            ("POST", "/api/v1/tenants/{tenant}/suspend"),
            ("POST", "/api/v1/tenants/{tenant}/resume"),
            ("POST", "/api/v1/tenants/{tenant}/erase"),
            ("GET", "/api/v1/tenants/{tenant}/erasure"),
            ("GET", "/api/v1/plans"),
            ("POST", "/api/v1/plans"),
            ("GET", "/api/v1/plans/{plan}"),
            ("PATCH", "/api/v1/plans/{plan}"),
            ("DELETE", "/api/v1/plans/{plan}"),
            ("POST", "/api/v1/prices"),
            ("DELETE", "/api/v1/prices/{price}"),
            ("POST", "/api/v1/statements/{month}/close"),
            ("POST", "/api/v1/statements/{month}/corrections"),
            ("GET", "/api/v1/audit/verify"),
        ),
        (b"", 403),
    ),
}
# Whose answers have no end, or tell of what was asked in between.
STREAMS: Final = {"/api/v1/events", "/api/v1/audit", "/api/v1/audit/export", "/api/v1/audit/report"}
# Of the whole server, which tell of what one may know: `test_two_tenants` has what they tell.
OTHERS: Final = {
    "version": "1",
    "name": "model.onnx",
    "alias": "production",
    "region": "r",
    "month": "2026-11",
    "tenant": A,
    "plan": "unlimited",
    "price": "1",
}
RECIPE: Final = "cnn-classifier"


def plain_path(path: str) -> str:
    """As `/openapi.json` has it."""
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", path)


def filled(text: str, ids: Ids) -> str:
    """A path or a body with these ids in it."""
    for name, value in {**OTHERS, "recipe": RECIPE, **ids._asdict()}.items():
        text = text.replace("{" + name + "}", value)
    return text


def told(answer: Answer, ids: Ids) -> tuple[int, Any, str]:
    """What an answer says, but for the ids that were asked for and that of the request."""
    text = answer.body.decode("utf-8", "replace")
    for kind, value in ids._asdict().items():
        if value:
            text = text.replace(value, f"<{kind}>")
    text = re.sub(r'"request_id":"[^"]*"', '"request_id":""', text)
    text = re.sub(r'"(created|expires|id|secret)":("[^"]*"|[0-9.]+)', r'"\1":0', text)
    kept = sorted(
        name for name in answer.headers if name not in ("x-request-id", "content-length", "etag")
    )
    return answer.status, kept, text


@pytest_asyncio.fixture
async def theirs(world: World, data: Any) -> Ids:
    """One of each kind of object, all of tenant A."""
    asked = {"files": [{"name": "model.onnx", "size": 4, "sha256": DIGEST}]}
    draft = await world.a("POST", "/api/v1/models/okapis/drafts", asked)
    assert draft.status == 201, draft.body
    with bringing(data, A) as bringer:
        digest = bringer.keep(b"{}\n")

        def work(connection: Connection) -> tuple[str, str, str]:
            connection.execute(
                DATASETS.insert().values(
                    tenant=A,
                    name="figures-7",
                    number=1,
                    state="ready",
                    digest=digest,
                    size=3,
                    rows=1,
                    columns=[{"name": "label", "kind": "category", "distinct": 2}],
                    format="csv",
                    lineage={},
                    created=0.0,
                    created_by="me",
                )
            )
            put = partial(queue.enqueue, connection, tenant=A, by="me")
            spec = {"kind": "evaluate", "model": "okapis@1", "dataset": "figures-7@1"}
            job = put(kind="evaluate", subject="okapis", spec=spec)
            file = FileRow(new_id(), A, "a.jsonl", "batch", digest, 3, 0.0, "me")
            add_file(connection, file)
            spec = {"kind": "batch", "file": file.id, "endpoint": "/v1/embeddings"}
            batch = put(kind="batch", subject=file.id, spec=spec)
            claimed = queue.claim(connection, "somebody")
            while claimed is not None:
                made = JobFile(name="model.onnx", size=3, sha256=digest)
                queue.succeed(connection, claimed.hold, JobResult(files=[made]))
                claimed = queue.claim(connection, "somebody")
            return job.id, file.id, batch.id

        job, file, batch = bringer.database.submit(work).result()
    draft_id, key = draft.json()["id"], (await world.a("GET", "/api/v1/me")).json()["key_id"]
    return Ids("okapis", draft_id, "figures-7", job, file, "", f"batch_{batch}", key)


def operations(world: World) -> set[tuple[str, str]]:
    """All there are: those of the router, and infer, which is none of it."""
    found = {key for key in TABLE if key[1].endswith("/infer")}
    for route in world.app._routes._router.routes:
        if "misnamed" not in route.path:
            methods = (route.methods or {"GET"}) - {"HEAD"}
            found |= {(method, plain_path(route.path)) for method in methods}
    return found


async def asked(ask: Asking, method: str, path: str, ids: Ids) -> Answer:
    body, _ = TABLE.get((method, path), (b"", 0))
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    text = filled(text.decode("latin-1"), ids).encode("latin-1")
    kind = (
        "application/octet-stream" if method == "PUT" and "/files/" in path else "application/json"
    )
    if path == "/v1/audio/transcriptions":
        kind = f"multipart/form-data; boundary={FORM}"
    query = "?old=1&new=1" if path.endswith("/diff") else ""
    return await ask(method, filled(path, ids) + query, text, {"content-type": kind})


async def test_the_table_here_is_the_whole_table(world: World) -> None:
    assert operations(world) == set(TABLE)


async def test_what_is_anothers_is_told_as_what_never_was(world: World, theirs: Ids) -> None:
    for path in sorted({path for _, path in TABLE} - STREAMS):
        for method in METHODS:
            answers = [await asked(world.b, method, path, ids) for ids in (theirs, ABSENT)]
            foreign, absent = map(told, answers, (theirs, ABSENT))
            assert foreign == absent, (method, path)
            if (method, path) in TABLE:
                assert foreign[0] == TABLE[method, path][1], (method, path, foreign)
            elif method != "HEAD":
                assert foreign[0] in (403, 404, 405), (method, path, foreign)
            assert A not in foreign[2], (method, path)


async def test_its_owner_finds_all_of_it_afterwards(world: World, theirs: Ids) -> None:
    """What the walk above asks for is there, and what it tried has changed nothing."""
    for path in sorted({path for _, path in TABLE} - STREAMS):
        for method in METHODS:
            await asked(world.b, method, path, theirs)
    for method, path in sorted(TABLE):
        if method == "GET" and TABLE[method, path][1] == 404 and "profile" not in path:
            answer = await asked(world.a, method, path, theirs)
            if "/datasets/{dataset}/drafts" in path:
                continue  # the draft is one of a model
            assert answer.status == 200, (path, answer.body)


async def test_a_stream_of_events_tells_of_ones_own(world: World, data: Any) -> None:
    """Of what both change, each is told its own."""
    for ask, name in ((world.a, "okapis"), (world.b, "m")):
        answer = await ask("PATCH", f"/api/v1/models/{name}", {"description": "changed"})
        assert answer.status == 200
    events: Any = ChangeRoutes(world.app._platform._feed, lambda: False)._events(B, 0)
    seen = b""
    async with asyncio.timeout(60):
        while seen.count(b"event: ") < 2:  # it was brought, and described
            seen += await anext(events)
    await events.aclose()
    assert b'"m"' in seen
    assert b"okapis" not in seen


async def test_a_route_without_a_scope_keeps_the_server_from_starting() -> None:
    with pytest.raises(ValueError, match="/new/thing"):
        check_declared([Route("/new/thing", lambda request: None)])
    route: BaseRoute = ScopedRoute("/new/thing", lambda request: None, ("infer",))
    check_declared([route])


async def test_each_scope_opens_its_routes_alone(world: World, keys: Keys, data: Any) -> None:
    """A key with one scope is refused by its name wherever another is needed, body unread."""
    tenants = Tenants(data)
    scopes = ("infer", "models:read", "models:write", "usage:read", "keys:admin", "audit:read")
    given = {scope: tenants.key("gamma", [scope]) for scope in scopes}
    await world.app._platform.tenancy.identities.refresh()
    table = {
        (method, plain_path(route.path)): route.needs
        for route in world.app._routes._router.routes
        for method in (route.methods or ())
        if "misnamed" not in route.path
    }
    table |= {key: ("infer",) for key in TABLE if key[1].endswith("/infer")}
    for (method, path), needs in sorted(table.items()):
        if path in STREAMS or method == "HEAD":
            continue
        for scope, key in given.items():
            answer = await asked(Asking(world.call, key), method, path, ABSENT)
            may = not needs or ANY_KEY in needs or scope in needs
            assert (answer.status != 403) is may, (method, path, scope, answer.body)
            if not may:
                assert f"'{needs[0]}'" in answer.body.decode()


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "asgi"])
async def test_what_is_answered_past_the_router_needs_its_scope_too(
    world: World, data: Any, lane: bool
) -> None:
    """A model of tenant A, asked for with keys of A that may read or infer."""
    may, may_not = (Tenants(data).key(A, [scope]) for scope in ("infer", "models:read"))
    await world.app._platform.tenancy.identities.refresh()
    call = EdgeCaller(world.app, lane=lane)
    tensor, texts = {"inputs": [TENSOR]}, {"instances": ["good"]}
    for path, body in (
        ("/v2/models/okapis/infer", tensor),
        ("/v1/models/moods:predict", texts),
        ("/predict", {"text": "good", "model": "moods"}),
    ):
        answer = await call("POST", path, body, {"authorization": f"Bearer {may_not}"})
        assert (answer.status, answer.json()["code"]) == (403, "forbidden"), path
        answer = await call("POST", path, body, {"authorization": f"Bearer {may}"})
        assert answer.status != 403, path
    assert ("/v2/models/okapis/infer" in call.passed_on) is not lane


async def test_the_document_tells_the_scopes(world: World) -> None:
    paths = (await world.operator("GET", "/openapi.json")).json()["paths"]
    assert {"bearer": ["infer"]} in paths["/v2/models/{model}/infer"]["post"]["security"]
    assert {"key": ["models:write"]} in paths["/api/v1/jobs"]["post"]["security"]
    assert paths["/v2/health/live"]["get"]["security"] == [{}]


@pytest.mark.parametrize(
    ("client", "more", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("10.0.0.1", {}, 401),
        ("127.0.0.1", {"x-forwarded-for": "10.0.0.1"}, 401),
        ("127.0.0.1", {"authorization": "Bearer wrong"}, 401),
    ],
    ids=["near", "near by IPv6", "far", "through a proxy", "with a wrong key"],
)
async def test_metrics_are_for_the_operator_and_this_machine(
    world: World, client: str, more: dict[str, str], status: int
) -> None:
    answer = await world.call("GET", "/metrics", headers=more, client=client)
    assert answer.status == status
    assert (await world.operator("GET", "/metrics")).status == 200
    assert (await world.b("GET", "/metrics")).status == 403
