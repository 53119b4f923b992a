"""A model as the lists of KServe and OpenAI tell it."""

from __future__ import annotations

from typing import Any

from aiaas_client.protocol.predictions import json_schema_of
from aiaas_server.core.model import LoadedModel


def describe(model: LoadedModel, *, brief: bool = False) -> dict[str, Any]:
    """A model as KServe (`name`, `ready`) and OpenAI (`id`, `object`) tell it, and its task."""
    card = model.card
    about: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "aiaas",
        "name": model.name,
        "ready": True,
        "version": str(model.version),
        "task": card.task if card is not None else None,
    }
    if brief or card is None or model.task is None:
        return about
    about |= {
        "description": card.description,
        "licence": card.licence,
        "metrics": card.metrics,
        "input": model.task.input,
        "params_schema": model.task.params.model_json_schema(),
        "prediction_schema": json_schema_of(card.task),
    }
    if model.generator is not None:
        about["context"] = model.generator.context
    columns = getattr(model.task, "columns", None)  # of tabular tasks
    return about if columns is None else {**about, "columns": columns}


def is_part(model: LoadedModel) -> bool:
    """Whether it only writes tokens, for another model that knows what they mean.

    A decoder of recordings is one: nobody who looks for a model to talk to can call it.
    """
    return model.generator is not None and not model.generator.reads_text
