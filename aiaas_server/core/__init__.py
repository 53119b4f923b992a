"""Models, queues and batches: no HTTP, no onnxruntime, no storage."""
