"""Data sets: rows, uploads, erasure. What is in them is read by processes of their own."""
