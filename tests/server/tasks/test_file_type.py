"""File types: both ends of the file as the model was trained to see them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from aiaas_client.protocol.predictions import FileType
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.tasks.file_type import ends
from tests.task_bundles import first_byte

TYPES = {"png": {"mime_type": "image/png", "group": "image", "description": "PNG image"}}
CARD = {
    "task": "file-type",
    "labels": ["elf", "png"],
    "preprocessing": {"block": 16, "size": 4},
    "postprocessing": {"content_types": "types.json"},
}
FILES = {"types.json": orjson.dumps(TYPES)}


@pytest.mark.parametrize(
    ("content", "row"),
    [
        pytest.param(b"abcdefgh", [*b"abcd", *b"efgh"], id="both ends"),
        pytest.param(b" \n abc", [*b"abc", 256, *b" abc"], id="leading whitespace"),
        pytest.param(b"ab \n", [*b"ab", 32, 10, 256, 256, *b"ab"], id="trailing whitespace"),
        pytest.param(b"x", [*b"x", 256, 256, 256, 256, 256, 256, *b"x"], id="short"),
    ],
)
def test_both_ends_are_stripped_and_padded_outwards(content: bytes, row: list[int]) -> None:
    assert ends(content, 16, 4, 256).tolist() == row


def test_only_the_blocks_at_the_ends_are_looked_at() -> None:
    content = b" " * 16 + b"hidden" + b"\n" * 16
    assert ends(content, 16, 4, 256).tolist() == [256] * 8


def test_a_file_has_its_label_and_mime_type(open_bundle: Any) -> None:
    found = open_bundle(first_byte(8), CARD, FILES).predict(b"\x89PNG\r\n\x1a\n....")
    assert found == FileType(
        label="png", mime="image/png", score=1.0, group="image", description="PNG image"
    )


def test_a_type_without_an_entry_is_an_octet_stream(open_bundle: Any) -> None:
    found = open_bundle(first_byte(8), CARD, FILES).predict(b"\x7fELF........")
    assert (found.label, found.mime) == ("elf", "application/octet-stream")


@pytest.mark.parametrize(
    ("content", "label"),
    [pytest.param(b"hi", "txt", id="text"), pytest.param(b"\xff\xfe\xfd", "unknown", id="bytes")],
)
def test_very_short_files_are_told_by_being_text(
    open_bundle: Any, content: bytes, label: str
) -> None:
    assert open_bundle(first_byte(8), CARD, FILES).predict(content).label == label


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param("text", "got a text; the bytes of a file", id="text"),
    ],
)
def test_what_is_no_file_is_told(open_bundle: Any, payload: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        open_bundle(first_byte(8), CARD, FILES).predict(payload)


def test_labels_must_be_as_many_as_the_model_has(open_bundle: Any) -> None:
    with pytest.raises(LoadFailed, match="the card names 1, output 'scores' has 2"):
        open_bundle(first_byte(8), {**CARD, "labels": ["elf"]}, FILES)
