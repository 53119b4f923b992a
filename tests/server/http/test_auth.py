"""The static key: who passes, who is slowed down."""

from __future__ import annotations

import pytest

from aiaas_server.http.auth import (
    MAX_ADDRESSES,
    MAX_FAILURES,
    FailureTable,
    KeyCheck,
    one_key,
)
from aiaas_server.http.errors import HttpError

KEY = "k" * 32
GOOD = {b"authorization": b"Bearer " + KEY.encode()}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def status(
    check: KeyCheck,
    headers: dict[bytes, bytes],
    query: bytes = b"",
    address: str = "10.0.0.1",
) -> int:
    try:
        check.check(headers, query, address)
    except HttpError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        (GOOD, b"", 200),
        ({b"authorization": b"bearer   " + KEY.encode()}, b"", 200),
        ({b"x-api-key": KEY.encode()}, b"", 200),
        (GOOD, b"unknown=1", 200),
        ({}, b"", 401),
        ({b"x-api-key": b""}, b"", 401),
        ({b"x-api-key": b"wrong"}, b"", 401),
        ({b"x-api-key": b"\xff\xfe"}, b"", 401),
        ({b"authorization": b"Basic " + KEY.encode()}, b"", 401),
        ({b"authorization": KEY.encode()}, b"", 401),
        ({b"authorization": b""}, b"", 401),
        (GOOD | {b"x-api-key": KEY.encode()}, b"", 400),
        (GOOD, b"api_key=" + KEY.encode(), 400),
        ({}, b"API_KEY=x", 400),
        ({}, b"access_token=x", 400),
    ],
    ids=repr,
)
def test_what_passes(headers: dict[bytes, bytes], query: bytes, expected: int) -> None:
    assert status(KeyCheck(one_key(KEY)), headers, query=query) == expected


def test_an_address_that_guesses_is_refused_until_its_minute_is_over() -> None:
    clock = Clock()
    check = KeyCheck(one_key(KEY), FailureTable(clock))
    wrong = {b"x-api-key": b"guess"}
    assert [status(check, wrong) for _ in range(MAX_FAILURES)] == [401] * MAX_FAILURES
    assert status(check, wrong) == 429
    assert status(check, GOOD) == 429
    assert status(check, GOOD, address="10.0.0.2") == 200
    clock.now += 60
    assert status(check, GOOD) == 200


def test_an_address_that_proved_the_key_is_not_locked_out_by_its_neighbours() -> None:
    check = KeyCheck(one_key(KEY), FailureTable(Clock()))
    assert status(check, GOOD) == 200
    for _ in range(MAX_FAILURES + 5):
        status(check, {})
    assert status(check, GOOD) == 200


def test_the_tables_do_not_grow_without_end() -> None:
    table = FailureTable(Clock())
    for number in range(MAX_ADDRESSES + 50):
        table.failed(str(number))
        table.succeeded(str(number))
    assert len(table._failures) == len(table._proven) == MAX_ADDRESSES


def test_a_unix_socket_has_no_address_and_still_needs_the_key() -> None:
    check = KeyCheck(one_key(KEY))
    check.check(GOOD, b"", "")
    with pytest.raises(HttpError):
        check.check({}, b"", "")
