"""Signs certificates of erasures, by Ed25519, so that others can verify them without the server."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aiaas_client.protocol.erasure import Certificate, canonical
from aiaas_server.tenancy.secrets import ServerSecret

PURPOSE = "erasure"


class Signer:
    """The server's key for certificates, which its secret tells.

    Attributes:
        public_key: What verifies them, hexadecimal.
    """

    def __init__(self, secret: ServerSecret) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret.derive(PURPOSE))
        self.public_key = self._key.public_key().public_bytes_raw().hex()

    def signed(self, certificate: Certificate) -> Certificate:
        """The certificate with the public key and the signature in it."""
        named = certificate.model_copy(update={"public_key": self.public_key, "signature": ""})
        signature = self._key.sign(canonical(named.model_dump(mode="json")))
        return named.model_copy(update={"signature": signature.hex()})
