"""The logging and trace settings of one process, as the protocol changes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

Document = dict[str, Any]

_log = logging.getLogger("aiaas_server")

LOGGING: Mapping[str, Any] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
TRACING: Mapping[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}


class DynamicSettings:
    """Keeps the settings; a change is checked before it comes here.

    Attributes:
        logging: The logging settings.
        tracing: The server's trace settings.
    """

    def __init__(self) -> None:
        self.logging: Document = dict(LOGGING)
        self.tracing: Document = dict(TRACING)
        self._models: dict[str, Document] = {}  # only what differs; bounded by the models

    def change(self, kind: str, model: str, changes: Document) -> None:
        """Change settings of one kind: `logging`, `tracing` or `model_tracing`."""
        if kind == "logging":
            self.logging |= changes
            _log.setLevel(log_level(self.logging))
        elif kind == "tracing":
            for key, value in changes.items():
                self.tracing[key] = TRACING[key] if value is None else value
        else:
            own = self._models.get(model, {}) | changes
            self._models[model] = {key: value for key, value in own.items() if value is not None}

    def tracing_of(self, model: str) -> Document:
        """A model's trace settings: its own where it has some, else the server's."""
        return self.tracing | self._models.get(model, {})


def log_level(settings: Mapping[str, Any]) -> int:
    """The logger's level that the protocol's switches mean."""
    if settings["log_verbose_level"] > 0:
        return logging.DEBUG
    for key, level in (
        ("log_info", logging.INFO),
        ("log_warning", logging.WARNING),
        ("log_error", logging.ERROR),
    ):
        if settings[key]:
            return level
    return logging.CRITICAL
