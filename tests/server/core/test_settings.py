"""Settings come from arguments, then the environment, then defaults, and are checked once."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from aiaas_server.settings import Settings


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
