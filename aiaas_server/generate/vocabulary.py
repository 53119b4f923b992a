"""The tokens of a model: texts into tokens, and tokens into bytes.

`tokenizer.json` is read by the `tokenizers` library; the way back is a table of bytes, so that a
step needs no library and a token may be half a character.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.generate.token_bytes import token_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer


_SHORT: Final = 2000  # characters; more are read without the interpreter's lock, on other threads
_MOST_TOKENS: Final = 1 << 22  # by far more than any vocabulary has; a table has a place for each
_PART: Final = 1 << 15  # characters of a long text that are counted at a time


class Vocabulary:
    """A tokenizer that is open; threads may share it.

    Attributes:
        size: Tokens that it has; a model's logits may be wider.
        special: Tokens that stand for no text, such as the end.
    """

    def __init__(
        self, tokenizer: Tokenizer, table: Sequence[bytes], special: frozenset[int], strip: int
    ) -> None:
        self._tokenizer = tokenizer
        self._table = table
        self._shown = [b"" if token in special else text for token, text in enumerate(table)]
        self._strip = strip
        self.size = len(table)
        self.special = special

    @classmethod
    def open(cls, text: str, *, shown: Iterable[str] = ()) -> Vocabulary:
        """Open a `tokenizer.json`.

        Args:
            shown: Special tokens that are text nevertheless, since they mark the calls of tools.
        Raises:
            LoadFailed: It is broken or of a kind that is not known, a token is out of range, or
                the library is missing.
        """
        tokenizer = _tokenizer(text)
        reading = token_bytes(json.loads(text).get("decoder"))
        added = tokenizer.get_added_tokens_decoder()
        tokens = tokenizer.get_vocab(with_added_tokens=True)
        last = max(tokens.values(), default=-1)
        if last >= _MOST_TOKENS:
            raise LoadFailed(f"tokenizer.json: expected tokens below {_MOST_TOKENS}, got {last}")
        table = [b""] * (last + 1)
        for content, token in tokens.items():
            # What was added is written as it is, in all families.
            table[token] = content.encode() if token in added else reading.of(content)
        kept = set(shown)
        special = frozenset(
            token for token, one in added.items() if one.special and one.content not in kept
        )
        return cls(tokenizer, table, special, reading.strip)

    def encode(self, text: str, most: int | None = None) -> list[int]:
        """The tokens of a text, without any that begin or end one; special ones are recognised.

        Args:
            most: Tokens that can be used. A text with more than twice as many is not read to its
                end: it may have millions.
        Raises:
            InvalidInput: The text has half a character, no tokens stand for a part of it, or it is
                far longer than `most`.
        """
        check_text(text, "the text")
        if most is not None and len(text) > 2 * _PART:
            self._check_length(text, most)
        return self._read(text)

    def _check_length(self, text: str, most: int) -> None:
        """A cut may make one token two, but no more: so twice as many are surely too many."""
        count = 0
        for start in range(0, len(text), _PART):
            count += len(self._read(text[start : start + _PART]))
            if count > 2 * most:
                raise InvalidInput(
                    f"the prompt has {count} tokens in the first {min(start + _PART, len(text))} "
                    f"of its {len(text)} characters; the model's context holds {most}"
                )

    def _read(self, text: str) -> list[int]:
        try:
            if len(text) <= _SHORT:
                return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
            found = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
            return list(found[0].ids)
        except Exception as error:  # the library raises bare Exception
            reason = " ".join(str(error).split())[:120]
            raise InvalidInput(f"the model's tokenizer cannot read the text: {reason}") from None

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for, a special one its name; nothing for one that there is not."""
        return self._table[token] if 0 <= token < self.size else b""

    def shown_bytes(self, token: int) -> bytes:
        """The same, but nothing for special ones."""
        return self._shown[token] if 0 <= token < self.size else b""

    def token(self, content: str) -> int | None:
        """The token of that name, such as `<|im_end|>`; None where there is none."""
        found: int | None = self._tokenizer.token_to_id(content)
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out; bytes that are no UTF-8 become U+FFFD."""
        text = b"".join(map(self.shown_bytes, tokens)).decode("utf-8", "replace")
        dropped = len(text) - len(text.lstrip(" "))
        return text[min(dropped, self._strip) :]


def check_text(text: str, name: str) -> None:
    """See that a text can be written as UTF-8.

    Raises:
        InvalidInput: It holds a lone surrogate; says where.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name}: expected whole characters, got half of one (a lone surrogate, "
            f"U+{ord(text[error.start]):04X}) at position {error.start}"
        ) from None


def _tokenizer(text: str) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise LoadFailed(
            "the package 'tokenizers' is missing: pip install \"aiaas-client[generate]\""
        ) from None
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception and ValueError
        raise LoadFailed(f"tokenizer.json is no tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
