"""`AnswerSeal`: answers that hold a secret, remembered so that only who asked can read them again.

A POST that makes a key answers with the key, once. Whoever repeats it with the same
`Idempotency-Key`, because the answer was lost on its way, is to get the same key and not a second
one. The table of such answers must not hold keys in plain: so the answer is encrypted under a key
derived from the server's secret, which is not in the database, and from the API key that the
request carried, of which the server keeps only a hash. A copy of the database opens nothing, nor
does it together with the server's secret. Another API key of the same tenant opens nothing either.
On a server without keys, for the operator in process, the server's secret alone stands for both.
"""

from __future__ import annotations

import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aiaas_server.core.errors import Conflict

_NONCE: Final = 12  # bytes


class AnswerSeal:
    """Encrypts answers.

    Args:
        secret: 32 bytes that are not in the database.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def shut(self, presented: bytes, asked: str, answer: bytes) -> bytes:
        """Encrypt an answer.

        Args:
            presented: The API key of the request.
            asked: The digest of the request, which the answer is bound to.
        """
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher(presented).encrypt(nonce, answer, asked.encode())

    def open(self, presented: bytes, asked: str, sealed: bytes) -> bytes:
        """Give an answer back.

        Raises:
            Conflict: It was given to another API key.
        """
        try:
            nonce, content = sealed[:_NONCE], sealed[_NONCE:]
            return self._cipher(presented).decrypt(nonce, content, asked.encode())
        except (InvalidTag, ValueError):
            raise Conflict("Idempotency-Key: it was used before with another API key") from None

    def _cipher(self, presented: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._secret, presented, "sha256"))
