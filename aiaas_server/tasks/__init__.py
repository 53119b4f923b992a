"""The tasks: one file each, loaded late, chosen by the name in a model's card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from aiaas_server.core.describe.card import Assets, Card
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import AnyTask, OpenTask

# Task name -> module with a function `open_task` (see `core.task.OpenTask`).
TASKS: Mapping[str, str] = {
    "text-classification": "aiaas_server.tasks.text_classification",
    "text-embedding": "aiaas_server.tasks.text_embedding",
    "image-classification": "aiaas_server.tasks.image_classification",
    "object-detection": "aiaas_server.tasks.object_detection",
    "ocr": "aiaas_server.tasks.ocr",
    "voice-activity": "aiaas_server.tasks.voice_activity",
    "keyword-spotting": "aiaas_server.tasks.keyword_spotting",
    "text-to-speech": "aiaas_server.tasks.text_to_speech",
    "file-type": "aiaas_server.tasks.file_type",
    "tabular-classification": "aiaas_server.tasks.tabular",
    "tabular-regression": "aiaas_server.tasks.tabular",
    "digits": "aiaas_server.tasks.digits",
    "automatic-speech-recognition": "aiaas_server.tasks.speech_recognition",
    "text-to-text": "aiaas_server.tasks.text_to_text",
    "text-generation": "aiaas_server.tasks.text_generation",
    "pipeline": "aiaas_server.tasks.pipeline",
}


def installed_tasks() -> Mapping[str, OpenTask]:
    """The tasks of installed packages, by their entry points `aiaas.tasks`; imported when used."""
    return {point.name: _late(point) for point in entry_points(group="aiaas.tasks")}


class Tasks:
    """The known tasks: ours and those of installed packages.

    Args:
        find_others: Gives third parties' by name; a name of ours cannot be replaced. Asked for a
            name that is not ours: to read what all packages say of themselves takes long.
    """

    def __init__(self, find_others: Callable[[], Mapping[str, OpenTask]] = installed_tasks) -> None:
        self._find_others = find_others

    def open(
        self, card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
    ) -> AnyTask:
        """The task of one model version.

        Raises:
            LoadFailed: An unknown task, a missing library, or a card that does not fit the model.
        """
        return self._opener(card.task)(card, assets, signature, metadata)

    def _opener(self, name: str) -> OpenTask:
        if name in TASKS:
            try:
                opener: OpenTask = import_module(TASKS[name]).open_task
            except ModuleNotFoundError as error:
                raise _not_installed(name, error) from None
            return opener
        others = self._find_others()
        if name in others:
            return others[name]
        known = ", ".join(sorted([*TASKS, *others]))
        raise LoadFailed(f"model.json: unknown task '{name}'; known: {known}")


def _not_installed(task: str, error: ModuleNotFoundError) -> LoadFailed:
    return LoadFailed(
        f"task '{task}' needs the package '{error.name}': pip install \"aiaas-client[tasks]\""
    )


def _late(point: EntryPoint) -> OpenTask:
    def open_task(
        card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
    ) -> AnyTask:
        load: Any = point.load()
        task: AnyTask = load(card, assets, signature, metadata)
        return task

    return open_task
