"""The network behind BentoML, as its documentation writes it. `python FILE MODEL.onnx PORT`."""

import sys

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, traffic={"timeout": 60})
class Digits:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options)
        self.name = self.session.get_inputs()[0].name

    @bentoml.api
    def predict(self, image: np.ndarray) -> list:
        found = self.session.run(None, {self.name: image.astype(np.float32)})
        return [output.tolist() for output in found]


if __name__ == "__main__":
    from pathlib import Path
    from subprocess import call

    here = Path(__file__)
    code = (
        f"import sys; sys.argv[1:] = {sys.argv[1:]!r}; sys.path.insert(0, {str(here.parent)!r}); "
        f"import {here.stem} as service; "
        f"service.Digits.serve_http(host='127.0.0.1', port={int(sys.argv[2])})"
    )
    sys.exit(call([sys.executable, "-c", code]))
