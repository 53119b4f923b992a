"""Smaller and faster graphs out of one, and what each of them is worth on this machine."""
