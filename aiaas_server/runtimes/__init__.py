"""Adapters of inference runtimes to `core.session.Session`."""

import os

# ONNX Runtime reads it once, when it is imported first: it would keep a data base of its use below
# HOME, and send it. Whoever wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
