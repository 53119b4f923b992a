"""Readers of what data sets are uploaded as; each gives an Arrow table with our metadata."""
