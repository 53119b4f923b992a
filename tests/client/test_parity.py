"""`Client` and `AsyncClient`, and all that hangs on them, have the same names and arguments."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from aiaas_client import (
    AsyncBatcher,
    AsyncClient,
    AsyncModel,
    AsyncModels,
    Batcher,
    Client,
    Model,
    Models,
)
from aiaas_client import _resources as resources

PAIRS = [
    (Client, AsyncClient),
    (Models, AsyncModels),
    (resources.RawClient, resources.AsyncRawClient),
    (resources.RawModels, resources.AsyncRawModels),
    (Model, AsyncModel),
    (Batcher, AsyncBatcher),
]
SYNC_ONLY = {"__enter__", "__exit__"}
ASYNC_ONLY = {"__aenter__", "__aexit__"}


def public(cls: type[Any]) -> dict[str, Any]:
    """Its own and inherited public members."""
    names = {name for one in cls.__mro__[:-1] for name in vars(one)}
    return {name: inspect.getattr_static(cls, name) for name in names if not name.startswith("_")}


def signature(member: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults; annotations differ by nature."""
    function = getattr(member, "__func__", member)
    parameters = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default) for one in parameters]


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_have_the_same_names(sync: type[Any], asynchronous: type[Any]) -> None:
    assert set(public(sync)) == set(public(asynchronous))


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_take_the_same_arguments(sync: type[Any], asynchronous: type[Any]) -> None:
    ours, theirs = public(sync), public(asynchronous)
    for name, member in ours.items():
        other = theirs[name]
        assert type(member) is type(other), name
        if not isinstance(member, property):
            assert signature(member) == signature(other), f"{sync.__name__}.{name}"


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_are_made_alike(sync: type[Any], asynchronous: type[Any]) -> None:
    ours, theirs = signature(sync.__init__), signature(asynchronous.__init__)
    assert ours == theirs


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_are_documented_alike(sync: type[Any], asynchronous: type[Any]) -> None:
    for cls in (sync, asynchronous):
        for name, member in public(cls).items():
            assert inspect.getdoc(member), f"{cls.__name__}.{name} has no docstring"


def test_both_are_context_managers_of_their_kind() -> None:
    for sync, asynchronous in ((Client, AsyncClient), (Batcher, AsyncBatcher)):
        assert set(dir(sync)) >= SYNC_ONLY
        assert set(dir(asynchronous)) >= ASYNC_ONLY
        assert not ASYNC_ONLY & set(dir(sync))
        assert not SYNC_ONLY & set(dir(asynchronous))


def test_raw_answers_exist_for_every_call_on_models() -> None:
    assert set(public(resources.RawModels)) == set(public(Models))
    for name, member in public(Models).items():
        assert signature(member) == signature(public(resources.RawModels)[name])
