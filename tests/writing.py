"""Opens the tiny language model as a server does, without the server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiaas_server.core.describe.card import Assets, Card
from aiaas_server.core.events import InferenceRecord
from aiaas_server.core.generation import GenerationLimits, Served
from aiaas_server.core.session import Session
from aiaas_server.core.statistics import Statistics
from aiaas_server.generate.engine import Engine
from aiaas_server.generate.opening import open_generator
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.zoo.llama.graph import Cache
from tests import tiny_llm


class TinyWriter:
    """The generator over the tiny model, and what it counts into.

    Args:
        kept: How its graph keeps keys and values.
        without: Files that are missing.
        files: Those that are others, or more.
        generation: What its card says different.
    """

    def __init__(
        self,
        directory: Path,
        limits: GenerationLimits | None = None,
        *,
        kept: Cache = "shared",
        without: tuple[str, ...] = (),
        files: Mapping[str, bytes] = MappingProxyType({}),
        **generation: Any,
    ) -> None:
        self.records: list[InferenceRecord] = []
        self.statistics = Statistics()
        self.path = tiny_llm.write_model(directory, kept=kept, **generation)
        for name in without:
            (self.path / name).unlink()
        for name, content in files.items():
            (self.path / name).write_bytes(content)
        self.session: Session = open_session(self.path / "model.onnx")
        card = Card.model_validate(tiny_llm.card(**generation))
        self.engine: Engine = open_generator(
            card,
            Assets(lambda name: (self.path / name).read_bytes(), {}),
            self.session,
            Served("tiny", 1, self.statistics, (self.records.append,)),
            lambda name: open_session(self.path / name),
            limits or GenerationLimits(),
        )

    def close(self) -> None:
        """End the thread, and wait for it."""
        self.engine.close()
        assert self.engine.wait_closed(300.0), "the thread that writes does not end"
        self.session.close()
