"""One exception tree: a class for every status and code, all of them picklable."""

from __future__ import annotations

import pickle

import pytest

from aiaas_client import _errors as errors
from aiaas_client.protocol.errors import ErrorCode

ALL = sorted(
    (one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)),
    key=lambda one: one.__name__,
)


def test_no_code_of_the_wire_is_without_a_class() -> None:
    assert set(errors.CODE_CLASSES) == set(ErrorCode)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[errors.AiaasError]) -> None:
    error = kind("broken", request_id="r1", model="m", attempts=2, elapsed=1.5)
    error.endpoint = "http://a"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == "broken"
    assert again.args == error.args


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_names_every_class(kind: type[errors.AiaasError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.ShapeError, ValueError),
        (errors.APIConnectionError, ConnectionError),
        (errors.APITimeoutError, TimeoutError),
        (errors.DeadlineExceededError, errors.APITimeoutError),
        (errors.PoolTimeoutError, errors.APITimeoutError),
        (errors.ServerDeadlineError, errors.DeadlineExceededError),
        (errors.ServerDeadlineError, errors.GatewayTimeoutError),
        (errors.ModelNotFoundError, errors.NotFoundError),
        (errors.QueueFullError, errors.ServiceUnavailableError),
        (errors.ClientClosedError, RuntimeError),
    ],
)
def test_errors_are_caught_by_the_names_python_has(
    kind: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(kind, builtin)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        pytest.param(503, "queue_full", errors.QueueFullError, id="code"),
        pytest.param(503, "no_such_code", errors.ServiceUnavailableError, id="unknown code"),
        pytest.param(404, "", errors.NotFoundError, id="no code"),
        pytest.param(404, "queue_full", errors.NotFoundError, id="code of another status"),
        pytest.param(508, "", errors.InternalServerError, id="unknown 5xx"),
        pytest.param(418, "", errors.APIStatusError, id="unknown 4xx"),
        pytest.param(504, "deadline_exceeded", errors.ServerDeadlineError, id="deadline"),
    ],
)
def test_the_class_follows_code_and_status(
    status: int, code: str, kind: type[errors.APIStatusError]
) -> None:
    assert errors.status_class(status, code) is kind


def test_every_class_of_a_status_is_reached_by_it() -> None:
    for status, kind in errors.STATUS_CLASSES.items():
        assert errors.status_class(status) is kind


def test_the_repr_tells_what_is_known_and_nothing_else() -> None:
    error = errors.QueueFullError(
        "full", status_code=503, code="queue_full", model="m", attempts=3, elapsed=0.51
    )
    shown = repr(error)
    assert shown.startswith("QueueFullError('full', ")
    for part in ("status_code=503", "code='queue_full'", "model='m'", "attempts=3", "0.510"):
        assert part in shown
    assert "retry_after" not in shown
