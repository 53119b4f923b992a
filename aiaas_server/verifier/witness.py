"""Looks on while a golden set is run, so that it becomes the reference of the version's traffic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.events import Caller
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.monitor.features import Layout
from aiaas_server.monitor.learning import joined
from aiaas_server.monitor.profile import make_profile

_MOST_BYTES: Final = 64 << 20
"""Of tensors that are held; what comes after them is not looked at."""
_MOST_TOLD: Final = 2 << 20
"""Of a profile as it is told."""


class Witness:
    """A `Tap` of the version on trial."""

    def __init__(self, model: LoadedModel) -> None:
        self._layout = Layout(model.signature, model.card, model.labels)
        self._inputs: list[Mapping[str, Array]] = []
        self._outputs: list[Mapping[str, Array]] = []
        self._bytes = 0

    def __call__(self, inputs: Mapping[str, Array], outcome: Outcome, caller: Caller) -> None:
        """Keep a request and its answer."""
        size = sum(array.nbytes for array in (*inputs.values(), *outcome.outputs.values()))
        if self._bytes + size > _MOST_BYTES:
            return
        self._bytes += size
        self._inputs.append(_own(inputs))
        self._outputs.append(_own(outcome.outputs))

    def profile(self) -> dict[str, Any] | None:
        """What was seen as a reference; None where it is too little, or too much to tell."""
        blocks = self._layout.inputs(self._inputs) + self._layout.outputs(self._outputs)
        try:
            document = make_profile(joined(blocks), "golden").document()
        except ValueError:
            return None
        return document if len(json.dumps(document)) <= _MOST_TOLD else None


def _own(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: a.copy() if a.flags.writeable else a for name, a in arrays.items()}
