"""Handles on models: what they check, send and hand out."""
