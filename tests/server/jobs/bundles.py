"""The card of an export, written as the engine of training does."""

from __future__ import annotations

import json
from pathlib import Path

from aiaas_server.jobs.recipes.recipe import Exported


def write_card(place: Path, exported: Exported) -> None:
    """`model.json` beside the model."""
    card = {"format_version": 1, "name": "m", **exported.card}
    (place / "model.json").write_text(json.dumps(card, ensure_ascii=False), "utf-8")
