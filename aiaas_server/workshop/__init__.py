"""Data sets and jobs of a server, wired together: what `--data` adds beside the registry."""
