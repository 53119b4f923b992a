"""The network behind Ray Serve with its HAProxy, as documented. `python FILE MODEL.onnx PORT`."""

import os
import sys
import time

os.environ.update(
    RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_SERVE_ENABLE_HA_PROXY="1"
)

import numpy as np
import onnxruntime
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment
class Digits:
    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.name = self.session.get_inputs()[0].name

    async def __call__(self, request: Request) -> object:
        if request.method == "GET":
            return "ready"
        image = np.array((await request.json())["image"], np.float32)
        return [output.tolist() for output in self.session.run(None, {self.name: image})]


if __name__ == "__main__":
    ray.init(address="local", include_dashboard=False, num_cpus=2)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Digits.bind(sys.argv[1]))
    while True:
        time.sleep(1)
