"""SmolLM2-135M-Instruct out of its package."""

from __future__ import annotations

from dataclasses import replace

from aiaas_server.zoo import files
from aiaas_server.zoo.entry import Bundle
from aiaas_server.zoo.llama.bundle import make_bundle
from aiaas_server.zoo.llama.gguf_file import read_gguf
from aiaas_server.zoo.packages import content


def bundles() -> tuple[Bundle, ...]:
    """The model, float32."""
    checkpoint = read_gguf(files.SMOLLM2_WEIGHTS.path)
    # Its makers recommend 0.2; with weights of four bits the capital of France then is "L'Étoile".
    checkpoint = replace(checkpoint, defaults={"temperature": 0.0})
    card = {"description": "SmolLM2-135M-Instruct: short answers in English, 8,192 tokens"}
    assets = {"LICENSE": content(files.SMOLLM2_LICENCE)}
    # It was trained to write calls in this form, which its template does not show.
    bundle = make_bundle("smollm2-135m", checkpoint, tools="hermes", card=card, assets=assets)
    return (bundle,)
