"""Settings come from arguments, then the environment, then defaults, and are checked once."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from aiaas_server.settings import Settings, unknown_variables


def test_arguments_stand_above_the_environment_and_that_above_defaults():
    environment = {"AIAAS_SERVER_PORT": "9000", "AIAAS_SERVER_HOST": "::1", "PORT": "1"}
    settings = Settings.from_environment(environment, port=7000, host=None)
    assert (settings.port, settings.host, settings.workers) == (7000, "::1", 1)


def test_lists_are_separated_by_commas():
    environment = {"AIAAS_SERVER_PROVIDERS": "cuda, cpu", "AIAAS_SERVER_LOAD_MODELS": ""}
    settings = Settings.from_environment(environment)
    assert settings.providers == ("cuda", "cpu")
    assert settings.load_models == ()


def test_the_key_is_not_shown():
    settings = Settings.from_environment({"AIAAS_SERVER_API_KEY": "hunter2"})
    assert "hunter2" not in repr(settings)
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "hunter2"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"port": 70000}, "port"),
        ({"drain_timeout": 0}, "drain_timeout"),
        ({"default_deadline": 900}, "default_deadline"),
        ({"certfile": "cert.pem"}, "keyfile"),
        ({"providers": ""}, "providers"),
        ({"unknown": 1}, "unknown"),
        ({"max_upload_bytes": 2**31}, "max_upload_bytes"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_an_unusable_setting_is_refused_by_name(given, field):
    with pytest.raises(ValidationError, match=field):
        Settings(**given)


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_threads_and_runs_fill_the_cores_unless_they_are_set():
    free = Settings()
    assert free.threads_per_run >= 1
    assert free.runs_at_once >= 1
    fixed = Settings(intra_op_threads=3, instances=5)
    assert (fixed.threads_per_run, fixed.runs_at_once) == (3, 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GB", 8_000_000_000), ("512MiB", 512 * 2**20), ("1.5 kB", 1500), ("64KiB", 65_536),
        ("2TB", 2 * 10**12), ("1tib", 2**40), ("10B", 10), ("1000000", 1_000_000), (5, 5),
    ],
)  # fmt: skip
def test_sizes_may_have_a_unit(text, expected):
    assert Settings(memory_budget_bytes=text).memory_budget_bytes == expected
    assert Settings.from_environment({"AIAAS_SERVER_MAX_BODY_BYTES": str(text)}).max_body_bytes


@pytest.mark.parametrize("text", ["8G", "GB", "8 cats", "1e9", "", "0.5B", "8GB8", "٣GB", "-8GB"])
def test_a_size_that_is_none_says_how_sizes_are_written(text):
    with pytest.raises(ValidationError, match=r"8GB|whole number"):
        Settings(max_json_bytes=text)


def test_a_size_with_a_unit_keeps_its_bounds():
    with pytest.raises(ValidationError, match="less than 2147483648"):
        Settings(max_upload_bytes="3GiB")
    with pytest.raises(ValidationError, match="greater than 0"):
        Settings(max_json_bytes="0MB")


def test_proxies_are_addresses_and_networks():
    settings = Settings.from_environment({"AIAAS_SERVER_PROXIES": "10.0.0.0/8, 2001:db8::1"})
    assert [str(network) for network in settings.proxies] == ["10.0.0.0/8", "2001:db8::1/128"]
    with pytest.raises(ValidationError, match="address or a network"):
        Settings(proxies="proxy.example")


def test_a_misspelt_variable_is_named_with_the_nearest_setting():
    told = unknown_variables(
        {"AIAAS_SERVER_MAX_BODY_BYTE": "1", "AIAAS_SERVER_XYZZY": "1", "AIAAS_SERVER_PORT": "1"}
        | {"AIAAS_URL": "x", "PATH": "y"}
    )
    assert told == [
        "the variable AIAAS_SERVER_MAX_BODY_BYTE is no setting and changes nothing; "
        "did you mean AIAAS_SERVER_MAX_BODY_BYTES?",
        "the variable AIAAS_SERVER_XYZZY is no setting and changes nothing",
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"database_url": "postgresql://h/n"}, "database_url needs data"),
        ({"artefacts_url": "s3://bucket"}, "artefacts_url needs data"),
        ({"jobs": 1}, "jobs needs data"),
        ({"data": "d", "database_url": "mysql://me:hunter2@h/n"}, "expected postgresql://"),
        ({"data": "d", "database_url": "sqlite:///x.db"}, "expected postgresql://"),
        ({"data": "d", "database_url": "postgresql://h h/n"}, "expected postgresql://"),
        ({"data": "d", "database_url": ""}, "expected postgresql://"),
        ({"data": "d", "artefacts_url": "https://bucket"}, "expected s3://bucket"),
        ({"data": "d", "artefacts_url": "s3://"}, "expected s3://bucket"),
        ({"data": "d", "artefacts_url": "s3://UPPER"}, "expected s3://bucket"),
    ],
)
def test_where_state_is_kept_is_checked(given, told):
    with pytest.raises(ValidationError, match=told) as caught:
        Settings(**given)
    assert "hunter2" not in str(caught.value)


def test_where_state_is_kept_is_not_shown():
    url = "postgresql+psycopg://me:hunter2@[::1]:5432/name?sslmode=require"
    settings = Settings(data="d", database_url=url, artefacts_url="s3://my-bucket.a/pre/fix")
    assert "hunter2" not in f"{settings!r} {settings}"
    assert settings.database_url.get_secret_value() == url
