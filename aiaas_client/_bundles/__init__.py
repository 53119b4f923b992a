"""Bundles: the files of a version, read from a disk, sent to a server and fetched back."""
