"""The management routes, `/api/v1/…`."""
