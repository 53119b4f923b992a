"""How models, versions and files may be called in the registry; light enough for any process."""

from __future__ import annotations

from typing import Final

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"
"""Of a model. `stats` is taken by a route."""
ALIAS: Final = r"[A-Za-z][A-Za-z0-9_-]{0,62}"
"""Of an alias: no digit first, so that none looks like a version. `latest` is automatic."""
FILE: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""Of a file of a bundle: plain, never a path."""
PRODUCTION: Final = "production"
LATEST: Final = "latest"
