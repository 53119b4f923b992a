"""Processes for what somebody else brought: how they are started, and what they may not do."""
