"""Keys as they are sent: drawn whole, and told apart from what was cut or changed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_client.protocol.tenants import MadeKey
from aiaas_server.http.auth import _whole_key
from aiaas_server.observe.stderr import redact
from aiaas_server.tenancy.secrets import key_id, new_key

ANYWHERE = st.integers(0, 66)


def test_a_key_is_67_characters_of_its_alphabet() -> None:
    drawn = {new_key() for _ in range(200)}
    assert len({one.id for one in drawn}) == 200
    for one in drawn:
        assert re.fullmatch(r"aias_[a-z0-9]{12}_[A-Za-z0-9_-]{49}", one.text)
        assert key_id(one.text.encode()) == one.id


@given(ANYWHERE, st.binary(min_size=1, max_size=1))
def test_a_key_that_was_changed_in_one_place_is_none(at: int, byte: bytes) -> None:
    whole = new_key().text.encode()
    changed = whole[:at] + byte + whole[at + 1 :]
    assert (key_id(changed) is None) == (changed != whole)


@given(ANYWHERE)
def test_a_part_of_a_key_is_none(end: int) -> None:
    whole = new_key().text.encode()
    assert key_id(whole[:end]) is None
    assert key_id(whole[end + 1 :]) is None
    assert key_id(whole + whole[: end + 1]) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_a_failure(given: bytes) -> None:
    key_id(given)


@given(st.text(max_size=20), st.sampled_from([" ", "=", "'", '"', "\n", "(", "/", ",", "_", "x"]))
def test_no_key_stands_in_a_log(around: str, joint: str) -> None:
    key = new_key()
    shown = redact(f"{around}{joint}{key.text}{joint}{around}")
    assert key.text[18:] not in shown


def test_no_key_stands_in_a_representation() -> None:
    key = new_key()
    made = MadeKey(id=key.id, tenant="acme", secret=key.text)
    for shown in (repr(made), str(made), f"{made}", made._repr_html_()):
        assert key.text not in shown
        assert key.id in shown
    assert made.model_dump()["secret"] == key.text


@pytest.mark.parametrize("query", ["a={key}", "{key}", "x=1&a%5B%5D={key}"])
def test_a_key_in_a_url_is_seen_whatever_its_name(query: str) -> None:
    assert _whole_key(query.format(key=new_key().text).encode())
