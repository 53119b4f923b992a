"""The tasks: one file each, loaded late, chosen by the name in a model's card."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from aiaas_server.core.card import Assets, Card
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
    "pipeline": "aiaas_server.tasks.pipeline",
}


class Tasks:
    """The known tasks: ours and those of installed packages (entry points `aiaas.tasks`)."""

    def __init__(self, others: Mapping[str, OpenTask] | None = None) -> None:
        """`others`: third parties' by name; a name of ours cannot be replaced."""
        self._others = dict(others or {})

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
        if name in self._others:
            return self._others[name]
        known = ", ".join(sorted([*TASKS, *self._others]))
        raise LoadFailed(f"model.json: unknown task '{name}'; known: {known}")


def _not_installed(task: str, error: ModuleNotFoundError) -> LoadFailed:
    return LoadFailed(
        f"task '{task}' needs the package '{error.name}': pip install \"aiaas-client[tasks]\""
    )
