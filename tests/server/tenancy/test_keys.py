"""Keys over HTTP: what a key may make, how keys end, and what unknown ones have in common."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from aiaas_client.protocol.scopes import SCOPES
from aiaas_client.protocol.tenants import Limits
from aiaas_server.app import create_app
from aiaas_server.core.author import SERVER
from aiaas_server.state.database import Database
from aiaas_server.state.tables import IDEMPOTENCY
from aiaas_server.state.tenant_tables import KEYS, TENANTS
from aiaas_server.tenancy import key_rows
from aiaas_server.tenancy.rows import add_key
from aiaas_server.tenancy.secrets import key_id, new_key
from tests.server.tenancy.served import Served, served, settings_of
from tests.waiting import until

NOBODY = "aaaaaaaaaaaa"


@pytest.fixture
async def server(tmp_path: Path, state_url: str) -> AsyncIterator[Served]:
    found = served(tmp_path, state_url)
    async with found.app:
        yield found


def id_of(key: str) -> str:
    found = key_id(key.encode())
    assert found is not None
    return found


async def test_a_key_is_told_once_and_works_at_once(server: Served) -> None:
    await server.ask("POST", "/tenants", {"name": "acme"})
    made = await server.made(name="ci", scopes=["infer", "keys:admin", "infer"], tenant="acme")
    assert made["scopes"] == ["infer", "keys:admin"]
    assert (made["tenant"], made["expires"], made["state"]) == ("acme", None, "active")
    me = (await server.ask("GET", "/me", key=made["secret"])).json()
    assert (me["tenant"], me["key_id"]) == ("acme", made["id"])
    assert (me["scopes"], me["limits"]["in_flight"]) == (["infer", "keys:admin"], 32)
    for path in (f"/keys/{made['id']}", "/keys?tenant=acme", "/keys", "/me"):
        told = (await server.ask("GET", path)).body.decode()
        assert made["secret"] not in told
        assert "hash" not in told


async def test_lists_go_by_pages(server: Served) -> None:
    for name in "abc":
        await server.made(name=name)
    first = (await server.ask("GET", "/keys?limit=3")).json()
    assert [one["name"] for one in first["items"]] == ["c", "b", "a"]
    rest = (await server.ask("GET", f"/keys?limit=3&after={first['next']}")).json()
    assert [one["id"] for one in rest["items"]] == [id_of(server.operator)]
    assert rest["next"] is None
    foreign = server.tenants.key("acme")
    for after in (NOBODY, id_of(foreign)):
        answer = await server.ask("GET", f"/keys?after={after}")
        assert answer.status == 400
        assert b"expected what `next` told" in answer.body


ESCALATIONS: dict[str, tuple[dict[str, Any], int]] = {
    "a scope it has not": ({"scopes": ["models:write"]}, 403),
    "admin": ({"scopes": ["admin"]}, 403),
    "the operator's scope": ({"scopes": ["operator"]}, 400),
    "every scope": ({"scopes": ["*"]}, 400),
    "no scope": ({"scopes": []}, 400),
    "another tenant": ({"tenant": "default"}, 403),
    "a tenant that is not": ({"tenant": "nobody"}, 403),
    "a longer life": ({"expires_in": 7200}, 403),
    "a later end": ({"expires": time.time() + 1e7}, 403),
    "an end twice": ({"expires": time.time() + 60, "expires_in": 60}, 400),
    "an end that is over": ({"expires": 1000.0}, 400),
    "an end in no time": ({"expires_in": 0}, 400),
    "more requests": ({"limits": {"requests_per_second": 11}}, 403),
    "no limit of requests": ({"limits": {"requests_per_second": None}}, 403),
    "a larger burst": ({"limits": {"burst": 21}}, 403),
    "more in flight": ({"limits": {"in_flight": 5}}, 403),
    "more bytes": ({"limits": {"stored_bytes": 1001}}, 403),
    "more models": ({"limits": {"models": 4}}, 403),
    "more jobs": ({"limits": {"jobs": 2}}, 403),
    "more money": ({"limits": {"monthly_spend": "10.01"}}, 403),
    "more rows": ({"limits": {"rows_per_second": 101}}, 403),
    "more weight": ({"limits": {"weight": 3}}, 403),
    "an unknown limit": ({"limits": {"everything": 1}}, 400),
    "an id": ({"id": NOBODY}, 400),
    "a state": ({"state": "active"}, 400),
    "a secret": ({"secret": "aias_x"}, 400),
    "a hash": ({"hash": "00"}, 400),
    "a maker": ({"created_by": "operator"}, 400),
    "a use": ({"last_used": 1.0}, 400),
    "a revocation": ({"revoked": None}, 400),
}
OWN = Limits(
    requests_per_second=10,
    burst=20,
    rows_per_second=100,
    in_flight=4,
    stored_bytes=1000,
    models=3,
    jobs=1,
    monthly_spend=Decimal(10),
    weight=2,
)


@pytest.mark.parametrize("what", sorted(ESCALATIONS))
async def test_no_field_gives_more_than_the_maker_has(tmp_path: Path, what: str) -> None:
    server = served(tmp_path, f"sqlite:///{tmp_path / 'state.db'}")
    own = server.tenants.key(
        "acme", ["infer", "keys:admin"], limits=OWN, expires=time.time() + 3600
    )
    body, status = ESCALATIONS[what]
    async with server.app:
        answer = await server.ask("POST", "/keys", {"scopes": ["infer"], **body}, key=own)
        assert answer.status == status, answer.body
        listed = (await server.ask("GET", "/keys", key=own)).json()["items"]
        assert [one["id"] for one in listed] == [id_of(own)], "nothing was made"


async def test_what_is_left_out_is_the_makers(server: Served) -> None:
    ends = time.time() + 3600
    own = server.tenants.key("acme", ["infer", "keys:admin"], limits=OWN, expires=ends)
    await server.app._platform.tenancy.identities.refresh()  # type: ignore[union-attr]
    made = await server.made(key=own)
    assert made["expires"] == pytest.approx(ends)
    assert Limits(**made["limits"]) == OWN
    less = await server.made(key=own, limits={"requests_per_second": 2}, expires_in=60)
    assert (less["limits"]["requests_per_second"], less["limits"]["burst"]) == (2, 4)
    assert less["limits"]["in_flight"] == 4
    assert less["expires"] < ends
    free = await server.made(limits={"requests_per_second": 2})
    assert free["limits"]["in_flight"] is None
    assert (await server.made())["limits"] is None


async def test_a_foreign_key_is_as_one_that_is_not(server: Served) -> None:
    await server.ask("POST", "/tenants", {"name": "acme"})
    own = (await server.made(scopes=["keys:admin"], tenant="acme"))["secret"]
    foreign = id_of(server.operator)
    for method, suffix in (("GET", ""), ("DELETE", ""), ("POST", "/rotate")):
        answers = []
        for key in (foreign, NOBODY):
            body = {} if method == "POST" else b""
            answer = await server.ask(method, f"/keys/{key}{suffix}", body, key=own)
            answers.append((answer.status, answer.body.replace(key.encode(), b"ID")))
        assert answers[0] == answers[1]
        assert answers[0][0] == 404
    assert (await server.ask("GET", "/keys?tenant=default", key=own)).status == 403
    assert (await server.ask("GET", "/keys?tenant=nobody", key=own)).status == 403
    assert (await server.ask("GET", "/keys?tenant=acme", key=own)).status == 200


async def test_rotating_gives_the_same_rights_and_a_grace_time(server: Served) -> None:
    old = await server.made(name="app", scopes=["infer"], limits={"in_flight": 3})
    answer = await server.ask("POST", f"/keys/{old['id']}/rotate", {"grace": 100})
    new = answer.json()
    assert answer.status == 201
    for name in ("tenant", "name", "scopes", "limits", "expires"):
        assert new[name] == old[name]
    for key in (old, new):
        assert (await server.ask("GET", "/me", key=key["secret"])).status == 200
    told = (await server.ask("GET", f"/keys/{old['id']}")).json()
    assert told["replaced_by"] == new["id"]
    assert 0 < told["expires"] - time.time() <= 100
    again = await server.ask("POST", f"/keys/{old['id']}/rotate", {})
    assert again.status == 409
    assert b"rotated before" in again.body
    newest = (await server.ask("POST", f"/keys/{new['id']}/rotate", {"grace": 0})).json()
    assert (await server.ask("GET", "/me", key=new["secret"])).status == 401
    assert (await server.ask("GET", "/me", key=newest["secret"])).status == 200
    ended = await server.ask("POST", f"/keys/{new['id']}/rotate", {})
    assert ended.status == 409
    assert b"revoked" in ended.body


async def test_a_key_rotates_none_that_may_do_more(server: Served) -> None:
    await server.ask("POST", "/tenants", {"name": "acme"})
    admin = await server.made(scopes=["admin"], tenant="acme")
    small = await server.made(scopes=["keys:admin"], tenant="acme")
    for method, path in (
        ("POST", f"/keys/{admin['id']}/rotate"),
        ("DELETE", f"/keys/{admin['id']}"),
    ):
        body = {} if method == "POST" else b""
        answer = await server.ask(method, path, body, key=small["secret"])
        assert answer.status == 403, answer.body
    ends = await server.made(scopes=["keys:admin"], tenant="acme", expires_in=60)
    longer = await server.ask("POST", f"/keys/{small['id']}/rotate", {}, key=ends["secret"])
    assert longer.status == 403, "the new one would outlive who asks"


async def test_revoking_twice_is_as_once(server: Served) -> None:
    made = await server.made()
    first = await server.ask("DELETE", f"/keys/{made['id']}")
    second = await server.ask("DELETE", f"/keys/{made['id']}")
    assert first.status == second.status == 200
    assert first.json() == second.json()
    assert first.json()["state"] == "revoked"
    assert (await server.ask("GET", "/me", key=made["secret"])).status == 401


async def test_the_last_admin_key_stays(server: Served) -> None:
    own = id_of(server.operator)
    answer = await server.ask("DELETE", f"/keys/{own}")
    assert answer.status == 409
    assert b"last admin key" in answer.body
    soon = {"grace": 0, "expires_in": 60}
    assert (await server.ask("POST", f"/keys/{own}/rotate", soon)).status == 409
    await server.made(scopes=["admin"], expires_in=60)
    answer = await server.ask("DELETE", f"/keys/{own}")
    assert answer.status == 409, "one that ends is not enough"
    await server.made(scopes=["admin"])
    assert (await server.ask("DELETE", f"/keys/{own}")).status == 200


async def test_the_operator_ends_the_last_admin_key_of_others(server: Served) -> None:
    await server.ask("POST", "/tenants", {"name": "acme"})
    admin = await server.made(scopes=["admin"], tenant="acme")
    alone = await server.ask("DELETE", f"/keys/{admin['id']}", key=admin["secret"])
    assert alone.status == 409
    assert (await server.ask("DELETE", f"/keys/{admin['id']}")).status == 200


async def test_a_tenant_has_so_many_keys(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_rows, "MOST_KEYS", 2)
    made = await server.made()
    full = await server.ask("POST", "/keys", {"scopes": ["infer"]})
    assert full.status == 429
    assert full.json()["code"] == "quota_exceeded"
    await server.ask("DELETE", f"/keys/{made['id']}")
    await server.made()


async def test_a_repeated_request_gives_the_same_key_that_no_table_has(
    server: Served, state_url: str
) -> None:
    other = (await server.made(scopes=["admin"]))["secret"]
    body, headers = {"scopes": ["infer"]}, {"idempotency-key": "once"}
    first = await server.ask("POST", "/keys", body, headers=headers)
    again = await server.ask("POST", "/keys", body, headers=headers)
    assert first.status == again.status == 201
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    foreign = await server.ask("POST", "/keys", body, headers=headers, key=other)
    assert foreign.status == 409
    assert b"another API key" in foreign.body
    different = await server.ask("POST", "/keys", {"scopes": ["admin"]}, headers=headers)
    assert different.status == 409
    database = Database(state_url)
    try:
        rows = database.read_now(lambda c: c.execute(select(IDEMPOTENCY.c.answer)).all())
        everything = database.read_now(lambda c: str(c.execute(select(KEYS)).all()))
    finally:
        database.close()
    assert rows
    assert not any(b"aias_" in row.answer for row in rows)
    assert "aias_" not in everything


async def test_every_bad_key_gets_the_same_answer(server: Served, state_url: str) -> None:
    good = await server.made()
    revoked, ended = await server.made(), server.tenants.key(expires=time.time() - 1)
    await server.ask("DELETE", f"/keys/{revoked['id']}")
    suspended, erased = server.tenants.key("asleep"), server.tenants.key("gone")
    await server.ask("POST", "/tenants/asleep/suspend")
    database = Database(state_url)
    try:
        gone = update(TENANTS).where(TENANTS.c.name == "gone").values(state="erased")
        await database.write(lambda c: c.execute(gone))
    finally:
        database.close()
    identities = server.app._platform.tenancy.identities  # type: ignore[union-attr]
    await identities.refresh()
    whole, other = good["secret"], new_key().text
    crossed = whole[:18] + other[18:-6]
    bad = {
        "none": "",
        "truncated": whole[:-1],
        "truncated in the middle": whole[:30],
        "one more": whole + "A",
        "lower case": whole.lower(),
        "upper case": whole.upper(),
        "unknown id": other,
        "wrong secret": crossed + _checksum(crossed),
        "wrong checksum": whole[:-6] + ("AAAAAA" if whole[-6:] != "AAAAAA" else "BBBBBB"),
        "revoked": revoked["secret"],
        "ended": ended,
        "suspended tenant": suspended,
        "erased tenant": erased,
        "two in one": f"{whole},{whole}",
        "not ASCII": whole[:-1] + "é",
    }
    answers = {}
    for index, (name, key) in enumerate(sorted(bad.items())):
        answer = await server.ask("GET", "/me", key=key, client=f"192.0.2.{index}")
        headers = {k: v for k, v in answer.headers.items() if k != "date"}
        answers[name] = (answer.status, answer.body, headers)
    assert {name: answer[0] for name, answer in answers.items()} == dict.fromkeys(bad, 401)
    assert len({str(answer) for answer in answers.values()}) == 1, answers
    assert (await server.ask("GET", "/me", key=whole)).status == 200


def _checksum(body: str) -> str:
    from aiaas_server.tenancy import secrets

    return secrets._checksum(body.encode())


async def test_keys_in_two_places_or_in_the_url_are_refused_as_such(server: Served) -> None:
    whole, unknown = server.operator, new_key().text
    for key in (whole, unknown):
        both = await server.ask("GET", "/me", key=key, headers={"x-api-key": key})
        assert both.status == 400
        for query in (f"api_key={key}", f"token={key}", f"x-api-key={key}", f"a=1&{key}"):
            answer = await server.ask("GET", f"/me?{query}", key=key)
            assert answer.status == 400, query
            assert b"in the URL is refused" in answer.body
            assert key.encode() not in answer.body
        escaped = "%61ias_" + key[5:]
        for path in (f"/me?x={escaped}", f"/models/{key}", f"/keys/{escaped}", f"/models/a/{key}"):
            answer = await server.ask("GET", path, key=key)
            assert answer.status == 400, path
            assert b"in the URL is refused" in answer.body
            assert key[20:].encode() not in answer.body


EXTREMES: list[dict[str, Any]] = [
    *({"requests_per_second": rate} for rate in (5e-324, 1e-300, 1e-7, 1e10, 1e308)),
    *({"rows_per_second": rate} for rate in (5e-324, 1e308)),
    *({name: 10**40} for name in ("burst", "in_flight", "stored_bytes", "models", "jobs")),
    *({"weight": weight} for weight in (5e-324, 1e-300, 1001)),
    *({"monthly_spend": much} for much in ("1E+999999999", "1e1000000", "0." + "1" * 400, "NaN")),
]


@pytest.mark.parametrize("limits", EXTREMES, ids=lambda one: f"{one}"[:40])
async def test_limits_that_nobody_can_reckon_with_are_refused(
    server: Served, limits: dict[str, Any]
) -> None:
    asked = {"scopes": ["infer"], "limits": limits}
    for path, body in (("/keys", asked), ("/plans", {"name": "p", "limits": limits})):
        answer = await server.ask("POST", path, body)
        assert answer.status == 400, answer.body
        assert f"limits.{next(iter(limits))}" in answer.json()["error"]


@pytest.mark.parametrize("number", [0.001, 1e9])
async def test_the_ends_of_what_limits_may_be_are_reckoned_with(
    server: Served, number: float
) -> None:
    count = 10**9 if number > 1 else 1
    limits = {
        "requests_per_second": max(number / 1000, 1e-6),
        "rows_per_second": max(number / 1000, 1e-6),
        "burst": count,
        "in_flight": count,
        "stored_bytes": 2**62,
        "weight": min(number, 1000),
        "monthly_spend": "1000000000000000",
    }
    made = await server.made(limits=limits)
    for _ in range(3):
        answer = await server.ask("GET", "/me", key=made["secret"])
        assert answer.status in (200, 429), answer.body
    assert (await server.ask("GET", "/me")).status == 200


async def test_a_part_that_cannot_take_a_table_of_keys_leaves_the_others_theirs(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenancy = server.app._platform.tenancy  # type: ignore[union-attr]
    heard: list[object] = []

    def fails(directory: object) -> None:
        raise OverflowError

    monkeypatch.setattr(tenancy.identities, "_listeners", [fails, heard.append])
    made = await server.made()
    assert heard
    assert (await server.ask("DELETE", f"/keys/{made['id']}")).status == 200
    assert (await server.ask("GET", "/me", key=made["secret"])).status == 401


async def test_a_flood_of_bad_keys_blocks_its_address_alone(server: Served) -> None:
    for _ in range(20):
        answer = await server.ask("GET", "/me", key=new_key().text, client="192.0.2.7")
        assert answer.status == 401
    blocked = await server.ask("GET", "/me", client="192.0.2.7")
    assert blocked.status == 429
    assert int(blocked.headers["retry-after"]) >= 1
    assert (await server.ask("GET", "/me", client="192.0.2.8")).status == 200


async def test_unknown_and_known_ids_cost_the_same_work(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiaas_server.tenancy import identities

    hashes: list[bytes] = []
    real = identities.hashed
    monkeypatch.setattr(
        identities, "hashed", lambda pepper, given: (hashes.append(given), real(pepper, given))[1]
    )
    find = server.app._platform.tenancy.identities.find  # type: ignore[union-attr]
    known = server.operator[:18] + new_key().text[18:-6]
    for key in (new_key().text, known + _checksum(known)):
        hashes.clear()
        assert find(key.encode()) is None
        assert len(hashes) == 1
    hashes.clear()
    assert find(server.operator[:-1].encode()) is None
    assert not hashes, "what is no key costs nothing"


async def test_a_revoked_key_is_refused_by_the_other_server(tmp_path: Path, state_url: str) -> None:
    first = served(tmp_path, state_url)
    made = first.tenants.key("acme")
    second = Served(create_app(settings_of(tmp_path, state_url)), first.tenants, first.operator)
    async with first.app, second.app:
        assert (await second.ask("GET", "/me", key=made)).status == 200
        identities = second.app._platform.tenancy.identities  # type: ignore[union-attr]
        identities._interval = 1e6  # it is the feed that tells, not the next look
        assert (await first.ask("DELETE", f"/keys/{id_of(made)}")).status == 200
        await until(lambda: id_of(made) not in identities.directory.keys)
        assert (await second.ask("GET", "/me", key=made)).status == 401
        again = await first.made(scopes=["infer"], tenant="acme")
        await until(lambda: again["id"] in identities.directory.keys)
        assert (await second.ask("GET", "/me", key=again["secret"])).status == 200


async def test_a_key_that_was_just_revoked_elsewhere_makes_no_other(
    server: Served, state_url: str
) -> None:
    own = await server.made(scopes=["keys:admin", "infer"])
    await server.app._platform.tenancy.identities.close()  # type: ignore[union-attr]
    database = Database(state_url)
    try:  # as another server does, before its change is heard of here
        revoked = update(KEYS).where(KEYS.c.id == own["id"]).values(revoked=time.time())
        await database.write(lambda c: c.execute(revoked))
    finally:
        database.close()
    assert (await server.ask("GET", "/me", key=own["secret"])).status == 200
    for method, path, body in (
        ("POST", "/keys", {"scopes": ["infer"]}),
        ("POST", f"/keys/{own['id']}/rotate", {}),
    ):
        answer = await server.ask(method, path, body, key=own["secret"])
        assert answer.status == 403
        assert b"has ended" in answer.body


async def test_a_key_rotates_none_of_higher_limits(server: Served) -> None:
    own = await server.made(scopes=["keys:admin", "infer"], limits={"in_flight": 2})
    other = await server.made(scopes=["infer"], limits={"in_flight": 3})
    answer = await server.ask("POST", f"/keys/{other['id']}/rotate", {}, key=own["secret"])
    assert answer.status == 403
    assert b"limits.in_flight" in answer.body


async def test_the_last_use_is_written_and_not_lost_on_the_way_down(
    tmp_path: Path, state_url: str
) -> None:
    server = served(tmp_path, state_url)
    began = time.time()
    async with server.app:
        made = await server.made()
        await server.ask("GET", "/me", key=made["secret"])
        told = (await server.ask("GET", f"/keys/{made['id']}")).json()
        assert told["last_used"] is None
        await server.app._platform.tenancy._last_used.write()  # type: ignore[union-attr]
        told = (await server.ask("GET", f"/keys/{made['id']}")).json()
        assert told["last_used"] % 60 == 0
        assert began - 60 <= told["last_used"] <= time.time()
        second = await server.made()
        await server.ask("GET", "/me", key=second["secret"])
    database = Database(state_url)
    try:
        asked = select(KEYS.c.last_used).where(KEYS.c.id == second["id"])
        assert database.read_now(lambda c: c.execute(asked).scalar()) is not None
    finally:
        database.close()


async def test_keys_are_not_made_where_none_are_asked_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    app = create_app(settings_of(tmp_path, url, tenants=False))
    async with app:
        server = Served(app, None, "")  # type: ignore[arg-type]
        answer = await server.ask("POST", "/keys", {"scopes": list(SCOPES)})
        assert answer.status == 409
        assert b"--tenants" in answer.body
        me = (await server.ask("GET", "/me")).json()
        assert (me["tenant"], me["key_id"]) == ("default", "")
        assert "operator" in me["scopes"]
        assert "*" not in me["scopes"]


async def test_an_erased_tenant_gets_no_keys(server: Served, state_url: str) -> None:
    await server.ask("POST", "/tenants", {"name": "gone"})
    database = Database(state_url)
    try:
        gone = update(TENANTS).where(TENANTS.c.name == "gone").values(state="erased")
        await database.write(lambda c: c.execute(gone))
        made = new_key()
        with pytest.raises(Exception, match="is erased"):
            await database.write(
                lambda c: add_key(
                    c, SERVER, key=made.id, tenant="gone", digest=b"", name="", scopes=[]
                )
            )
    finally:
        database.close()
    answer = await server.ask("POST", "/keys", {"scopes": ["infer"], "tenant": "gone"})
    assert answer.status == 409
    for method, path, body in (
        ("POST", "/tenants", {"name": "gone"}),
        ("POST", "/tenants/gone/resume", b""),
        ("PATCH", "/tenants/gone", {"description": "back"}),
    ):
        answer = await server.ask(method, path, body)
        assert answer.status == 409
        assert b"never used twice" in answer.body
