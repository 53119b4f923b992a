"""Queues, batches and the runs that empty them."""
