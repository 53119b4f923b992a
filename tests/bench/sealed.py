"""What encryption at rest costs: artefacts put and read, sealed against plain, on the same disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

from plan import Plan
from table import Row, at_most

from aiaas_server.state.artefacts.artefacts import Artefacts, open_artefacts
from aiaas_server.state.artefacts.data_keys import DataKeys
from aiaas_server.state.artefacts.master_keys import MasterKeys, parse_keys
from aiaas_server.state.artefacts.memory import place_of
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade

GROUP: Final = "artefacts, encrypted"
SIZE: Final = 128 << 20
MIB: Final = 1 << 20


def rows(plan: Plan) -> Iterator[Row]:
    """An artefact of 128 MiB, at least 16 of them with a smaller share."""
    root = plan.work / "sealed"
    root.mkdir(exist_ok=True)
    url = f"sqlite:///{root / 'state.db'}"
    upgrade(url)
    database = Database(url)
    keys = DataKeys(database, MasterKeys(parse_keys(os.urandom(32).hex().encode(), "drawn")))
    size = max(SIZE // 8, int(SIZE * plan.share))
    content = os.urandom(MIB) * (size // MIB)
    try:
        plain = _Measured(open_artefacts("", root / "plain"), content, root)
        memory = place_of(root)
        memory.mkdir(mode=0o700, exist_ok=True)
        sealed = _Measured(open_artefacts("", root / "sealed", keys), content, memory)
        # Of a plain file, putting it is a change of its name: there is no goal for that.
        for what, of, goal in (("put", _Measured.put, None), ("read", _Measured.read, at_most(3))):
            before, after = _least(plan, plain, of), _least(plan, sealed, of)
            yield Row(GROUP, f"{what} {size // MIB} MiB", after, "s", before, "plain", goal)
            yield Row(GROUP, f"{what}, sealed", size / after / MIB, "MiB/s")
    finally:
        database.close()
        for left in (root, place_of(root)):
            shutil.rmtree(left, ignore_errors=True)


class _Measured:
    """A store, and the bytes that are put there."""

    def __init__(self, artefacts: Artefacts, content: bytes, place: Path) -> None:
        self._artefacts = artefacts
        self._content = content
        self._place = place
        self._digest = sha256(content).hexdigest()

    def put(self) -> float:
        """Seconds from bytes to an artefact: by a file, which is in memory where it is sealed."""
        path = self._place / "incoming"
        began = time.perf_counter()
        path.write_bytes(self._content)
        self._artefacts.put("default", self._digest, path)
        return time.perf_counter() - began

    def read(self) -> float:
        """Seconds, hashed as it always is."""
        began = time.perf_counter()
        for _ in self._artefacts.pieces("default", self._digest):
            pass
        return time.perf_counter() - began


def _least(plan: Plan, store: _Measured, what: Callable[[_Measured], float]) -> float:
    return min(what(store) for _ in range(plan.rounds))
