"""`client.models` and its like: one file a resource, both flavours side by side."""
