"""What to send and how to read the answer, one family of calls a file; no I/O."""
