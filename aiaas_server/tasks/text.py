"""Text into tensors: checked, tokenized or hashed, and long text cut into windows.

Two encoders with one method, `encode(texts) -> Encoding`: a `tokenizer.json` (the `tokenizers`
library) and hashed character n-grams. Rows are padded to a multiple of `pad_to`, so that texts
of similar length have one shape and share batches.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.tasks.ngrams import Ids, hashed_ids, tables_for
from aiaas_server.tasks.task import TaskSettings, need

# Names under which exported encoders take the parts of a tokenized text.
PARTS = ("input_ids", "attention_mask", "token_type_ids")
HALF_CHARACTER = "the text holds half of a character (a lone surrogate)"


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
        whitespace: `collapse` makes one space of each run, and none at the ends.
        pad_to: Rows are padded to a multiple of this.
    """

    features: Literal["tokenizer", "hashed", "text"] = "tokenizer"
    tokenizer: str = "tokenizer.json"
    max_tokens: int = Field(default=512, ge=3, le=65536)
    long_text: Literal["windows", "truncate"] = "windows"
    stride: int = Field(default=0, ge=0)
    max_characters: int = Field(default=200_000, ge=1, le=50_000_000)
    buckets: int = Field(default=65536, ge=2, le=1 << 32)
    ngrams: tuple[int, ...] = (1, 2)
    lowercase: bool = False
    normalize: Literal["", "NFC", "NFKC"] = ""
    whitespace: Literal["keep", "collapse"] = "keep"
    pad_to: int = Field(default=8, ge=1)


class Encoding(NamedTuple):
    """Texts as tensors.

    Attributes:
        tensors: By input name, `(rows, length)`.
        owners: Row -> index of its text; rows of one text are neighbours.
        sizes: `(rows,)`: how much of each row counts; the rest is padding.
        length: Of the rows.
    """

    tensors: Mapping[str, Array]
    owners: tuple[int, ...]
    sizes: Sequence[int]
    length: int

    @property
    def tokens(self) -> int:
        """Of all texts, special tokens included."""
        return sum(self.sizes)

    @property
    def mask(self) -> Array:
        """`(rows, length)`: 1 for what counts, 0 for padding."""
        counts = np.asarray(self.sizes)[:, None]
        return (np.arange(self.length) < counts).astype(np.int64)


class Encoder(Protocol):
    """Texts to rows."""

    def encode(self, texts: Sequence[str]) -> Encoding:
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
    if not payload.isascii():
        try:
            payload.encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"{what}: {HALF_CHARACTER}") from None
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
        return TokenizerEncoder(settings, assets.read_text(settings.tokenizer), names)
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

    def __init__(self, settings: TextSettings, definition: str, names: Sequence[str]) -> None:
        library = need("tokenizers")
        try:
            self._tokenizer = library.Tokenizer.from_str(definition)
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

    def encode(self, texts: Sequence[str]) -> Encoding:
        """Token ids, attention mask and token types, as far as the model takes them."""
        rows = []
        owners = []
        for index, text in enumerate(texts):
            first = tokenized(self._tokenizer, _normalized(text, self._settings))
            windows = [first]
            if self._settings.long_text == "windows":
                windows += first.overflowing
            rows += [window.ids for window in windows]
            owners += [index] * len(windows)
        return self.pack(rows, owners)

    def pack(self, rows: Sequence[Sequence[int]], owners: Sequence[int]) -> Encoding:
        """Token ids that are already there, padded to one length; cut at `max_tokens`."""
        limit = self._settings.max_tokens
        kept = [row[:limit] for row in rows]
        ids = _padded(kept, self._pad_id, self._settings.pad_to)
        tensors: dict[str, Array] = dict.fromkeys(self._names, ids)
        encoded = Encoding(tensors, tuple(owners), [len(row) for row in kept], ids.shape[1])
        if "attention_mask" in tensors:
            tensors["attention_mask"] = encoded.mask
        if "token_type_ids" in tensors:
            tensors["token_type_ids"] = np.zeros_like(ids)
        return encoded


def tokenized(tokenizer: Any, text: str) -> Any:
    """The library's encoding of a text.

    Raises:
        InvalidInput: The tokenizer has no token for a part of it, nor one for the unknown.
    """
    try:
        return tokenizer.encode(text)
    except Exception as error:  # the library raises bare Exception
        reason = " ".join(str(error).split())[:120]
        raise InvalidInput(f"the model's tokenizer cannot read the text: {reason}") from None


class HashedEncoder:
    """Ids of the distinct character n-grams of a text, see `ngrams`.

    0 is padding. The order of ids carries no meaning.
    """

    def __init__(self, settings: TextSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        tables_for(settings.ngrams)  # made now, so that no request waits for them

    def encode(self, texts: Sequence[str]) -> Encoding:
        """Rows of ids; a window is a stretch of characters with at most `max_tokens` n-grams."""
        rows = []
        owners = []
        for index, text in enumerate(texts):
            for window in self._windows(_normalized(text, self._settings)):
                rows.append(hashed_ids(window, self._settings.ngrams, self._settings.buckets))
                owners.append(index)
        ids = _padded(rows, 0, self._settings.pad_to)
        sizes = [len(row) for row in rows]
        return Encoding({self._name: ids}, tuple(owners), sizes, ids.shape[1])

    def _windows(self, text: str) -> list[str]:
        size = max(self._settings.max_tokens // len(self._settings.ngrams), 1)
        windows = [text[:size]]
        if len(text) > size and self._settings.long_text == "windows":
            stride = self._settings.stride
            step = max(size - stride, 1)
            windows += [text[i : i + size] for i in range(step, len(text) - stride, step)]
        return windows


class PlainEncoder:
    """The text itself as a BYTES tensor, one row a text."""

    def __init__(self, settings: TextSettings, name: str, rank: int) -> None:
        self._settings = settings
        self._name = name
        self._rank = rank

    def encode(self, texts: Sequence[str]) -> Encoding:
        """`(texts,)`, or `(texts, 1)` where the model takes two dimensions."""
        array = np.empty(len(texts), object)
        array[:] = [_normalized(text, self._settings).encode() for text in texts]
        if self._rank == 2:
            array = array[:, None]
        return Encoding({self._name: array}, tuple(range(len(texts))), [1] * len(texts), 1)


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
    if settings.whitespace == "collapse":
        text = " ".join(text.split())
    return text.lower() if settings.lowercase else text


def _padded(rows: Sequence[Sequence[int] | Ids], pad: int, multiple: int) -> npt.NDArray[np.int64]:
    """`(rows, length)`: filled up with `pad` to the longest row, rounded up to a multiple."""
    longest = max([len(row) for row in rows], default=1) or 1
    shape = len(rows), -(-longest // multiple) * multiple
    ids = np.full(shape, pad, np.int64) if pad else np.zeros(shape, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return ids
