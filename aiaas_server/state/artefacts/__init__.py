"""The bytes of files, addressed by digest: stores, uploads, and who uses what."""
