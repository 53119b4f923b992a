"""The network behind BentoML, as its documentation writes it. `python FILE MODEL.onnx PORT`."""

import os
import sys

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, traffic={"timeout": 60})
class Digits:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["DIGITS_MODEL"], options)
        self.name = self.session.get_inputs()[0].name

    @bentoml.api
    def predict(self, image: np.ndarray) -> list:
        found = self.session.run(None, {self.name: image.astype(np.float32)})
        return [output.tolist() for output in found]


if __name__ == "__main__":
    from pathlib import Path
    from subprocess import call

    here = Path(__file__)
    command = ["-m", "bentoml", "serve", f"{here.stem}:Digits", "--working-dir", str(here.parent)]
    command += ["--host", "127.0.0.1", "--port", sys.argv[2]]
    environment = {"DIGITS_MODEL": sys.argv[1], "BENTOML_DO_NOT_TRACK": "1"}
    sys.exit(call([sys.executable, *command], env={**os.environ, **environment}))
