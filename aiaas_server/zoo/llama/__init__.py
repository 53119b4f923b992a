"""Language models of the Llama family: a checkpoint's weights in, an ONNX graph out."""
