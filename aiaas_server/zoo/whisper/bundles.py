"""Whisper tiny.en as two models of a server: one that hears, and one that writes."""

from __future__ import annotations

import json
from typing import Final

from aiaas_server.zoo import files
from aiaas_server.zoo.entry import Bundle
from aiaas_server.zoo.packages import content
from aiaas_server.zoo.whisper import graph
from aiaas_server.zoo.whisper.ctranslate2 import read_weights

NAME: Final = "whisper-tiny-en"
DECODER: Final = "whisper-tiny-en-decoder"

# Tokens of the English vocabulary; those from END on stand for no text.
END: Final = 50256
START: Final = 50257
PREVIOUS: Final = 50360
NO_SPEECH: Final = 50361
NO_TIMES: Final = 50362

AT_ONCE: Final = 4  # windows in one run: 18 MB of keys and values each, and little is won by more
LONGEST: Final = 3600  # seconds of a recording


def make(voice: str) -> tuple[Bundle, Bundle]:
    """Both bundles; `voice` names the voice-activity model that tells where to cut."""
    weights = read_weights(content(files.WHISPER_WEIGHTS))
    tokenizer = {"tokenizer.json": content(files.WHISPER_TOKENIZER)}
    encoder = graph.encoder(weights).SerializeToString()
    decoder = graph.decoder(weights).SerializeToString()
    writes = _writes(graph.size_of(weights))
    return (
        Bundle(NAME, encoder, _hears(voice), tokenizer, {"max_batch_size": AT_ONCE}),
        Bundle(DECODER, decoder, writes),
    )


def _hears(voice: str) -> dict[str, object]:
    return {
        "task": "automatic-speech-recognition",
        "description": "Whisper tiny.en: English recordings to text",
        "preprocessing": {
            "features": "log-mel",
            "bands": graph.MELS,
            "window": graph.FRAMES / 100,
            "voice": voice,
            "max_seconds": LONGEST,
        },
        "postprocessing": {
            "kind": "generation",
            "decoder": DECODER,
            "begin": [START, NO_TIMES],
            "previous": PREVIOUS,
            "no_speech": {"token": NO_SPEECH, "threshold": 0.6},
            "languages": ["en", "english"],
        },
    }


def _writes(size: graph.WhisperSize) -> dict[str, object]:
    config = json.loads(content(files.WHISPER_CONFIG))
    never = {*config["suppress_ids"], *range(END + 1, size.vocabulary)}
    return {
        "task": "text-generation",
        "description": f"What {NAME} writes with; it reads no text of its own",
        "generation": {
            "context": size.context,
            "tokenizer": "",
            "template": "",
            "end": [END],
            "cache": "separate",
            "constants": list(graph.cross_names(size.layers)),
            "suppress": sorted(never),
            "suppress_first": config["suppress_ids_begin"],
        },
    }
