"""`Client` and `AsyncClient`, and all that hangs on them, have the same names and arguments."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest

from aiaas_client import (
    AsyncAudit,
    AsyncBatcher,
    AsyncClient,
    AsyncDatasetHandle,
    AsyncDatasets,
    AsyncJobHandle,
    AsyncJobs,
    AsyncKeys,
    AsyncModel,
    AsyncModels,
    AsyncPlans,
    AsyncPrices,
    AsyncStatements,
    AsyncTaskModel,
    AsyncTenants,
    AsyncTextEmbeddingModel,
    Audit,
    Batcher,
    Client,
    DatasetHandle,
    Datasets,
    JobHandle,
    Jobs,
    Keys,
    Model,
    Models,
    Plans,
    Prices,
    Statements,
    TaskModel,
    Tenants,
    TextEmbeddingModel,
)
from aiaas_client._resources.usage import AsyncUsageAccount, UsageAccount
from aiaas_client._send.loop import LoopSender
from aiaas_client._send.threads import ThreadSender

PAIRS = [
    (ThreadSender, LoopSender),
    (Client, AsyncClient),
    (Models, AsyncModels),
    (TaskModel, AsyncTaskModel),
    (TextEmbeddingModel, AsyncTextEmbeddingModel),
    (Model, AsyncModel),
    (Batcher, AsyncBatcher),
    (Datasets, AsyncDatasets),
    (DatasetHandle, AsyncDatasetHandle),
    (Jobs, AsyncJobs),
    (JobHandle, AsyncJobHandle),
    (Audit, AsyncAudit),
    (Keys, AsyncKeys),
    (Plans, AsyncPlans),
    (Tenants, AsyncTenants),
    (UsageAccount, AsyncUsageAccount),
    (Prices, AsyncPrices),
    (Statements, AsyncStatements),
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


MARKS = re.compile(r"\b(?:async|await) |Async|\basync_|\ba(?=iter|next|close|chain|run)")
NAMES = re.compile(r"Async|async_|Loop")  # what the asynchronous one of a pair is called by


def test_the_flavours_share_what_they_can() -> None:
    """Lines of code that stand in both of a pair, after `async` and `await` are taken off."""
    found = dict(definitions())
    same = {}
    for (module, name), lines in found.items():
        plain = NAMES.sub("", name)
        if plain.startswith("Raw"):
            continue  # a list of names, each typed by its own flavour's method
        if plain != name and (twin := twin_of(found, module, plain)) is not None:
            matcher = SequenceMatcher(None, lines, twin, autojunk=False)
            same[name] = sum(block.size for block in matcher.get_matching_blocks())
    assert len(same) > 20, "the pairs are not found"
    assert sum(same.values()) < 500, same


def definitions() -> Iterator[tuple[tuple[Path, str], list[str]]]:
    """Every class and function of the client, as its lines without marks and docstrings."""
    for path in sorted((Path(__file__).parents[2] / "aiaas_client").rglob("*.py")):
        text = path.read_text("utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                told = {line for inner in ast.walk(node) for line in docstring_lines(inner)}
                body = enumerate(text.splitlines()[: node.end_lineno], 1)
                kept = [line.strip() for at, line in body if at >= node.lineno and at not in told]
                yield (path, node.name), [MARKS.sub("", line) for line in kept if line]


def docstring_lines(node: ast.AST) -> range:
    documented = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if not documented or not ast.get_docstring(node):
        return range(0)
    return range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


def twin_of(found: dict[tuple[Path, str], list[str]], module: Path, name: str) -> list[str] | None:
    """The synchronous one: beside it if it can be, else anywhere."""
    names = (f"Thread{name}", f"Blocking{name}", name)
    near = [found[module, one] for one in names if (module, one) in found]
    far = [lines for one in names for (_, other), lines in found.items() if one == other]
    return next(iter(near + far), None)
