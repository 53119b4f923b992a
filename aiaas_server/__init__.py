"""The model server: `aiaas serve --models DIR`, or `aiaas_server.app.create_app(settings)`."""

from __future__ import annotations

__version__ = "0.1.0"
