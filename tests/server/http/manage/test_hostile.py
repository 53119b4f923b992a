"""Whatever is written into a path, a query or a body: an answer that names it, never an error."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.server.http.edge_caller import EdgeCaller
from tests.server.http.serving import Answer, AsgiCaller
from tests.server.registry.bringing import Bringer
from tests.server.registry.conftest import (
    OpenServer,
    bringer,
    data,
    models,
    open_server,
)

__all__ = ["bringer", "data", "models", "open_server"]

JSON = {"content-type": "application/json"}
NAMES = (
    "stats", "x" * 300, ".", "..", "a%2Fb", "..%2F..%2Fetc", "a%00b", "%C3%A4", "%ff%fe", "-x",
    "latest", "%20", "a%20b", "%0a", "m%0d%0ax", "%F0%9F%92%A5", "'%22;--", "%3Cscript%3E", "%25",
    "m%3F", "%23", "{m}", "nosuch",
)  # fmt: skip
VERSIONS = (
    "0", "-1", "1.0", "99999999999999999999", "2147483648", "9223372036854775808", "none", "%00",
    "..", "a%2Fb", "x" * 300, "%C3%A4", "1e3", "%D9%A1", "+1", "1%20", "NaN",
)  # fmt: skip
OF_A_MODEL = (
    ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/versions"), ("POST", "/drafts"),
    ("PUT", "/aliases/a"), ("DELETE", "/aliases/a"), ("GET", "/traffic"), ("PATCH", "/traffic"),
    ("POST", "/rollback"), ("GET", "/history"), ("GET", "/diff?old=1&new=2"),
    ("GET", "/monitoring"), ("GET", "/drift"), ("GET", "/drafts/d"), ("DELETE", "/drafts/d"),
    ("POST", "/drafts/d/commit"), ("PUT", "/drafts/d/files/f"), ("GET", "/versions/1"),
    ("DELETE", "/versions/1"), ("GET", "/versions/1/files/model.onnx"),
    ("GET", "/versions/1/profile"), ("PUT", "/versions/1/profile"),
    ("DELETE", "/versions/1/profile"),
)  # fmt: skip
OF_A_VERSION = (
    ("GET", "/versions/{}"), ("DELETE", "/versions/{}"), ("GET", "/versions/{}/files/model.onnx"),
    ("DELETE", "/versions/{}?force=true&replacement=1"), ("GET", "/versions/{}/profile"),
    ("PUT", "/versions/{}/profile"), ("DELETE", "/versions/{}/profile"),
    ("GET", "/diff?old={}&new=1"), ("GET", "/diff?old=1&new={}"), ("GET", "/monitoring?version={}"),
    ("GET", "/drift?version={}"), ("GET", "/versions/1/files/{}"), ("GET", "/drafts/{}"),
    ("DELETE", "/versions/1?force=true&replacement={}"), ("DELETE", "/aliases/{}"),
)  # fmt: skip
BODIES = (
    "{", "[]", "null", '"x"', "1", '{"unknown":1}', "\ufeff{}", '{"a":' * 3000, "\0",
    '{"note":"\\ud800"}', '{"note":"\\u0000"}', json.dumps({"note": "x" * 2000}), '{"note":1}',
)  # fmt: skip
ASKED = (("PATCH", ""), ("PATCH", "/traffic"), ("POST", "/rollback"), ("PUT", "/aliases/y"),
         ("POST", "/drafts"), ("PUT", "/versions/1/profile"))  # fmt: skip
DOCUMENTS = (
    ("PATCH", "", '{"policy":{"keep_last":99999999999999999999}}'),
    ("PATCH", "", '{"policy":{"keep_last":0}}'),
    ("PATCH", "", '{"policy":{"config":{"a":NaN}}}'),
    ("PATCH", "", '{"description":"\\u0000"}'),
    ("PUT", "/aliases/y", '{"version":1,"guard":{"min_requests":99999999999999999999}}'),
    ("PUT", "/aliases/y", '{"version":1,"guard":{"steps":[0.5,0.1,1.0]}}'),
    ("PUT", "/aliases/y", '{"version":1,"guard":{"window":1e309}}'),
    ("PATCH", "/traffic", '{"shadow":{"version":1,"share":NaN}}'),
    ("PATCH", "/traffic", '{"split":{"1":NaN}}'),
    ("PATCH", "/traffic", '{"split":{"1":1e309}}'),
    ("PATCH", "/traffic", '{"split":{"1":-1,"2":2}}'),
    ("PATCH", "/traffic", '{"split":{"1":0.5,"1":0.4}}'),
    ("PATCH", "/traffic", '{"split":{"01":1}}'),
    ("PATCH", "/traffic", '{"split":{"1":0.5,"٢":0.5}}'),
    ("PATCH", "/traffic", json.dumps({"split": {str(n): 0.001 for n in range(1, 1001)}})),
    ("POST", "/rollback", '{"steps":1e309}'),
)  # fmt: skip


@pytest.mark.parametrize("kind", [AsgiCaller, EdgeCaller])
async def test_nothing_that_is_written_anywhere_fails_inside(
    kind: Any, bringer: Bringer, open_server: OpenServer, onnx_models: SimpleNamespace
) -> None:
    for factor in (1.0, 2.0):
        bringer.bring("m", onnx_models.scale(factor))
    call = kind((await open_server()).app)

    async def refused(method: str, path: str, text: str = "") -> Answer:
        body = text.encode("utf-8", "surrogatepass")
        answer: Answer = await call(method, f"/api/v1/models/{path}", body, JSON)
        assert 400 <= answer.status < 500, (method, path, text[:80], answer.status, answer.body)
        assert answer.json()["error"], (method, path)
        return answer

    before = (await call("GET", "/api/v1/models/m/history")).json()
    for method, rest in OF_A_MODEL:
        for name in NAMES:
            await refused(method, name + rest, "" if method in ("GET", "DELETE") else "{}")
    for method, rest in OF_A_VERSION:
        for number in VERSIONS:
            await refused(method, "m" + rest.format(number))
    for method, rest in ASKED:
        for text in BODIES:
            await refused(method, f"m{rest}", text)
    for method, rest, text in DOCUMENTS:
        await refused(method, f"m{rest}", text)
    assert (await call("GET", "/api/v1/models/m/history")).json() == before


async def test_a_number_of_any_length_is_told_as_it_came(
    bringer: Bringer, open_server: OpenServer, onnx_models: SimpleNamespace, tmp_path: Path
) -> None:
    huge = 10**40
    bringer.bring("m", onnx_models.scale(1.0), metrics={"tokens": huge})
    call = await open_server()
    for path in ("/m/versions/1", "/m/versions"):
        answer = await call("GET", f"/api/v1/models{path}")
        assert answer.status == 200, answer.body
        assert str(huge).encode() in answer.body
