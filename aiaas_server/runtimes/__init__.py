"""Adapters of inference runtimes to `core.session.Session`."""
