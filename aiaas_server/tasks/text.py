"""Text into tensors: checked, tokenized or hashed, and long text cut into windows.

Two encoders with one method, `encode(texts) -> Encoded`: a `tokenizer.json` (the `tokenizers`
library) and hashed character n-grams. Rows are padded to a multiple of `pad_to`, so that texts
of similar length have one shape and share batches.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.card import Assets
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.tasks.task import TaskSettings, need

# Names under which exported encoders take the parts of a tokenized text.
PARTS = ("input_ids", "attention_mask", "token_type_ids")


class TextSettings(TaskSettings):
    """Preprocessing of a text model.

    Attributes:
        features: `tokenizer`: the asset `tokenizer`; `hashed`: character n-grams, hashed by CRC-32
            into `buckets`; `text`: the text itself, for graphs that take strings.
        max_tokens: Longest row, special tokens included; n-grams for `hashed`.
        long_text: What happens to longer text: `windows` (all of it, in several rows) or
            `truncate`.
        stride: Tokens that neighbouring windows share.
        max_characters: Longer text is refused.
        ngrams: Lengths of the character n-grams.
        normalize: Unicode form applied first.
        pad_to: Rows are padded to a multiple of this.
    """

    features: Literal["tokenizer", "hashed", "text"] = "tokenizer"
    tokenizer: str = "tokenizer.json"
    max_tokens: int = Field(default=512, ge=3, le=65536)
    long_text: Literal["windows", "truncate"] = "windows"
    stride: int = Field(default=0, ge=0)
    max_characters: int = Field(default=200_000, ge=1, le=50_000_000)
    buckets: int = Field(default=65536, ge=2)
    ngrams: tuple[int, ...] = (1, 2)
    lowercase: bool = False
    normalize: Literal["", "NFC", "NFKC"] = ""
    pad_to: int = Field(default=8, ge=1)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts as tensors.

    Attributes:
        tensors: By input name, `(rows, length)`.
        owners: Row -> index of its text; rows of one text are neighbours.
        mask: `(rows, length)`: 1 for what counts, 0 for padding.
        tokens: Of all texts, special tokens included.
    """

    tensors: Mapping[str, Array]
    owners: tuple[int, ...]
    mask: Array
    tokens: int


class Encoder(Protocol):
    """Texts to rows."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The rows of all texts, padded to one length."""
        ...


def check_text(payload: Any, max_characters: int, what: str = "text") -> str:
    """The payload as a text that is not empty and not too long.

    Raises:
        InvalidInput: What it is and what is accepted.
    """
    accepted = f"a text of 1 to {max_characters:,} characters is accepted"
    if not isinstance(payload, str):
        raise InvalidInput(f"{what}: got {kind_of(payload)}; {accepted}")
    if len(payload) > max_characters:
        raise InvalidInput(f"{what}: got {len(payload):,} characters; {accepted}")
    if not payload.strip():
        raise InvalidInput(f"{what} is empty; {accepted}")
    return payload


def kind_of(value: Any) -> str:
    """The JSON kind of a value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "bytes" if isinstance(value, bytes) else type(value).__name__)


def open_encoder(settings: TextSettings, assets: Assets, signature: Signature) -> Encoder:
    """The encoder that the settings ask for, checked against the model's inputs.

    Raises:
        LoadFailed: The tokenizer is missing or broken, or the model takes other inputs.
    """
    names = [spec.name for spec in signature.inputs]
    if settings.features == "tokenizer":
        unknown = [name for name in names if name not in PARTS]
        if unknown or "input_ids" not in names:
            raise LoadFailed(
                f"preprocessing: features 'tokenizer' feeds {', '.join(PARTS)}, "
                f"the model takes {', '.join(names)}"
            )
        return TokenizerEncoder(settings, assets.read(settings.tokenizer), names)
    if len(names) != 1:
        raise LoadFailed(
            f"preprocessing: features '{settings.features}' needs a model of one input, "
            f"it takes {', '.join(names)}"
        )
    if settings.features == "hashed":
        return HashedEncoder(settings, names[0])
    return PlainEncoder(settings, names[0], len(signature.inputs[0].shape))


class TokenizerEncoder:
    """Token ids by a `tokenizer.json`."""

    def __init__(self, settings: TextSettings, definition: bytes, names: Sequence[str]) -> None:
        library = need("tokenizers")
        try:
            self._tokenizer = library.Tokenizer.from_buffer(definition)
        except Exception as error:  # the library raises bare Exception and ValueError
            raise LoadFailed(f"asset '{settings.tokenizer}' is no tokenizer: {error}") from None
        padding = self._tokenizer.padding or {}
        self._pad_id = int(padding.get("pad_id", 0))
        self._tokenizer.no_padding()
        if settings.stride >= settings.max_tokens - 2:
            raise LoadFailed("preprocessing: stride must be below max_tokens - 2")
        self._tokenizer.enable_truncation(settings.max_tokens, stride=settings.stride)
        self._settings = settings
        self._names = tuple(names)
        self.vocabulary = int(self._tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Token ids, attention mask and token types, as far as the model takes them."""
        rows = []
        owners = []
        for index, text in enumerate(texts):
            first = self._tokenizer.encode(_normalized(text, self._settings))
            windows = [first]
            if self._settings.long_text == "windows":
                windows += first.overflowing
            rows += [window.ids for window in windows]
            owners += [index] * len(windows)
        return self.pack(rows, owners)

    def pack(self, rows: Sequence[Sequence[int]], owners: Sequence[int]) -> Encoded:
        """Token ids that are already there, padded to one length; cut at `max_tokens`."""
        limit = self._settings.max_tokens
        ids, mask = _padded([row[:limit] for row in rows], self._pad_id, self._settings.pad_to)
        parts = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        tensors = {name: parts[name] for name in self._names}
        return Encoded(tensors, tuple(owners), mask, int(mask.sum()))


class HashedEncoder:
    """Ids of the distinct character n-grams of a text: `1 + crc32(utf-8) % (buckets - 1)`.

    0 is padding. The order of ids carries no meaning.
    """

    def __init__(self, settings: TextSettings, name: str) -> None:
        self._settings = settings
        self._name = name

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Rows of ids; a window is a stretch of characters with at most `max_tokens` n-grams."""
        rows = []
        owners = []
        for index, text in enumerate(texts):
            for window in self._windows(_normalized(text, self._settings)):
                rows.append(hashed_ids(window, self._settings.ngrams, self._settings.buckets))
                owners.append(index)
        ids, mask = _padded(rows, 0, self._settings.pad_to)
        return Encoded({self._name: ids}, tuple(owners), mask, int(mask.sum()))

    def _windows(self, text: str) -> Iterator[str]:
        size = max(self._settings.max_tokens // len(self._settings.ngrams), 1)
        if self._settings.long_text == "truncate":
            yield text[:size]
            return
        step = max(size - self._settings.stride, 1)
        yield text[:size]
        for start in range(step, len(text) - self._settings.stride, step):
            yield text[start : start + size]


class PlainEncoder:
    """The text itself as a BYTES tensor, one row a text."""

    def __init__(self, settings: TextSettings, name: str, rank: int) -> None:
        self._settings = settings
        self._name = name
        self._rank = rank

    def encode(self, texts: Sequence[str]) -> Encoded:
        """`(texts,)`, or `(texts, 1)` where the model takes two dimensions."""
        array = np.empty(len(texts), object)
        array[:] = [_normalized(text, self._settings).encode() for text in texts]
        if self._rank == 2:
            array = array[:, None]
        mask = np.ones((len(texts), 1), np.int64)
        return Encoded({self._name: array}, tuple(range(len(texts))), mask, len(texts))


def hashed_ids(text: str, ngrams: Sequence[int], buckets: int) -> list[int]:
    """Ids of the distinct character n-grams, ascending; runs of whitespace count as one space."""
    text = " ".join(text.split())
    grams = {text[i : i + n] for n in ngrams for i in range(len(text) - n + 1)}
    return sorted({1 + zlib.crc32(gram.encode()) % (buckets - 1) for gram in grams})


def mean_of_rows(values: Array, owners: Sequence[int]) -> Array:
    """Average the rows of each owner: `(rows, n)` -> `(owners, n)`."""
    count = owners[-1] + 1
    if count == len(owners):
        return values
    starts = np.searchsorted(np.asarray(owners), np.arange(count))
    sizes = np.diff(np.append(starts, len(owners)))[:, None]
    means: Array = np.add.reduceat(values, starts, axis=0) / sizes
    return means


def _normalized(text: str, settings: TextSettings) -> str:
    if settings.normalize:
        text = unicodedata.normalize(settings.normalize, text)
    return text.lower() if settings.lowercase else text


def _padded(rows: Sequence[Sequence[int]], pad: int, multiple: int) -> tuple[Array, Array]:
    longest = max((len(row) for row in rows), default=1) or 1
    length = -(-longest // multiple) * multiple
    ids = np.full((len(rows), length), pad, np.int64)
    mask = np.zeros((len(rows), length), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return ids, mask
