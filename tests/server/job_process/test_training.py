"""Trainings by the real process: scikit-learn's recipes from a table to a bundle that answers."""

from __future__ import annotations
