"""What looks like a secret never gets into a log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.jobs.log_filter import LEFT_OUT, LONGEST, LogFilter, without_secrets

HEX = "0123456789abcdef" * 3


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ("Authorization: Bearer abcdefghij.klm", "abcdefghij"),
        ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        (f"using sk-proj-{HEX}", HEX),
        ("AKIAIOSFODNN7EXAMPLE is used", "AKIAIOSFODNN7EXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI"),
        ("db_password = 'correct horse'", "correct horse"),
        ('{"api_key": "abc123", "rows": 3}', "abc123"),
        ("postgresql://me:hunter2@host/db failed", "hunter2"),
        (f"ghp_{HEX[:36]}", HEX[:36]),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.sig-nature", "sig-nature"),
        ("hf_abcdefghijklmnopqrstuvwx", "abcdefghijklmnopqrstuvwx"),
    ],
)
def test_a_secret_is_left_out(line: str, secret: str) -> None:
    kept = without_secrets(line)
    assert secret not in kept
    assert LEFT_OUT in kept


@pytest.mark.parametrize(
    "line",
    [
        "epoch 3 of 10, loss 0.1234, accuracy 0.98",
        "tokens: 128 a second",
        "https://example.org/path?rows=3",
        "the tokenizer has 30,000 words; passwords are none of them",
        "category 'secretary' is rare",
    ],
)
def test_what_is_none_stays(line: str) -> None:
    assert without_secrets(line) == line


def test_a_key_over_several_lines_goes_whole() -> None:
    one = LogFilter()
    lines = [
        "before",
        "key: -----BEGIN RSA PRIVATE KEY-----",
        "MIIEow",
        "-----END RSA PRIVATE KEY-----",
    ]
    assert [one.line(text) for text in [*lines, "after"]] == [
        "before",
        f"key: {LEFT_OUT}",
        None,
        None,
        "after",
    ]


@given(st.text())
def test_no_line_is_long_or_moves_a_cursor(text: str) -> None:
    kept = without_secrets(text * 50)
    assert len(kept) <= LONGEST + 100
    assert not any(ord(sign) < 32 and sign != "\t" and sign != "\n" for sign in kept)


def test_a_bar_of_progress_tells_its_last_state() -> None:
    assert without_secrets("10%\r20%\r30%") == "30%"
