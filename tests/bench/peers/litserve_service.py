"""The network behind LitServe, as its documentation writes it. `python FILE MODEL.onnx PORT`."""

import sys

import litserve
import numpy as np
import onnxruntime


class Digits(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options)
        self.name = self.session.get_inputs()[0].name

    def decode_request(self, request):
        return np.array(request["image"], np.float32)

    def predict(self, image):
        return self.session.run(None, {self.name: image})

    def encode_response(self, outputs):
        return {"outputs": [output.tolist() for output in outputs]}


if __name__ == "__main__":
    server = litserve.LitServer(Digits(), accelerator="cpu")
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False
    )
