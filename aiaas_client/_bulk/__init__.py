"""Many items in few requests: bulk calls and coalescing."""
