"""The tokens of a model: texts into tokens, and tokens into bytes.

`tokenizer.json` is read by the `tokenizers` library; the way back is a table of bytes, so that a
step needs no library and a token may be half a character.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.generate.token_bytes import token_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer


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
            LoadFailed: It is broken or of a kind that is not known, or the library is missing.
        """
        tokenizer = _tokenizer(text)
        reading = token_bytes(json.loads(text).get("decoder"))
        added = tokenizer.get_added_tokens_decoder()
        tokens = tokenizer.get_vocab(with_added_tokens=True)
        table = [b""] * (max(tokens.values(), default=-1) + 1)
        for content, token in tokens.items():
            # What was added is written as it is, in all families.
            table[token] = content.encode() if token in added else reading.of(content)
        kept = set(shown)
        special = frozenset(
            token for token, one in added.items() if one.special and one.content not in kept
        )
        return cls(tokenizer, table, special, reading.strip)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without any that begin or end one; special ones are recognised.

        Raises:
            InvalidInput: The text has half a character, or no tokens stand for a part of it.
        """
        check_text(text, "the text")
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
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
