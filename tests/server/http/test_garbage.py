"""Once the models are loaded, a full collection has next to nothing to look at."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.waiting import until


async def test_a_served_process_is_settled_until_it_stops(
    make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    app = create_app(Settings(models=make_repository({"m": onnx_models.scale()})))
    gc.unfreeze()  # what these tests keep from the collector themselves
    messages: asyncio.Queue[Any] = asyncio.Queue()
    messages.put_nowait({"type": "lifespan.startup"})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    life = asyncio.create_task(app({"type": "lifespan"}, messages.get, send))
    async with asyncio.timeout(120):
        await until(lambda: gc.get_freeze_count() > 0)
        assert app.pool.ready
        assert gc.get_freeze_count() > 20 * len(gc.get_objects(generation=2))
        messages.put_nowait({"type": "lifespan.shutdown"})
        await life
    assert gc.get_freeze_count() == 0
    assert sent[-1]["type"] == "lifespan.shutdown.complete"


async def test_an_unloaded_model_is_freed_without_the_collector(
    make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    app = create_app(Settings(models=make_repository({"m": onnx_models.scale()})))
    async with app:
        model = app.pool.resolve("m")
        await asyncio.gather(*[model.infer({"x": np.ones((1, 4), np.float32)}) for _ in range(5)])
        gone = [weakref.ref(model.scheduler), weakref.ref(model.session)]
        gc.disable()
        try:
            await app.pool.unload("m")
            del model
            # A thread of it may be about to end.
            await until(lambda: all(reference() is None for reference in gone))
        finally:
            gc.enable()
