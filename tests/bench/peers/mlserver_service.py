"""The network behind MLServer, as its documentation writes it. `python FILE MODEL.onnx PORT`.

The model runs inline: MLServer's parallel workers cost a request more than this model.
"""

import asyncio
import socket
import sys

import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Digits(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options)
        self.input = self.session.get_inputs()[0].name
        self.outputs_ = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        image = NumpyCodec.decode_input(payload.inputs[0])
        found = self.session.run(None, {self.input: image})
        named = zip(self.outputs_, found, strict=True)
        outputs = [NumpyCodec.encode_output(name, array) for name, array in named]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def main() -> None:
    port = int(sys.argv[2])
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=free_port(),
        metrics_port=free_port(),
        parallel_workers=0,
        debug=False,
        load_models_at_startup=False,
        access_log=False,
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="digits", implementation=Digits)])


if __name__ == "__main__":
    asyncio.run(main())
