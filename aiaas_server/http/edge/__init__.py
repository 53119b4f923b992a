"""Connections: limits, strictness, and one exchange after another."""
