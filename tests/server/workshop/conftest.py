"""A data directory and servers on it, as the tests of the registry have them."""

from tests.server.registry.conftest import bringer, data, models, open_server

__all__ = ["bringer", "data", "models", "open_server"]
