"""Every task documents a card, and the card is one."""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module

import pytest

from aiaas_client.protocol.predictions import PREDICTIONS
from aiaas_server.core.describe.card import read_card
from aiaas_server.tasks import TASKS


@pytest.mark.parametrize("module", sorted(set(TASKS.values())))
def test_the_card_in_the_documentation_is_a_card(module: str) -> None:
    text = inspect.getdoc(import_module(module)) or ""
    found = re.search(r"^ {4}(\{.*?\})$\n*^(?! {4})", text + "\n\n.", re.DOTALL | re.MULTILINE)
    assert found, "the docstring has no example card"
    card = read_card(json.dumps(json.loads(found[1])).encode())
    assert TASKS[card.task] == module


def test_every_task_but_the_pipeline_says_what_it_answers() -> None:
    assert set(TASKS) - set(PREDICTIONS) == {"pipeline"}
    assert set(PREDICTIONS) <= set(TASKS)
