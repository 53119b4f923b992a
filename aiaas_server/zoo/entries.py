"""The models of the zoo: where their files are, and the cards that make them usable.

Versions and digests are pinned. What each was checked to answer is in `docs/tasks_media.md` and in
the tests.
"""

from __future__ import annotations

import json
from typing import Any

from aiaas_server.zoo import files
from aiaas_server.zoo.entry import Bundle, ZooEntry
from aiaas_server.zoo.packages import content

NOT_BATCHED = {"max_batch_size": 0}


def _minilm() -> tuple[Bundle, ...]:
    card = {
        "task": "text-embedding",
        "description": "all-MiniLM-L6-v2, 8-bit weights: sentences to vectors of 384 numbers",
        "preprocessing": {
            "tokenizer": "tokenizer.json",
            "max_tokens": 128,
            "long_text": "truncate",
        },
        "postprocessing": {"output": "last_hidden_state", "pooling": "mean", "normalize": True},
        "batching": {  # what the mask hides changes nothing for the rest
            "pad": {
                "input_ids": {"axis": 1},
                "attention_mask": {"axis": 1},
                "token_type_ids": {"axis": 1},
            },
            "slice": {"last_hidden_state": 1},
        },
    }
    assets = {"tokenizer.json": content(files.MINILM_TOKENIZER)}
    return (Bundle("minilm", content(files.MINILM), card, assets),)


def _efficientnet() -> tuple[Bundle, ...]:
    from aiaas_server.zoo import efficientnet

    card = {
        "task": "image-classification",
        "description": "EfficientNet-Lite0: 1,000 kinds of things (ImageNet)",
        "labels": "labels.json",
        "preprocessing": {
            "resize": "shorter",
            "shorter_side": 256,
            "filter": "bicubic",
            "scale": 1,
            "mean": [127, 127, 127],
            "std": [128, 128, 128],
        },
    }
    assets = {
        "labels.json": json.dumps(efficientnet.labels(), ensure_ascii=False).encode(),
        "LICENSE": content(files.EFFICIENTNET_LICENCE),
        "LICENSE.labels": content(files.LABELS_LICENCE),
    }
    return (Bundle("efficientnet-lite0", efficientnet.build(), card, assets),)


def _magika() -> tuple[Bundle, ...]:
    config = json.loads(content(files.MAGIKA_CONFIG))
    card = {
        "task": "file-type",
        "description": "Magika standard_v3_3: 214 kinds of files by their first and last bytes",
        "labels": config["target_labels_space"],
        "preprocessing": {
            "block": config["block_size"],
            "size": config["beg_size"],
            "padding": config["padding_token"],
        },
        "postprocessing": {
            "content_types": "content_types.json",
            "min_bytes": config["min_file_size_for_dl"],
        },
    }
    assets = {"content_types.json": content(files.MAGIKA_TYPES)}
    return (Bundle("magika", content(files.MAGIKA_MODEL), card, assets),)


def _silero(name: str = "silero-vad") -> tuple[Bundle, ...]:
    card = {
        "task": "voice-activity",
        "description": "Silero VAD, 16 kHz: where somebody speaks, in clips and in streams",
        "preprocessing": {"rate": 16000, "frame": 512, "context": 64},
    }
    assets = {"LICENSE": content(files.SILERO_LICENCE)}
    return (Bundle(name, content(files.SILERO_MODEL), card, assets, NOT_BATCHED),)


def _whisper() -> tuple[Bundle, ...]:
    from aiaas_server.zoo.whisper import bundles

    # Its own, under a name of its own: whoever has pulled the other may change that one.
    return (*bundles.make(voice="whisper-tiny-en-voice"), *_silero("whisper-tiny-en-voice"))


def _ocr() -> tuple[Bundle, ...]:
    recogniser = content(files.OCR_RECOGNISER)
    card = {
        "task": "ocr",
        "description": "PP-OCRv4: Chinese and English text in pictures",
        "preprocessing": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "channels": "BGR",
            "filter": "sampled",
        },
        "postprocessing": {
            "recogniser": {"model": "pp-ocr-recogniser", "input": "x"},
            "orientation": {"model": "pp-ocr-orientation", "input": "x"},
            "characters": "characters.txt",
        },
    }
    assets = {"characters.txt": _metadata(recogniser, "character").encode()}
    return (
        Bundle("pp-ocr", content(files.OCR_DETECTOR), card, assets),
        Bundle("pp-ocr-recogniser", recogniser),
        Bundle("pp-ocr-orientation", content(files.OCR_ORIENTATION)),
    )


def _layout() -> tuple[Bundle, ...]:
    model = content(files.LAYOUT)
    card = {
        "task": "object-detection",
        "description": "PicoDet on CDLA: the parts of a document's page",
        "labels": _metadata(model, "character").split(),
        "preprocessing": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "postprocessing": {"boxes": "distributions", "threshold": 0.4, "overlap": 0.5},
    }
    return (Bundle("layout", model, card, {"LICENSE": content(files.LAYOUT_LICENCE)}, NOT_BATCHED),)


def _faces() -> tuple[Bundle, ...]:
    card = {
        "task": "object-detection",
        "description": "MTCNN: faces with eyes, nose and mouth",
        "labels": ["face"],
        "postprocessing": {
            "boxes": "cascade",
            "refine": {"model": "faces-rnet", "input": "input_2"},
            "output": {"model": "faces-onet", "input": "input_3"},
        },
    }
    return (
        Bundle("faces", content(files.PNET), card),
        Bundle("faces-rnet", content(files.RNET)),
        Bundle("faces-onet", content(files.ONET)),
    )


def _digits() -> tuple[Bundle, ...]:
    from aiaas_server.zoo import digits_cnn

    card = {
        "task": "digits",
        "description": "A small convolutional network: one handwritten digit",
        "preprocessing": {"scale": 255, "mean": 0.1307, "std": 0.3081},
    }
    assets = {"LICENSE": content(files.DIGITS_LICENCE)}
    return (Bundle("digits-cnn", digits_cnn.build(), card, assets),)


def _hibari() -> tuple[Bundle, ...]:
    card = {
        "task": "text-to-speech",
        "description": "hibari, voice heart: English text to 24 kHz speech",
        "postprocessing": {"engine": "hibari"},
    }
    assets = {"LICENSE": content(files.HIBARI_LICENCE), "NOTICE": content(files.HIBARI_NOTICE)}
    return (Bundle("hibari", content(files.HIBARI_MODEL), card, assets, NOT_BATCHED),)


def _smollm2() -> tuple[Bundle, ...]:
    from aiaas_server.zoo.llama import smollm2

    return smollm2.bundles()


def _metadata(model: bytes, key: str) -> str:
    """A value of an ONNX file's own metadata."""
    import onnx

    found: dict[str, Any] = {p.key: p.value for p in onnx.load_from_string(model).metadata_props}
    return str(found[key])


ENTRIES: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        ZooEntry(
            "minilm",
            "text-embedding",
            "Search, similarity and ranking of English sentences",
            "Apache-2.0",
            21.7,
            (files.MINILM, files.MINILM_TOKENIZER),
            _minilm,
        ),
        ZooEntry(
            "efficientnet-lite0",
            "image-classification",
            "What a photograph shows: 1,000 kinds",
            "Apache-2.0 (labels: MIT)",
            17.9,
            (
                files.EFFICIENTNET,
                files.IMAGENET_LABELS,
                files.EFFICIENTNET_LICENCE,
                files.LABELS_LICENCE,
            ),
            _efficientnet,
        ),
        ZooEntry(
            "magika",
            "file-type",
            "What kind of file some bytes are: 214 kinds",
            "Apache-2.0",
            16.2,
            (files.MAGIKA_MODEL, files.MAGIKA_CONFIG, files.MAGIKA_TYPES),
            _magika,
        ),
        ZooEntry(
            "silero-vad",
            "voice-activity",
            "Where in a recording or a stream somebody speaks",
            "MIT",
            11.3,
            (files.SILERO_MODEL, files.SILERO_LICENCE),
            _silero,
        ),
        ZooEntry(
            "whisper-tiny-en",
            "automatic-speech-recognition",
            "What is said in an English recording, and when; three models",
            "MIT",
            82.0,
            (
                files.WHISPER_WEIGHTS,
                files.WHISPER_TOKENIZER,
                files.WHISPER_CONFIG,
                files.SILERO_MODEL,
                files.SILERO_LICENCE,
            ),
            _whisper,
        ),
        ZooEntry(
            "pp-ocr",
            "ocr",
            "Chinese and English text in pictures; three models",
            "Apache-2.0",
            14.9,
            (files.OCR_DETECTOR, files.OCR_RECOGNISER, files.OCR_ORIENTATION),
            _ocr,
        ),
        ZooEntry(
            "layout",
            "object-detection",
            "Text, titles, figures and tables on a page",
            "Apache-2.0",
            6.9,
            (files.LAYOUT, files.LAYOUT_LICENCE),
            _layout,
        ),
        ZooEntry(
            "faces",
            "object-detection",
            "Faces with eyes, nose and mouth; three models",
            "MIT (as its package declares)",
            1.9,
            (files.PNET, files.RNET, files.ONET),
            _faces,
        ),
        ZooEntry(
            "digits-cnn",
            "digits",
            "One handwritten digit",
            "MIT",
            1.5,
            (files.DIGITS, files.DIGITS_LICENCE),
            _digits,
        ),
        ZooEntry(
            "hibari",
            "text-to-speech",
            "English text spoken, one voice",
            "Apache-2.0",
            14.0,
            (files.HIBARI_MODEL, files.HIBARI_LICENCE, files.HIBARI_NOTICE),
            _hibari,
            needs='pip install "aiaas-client[tts]" on the server',
            module="hibari",
        ),
        ZooEntry(
            "smollm2-135m",
            "text-generation",
            "Short answers and conversations in English",
            "Apache-2.0",
            92.9,
            (files.SMOLLM2_WEIGHTS, files.SMOLLM2_LICENCE),
            _smollm2,
            needs='pip install "aiaas-client[generate]" on the server',
            module="llguidance",
        ),
    )
}
