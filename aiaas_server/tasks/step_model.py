"""How a card names another model of the same server that its task runs."""

from __future__ import annotations

from aiaas_server.tasks.task import TaskSettings


class StepModel(TaskSettings):
    """Another model and its one input.

    Attributes:
        model: Its name in the repository.
        input: The tensor it takes.
        version: 0 is the latest.
    """

    model: str
    input: str
    version: int = 0
